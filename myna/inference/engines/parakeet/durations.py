"""Computes the token durations of a TDT model again after decoding.

NeMo up to 3.0.0 stores durations of a later step of another row when it decodes a batch without CUDA graphs
(NVIDIA-NeMo/Speech issue 16097, fixed after that release), so that word ends would depend on the other streams of a batch.
"""

from __future__ import annotations

from typing import Any

import torch


def durations(
    computer: Any, frames: torch.Tensor, tokens: torch.Tensor, at: torch.Tensor, previous: Any
) -> torch.Tensor:
    """Return the duration of each token in frames [B, U].

    `frames` [B, T, D] are the decoded encoder frames, `tokens` [B, U] the tokens found and `at` [B, U] their frames. Entries
    beyond a row's own tokens are arbitrary. `previous` is the batched state before decoding, or None.
    """
    decoder, joint = computer.decoder, computer.joint
    rows, count = tokens.shape
    encoded = joint.project_encoder(frames)
    if previous is None:
        start = torch.full((rows, 1), computer._SOS, dtype=torch.long, device=tokens.device)
        first, state, *_ = decoder.predict(start, decoder.initialize_state(encoded), add_sos=False, batch_size=rows)
        first = joint.project_prednet(first)
    else:
        first, state = previous.predictor_outputs, previous.predictor_states
    predicted = first
    if count > 1:
        later, *_ = decoder.predict(tokens[:, :-1], state, add_sos=False, batch_size=rows)
        predicted = torch.cat([first, joint.project_prednet(later)], dim=1)
    places = at.clamp(0, frames.shape[1] - 1)[..., None].expand(-1, -1, encoded.shape[2])
    paired = encoded.gather(1, places).reshape(rows * count, 1, -1)
    logits = joint.joint_after_projection(paired, predicted.reshape(rows * count, 1, -1))
    known = computer.durations.to(tokens.device)
    return known[logits[..., -len(known) :].argmax(-1).reshape(rows, count)]
