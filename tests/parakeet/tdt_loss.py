"""The TDT loss with its exact gradient, on a CPU: NeMo's implementation runs on CUDA only.

Xu et al., "Efficient Sequence Transduction by Jointly Predicting Tokens and Durations" (2023), eq. 4-6: a lattice of
frames and tokens in which a token advances by 0 or more frames and a blank by 1 or more.
"""

from __future__ import annotations

import numba
import numpy as np
import torch


@numba.njit(cache=True)
def _add(a: float, b: float) -> float:
    if a == -np.inf:
        return b
    if b == -np.inf:
        return a
    high = max(a, b)
    return high + np.log1p(np.exp(min(a, b) - high))


@numba.njit(cache=True)
def _lattice(blank, token, duration, durations, frames, tokens, d_blank, d_token, d_duration):  # type: ignore[no-untyped-def]
    """Return one utterance's negative log-likelihood, and write its gradients to the last three arguments.

    blank [T, U+1], token [T, U], duration [T, U+1, D] are log-probabilities. A path starts at (0, 0) and ends when a blank
    reaches frame T after all tokens.
    """
    t_end, u_end = frames, tokens
    alpha = np.full((t_end + 1, u_end + 1), -np.inf)
    beta = np.full((t_end + 1, u_end + 1), -np.inf)
    alpha[0, 0] = 0.0
    for t in range(t_end):
        for u in range(u_end + 1):
            here = alpha[t, u]
            if here == -np.inf:
                continue
            for k in range(len(durations)):
                after = t + durations[k]
                if after > t_end:
                    continue
                step = here + duration[t, u, k]
                if durations[k] > 0 and (after < t_end or u == u_end):
                    alpha[after, u] = _add(alpha[after, u], step + blank[t, u])
                if u < u_end and after < t_end:
                    alpha[after, u + 1] = _add(alpha[after, u + 1], step + token[t, u])
    beta[t_end, u_end] = 0.0
    for t in range(t_end - 1, -1, -1):
        for u in range(u_end, -1, -1):
            total = -np.inf
            for k in range(len(durations)):
                after = t + durations[k]
                if after > t_end:
                    continue
                if durations[k] > 0 and (after < t_end or u == u_end):
                    total = _add(total, duration[t, u, k] + blank[t, u] + beta[after, u])
                if u < u_end and after < t_end:
                    total = _add(total, duration[t, u, k] + token[t, u] + beta[after, u + 1])
            beta[t, u] = total
    whole = alpha[t_end, u_end]
    if whole == -np.inf:
        return np.inf
    for t in range(t_end):
        for u in range(u_end + 1):
            here = alpha[t, u] - whole
            if here == -np.inf:
                continue
            for k in range(len(durations)):
                after = t + durations[k]
                if after > t_end:
                    continue
                step = here + duration[t, u, k]
                if durations[k] > 0 and (after < t_end or u == u_end):
                    share = np.exp(step + blank[t, u] + beta[after, u])
                    d_blank[t, u] -= share
                    d_duration[t, u, k] -= share
                if u < u_end and after < t_end:
                    share = np.exp(step + token[t, u] + beta[after, u + 1])
                    d_token[t, u] -= share
                    d_duration[t, u, k] -= share
    return -whole


class _Tdt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, blank, token, duration, durations, frames, tokens):  # type: ignore[no-untyped-def]
        arrays = [x.detach().double().numpy() for x in (blank, token, duration)]
        gradients = [np.zeros_like(x) for x in arrays]
        losses = np.empty(len(frames))
        for b in range(len(frames)):
            losses[b] = _lattice(
                *(x[b] for x in arrays), durations, int(frames[b]), int(tokens[b]), *(g[b] for g in gradients)
            )
        ctx.save_for_backward(*(torch.from_numpy(g).to(blank.dtype) for g in gradients))
        return torch.from_numpy(losses).to(blank.dtype)

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        blank, token, duration = ctx.saved_tensors
        return (
            blank * upstream[:, None, None], token * upstream[:, None, None],
            duration * upstream[:, None, None, None], None, None, None,
        )  # fmt: skip


def tdt_loss(
    logits: torch.Tensor, targets: torch.Tensor, frames: torch.Tensor, tokens: torch.Tensor, durations: tuple[int, ...]
) -> torch.Tensor:
    """Return each utterance's negative log-likelihood.

    logits [B, T, U+1, V+1+D], the blank at V, the durations behind it; targets [B, U]; frames, tokens [B] lengths.
    """
    labels = logits[..., : -len(durations)].log_softmax(-1)
    duration = logits[..., -len(durations) :].log_softmax(-1)
    index = targets[:, None, :, None].expand(-1, labels.shape[1], -1, -1)
    token = labels[:, :, :-1].gather(-1, index).squeeze(-1)
    return _Tdt.apply(labels[..., -1], token, duration, np.array(durations), frames, tokens)
