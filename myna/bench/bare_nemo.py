"""Run NeMo's model alone, as a user of NeMo would call it for batches of recordings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nemo.collections.asr.models import ASRModel
from nemo.utils import logging as nemo_logging


def nemo_loop(path: Path, device: torch.device, dtype: torch.dtype) -> Callable[[Sequence[bytes]], Any]:
    """Return a function that decodes a batch of int16 utterances to NeMo's hypotheses."""
    nemo_logging.setLevel(logging.ERROR)
    model = ASRModel.restore_from(str(path), map_location=device)
    model.eval()
    model.preprocessor.featurizer.dither = 0.0
    model.preprocessor.featurizer.pad_to = 0
    model.encoder.to(dtype)

    def decode(part: Sequence[bytes]) -> Any:
        audio = [torch.from_numpy(np.frombuffer(pcm, np.int16).astype(np.float32) / 32768) for pcm in part]
        lengths = torch.tensor([len(samples) for samples in audio], device=device)
        signal = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True).to(device)
        with torch.inference_mode():
            features, frames = model.preprocessor(input_signal=signal, length=lengths)
            encoded, frames = model.encoder(audio_signal=features.to(dtype), length=frames)
            return model.decoding.rnnt_decoder_predictions_tensor(encoded.float(), frames, return_hypotheses=True)

    return decode
