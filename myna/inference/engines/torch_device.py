"""The device of torch that the options name."""

from __future__ import annotations

import torch

from myna.streaming.errors import EngineUnavailableError


def device_of(wanted: str, worker: int) -> torch.device:
    """Return the device. If no GPU number is given, workers are distributed over the GPUs by their number.

    Raises `EngineUnavailableError` for a device that is unknown or is not there.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise EngineUnavailableError(f"unknown device {wanted!r}; use auto, cpu, cuda, cuda:0 …") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineUnavailableError(f"device {wanted!r} is not available: torch finds no CUDA device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EngineUnavailableError(
            f"device {wanted!r} is not available: torch finds {torch.cuda.device_count()} CUDA devices"
        )
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", worker % torch.cuda.device_count())
    return device
