"""Restores a checkpoint with NeMo, on the device and in the precision that the options name.

Everything here raises `EngineUnavailableError` for what this machine or the file does not offer.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from myna.streaming.errors import EngineUnavailableError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision_of(wanted: str, device: torch.device) -> str:
    """Return the name of the encoder's precision."""
    if wanted == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if wanted not in PRECISIONS:
        raise EngineUnavailableError(f"unknown precision {wanted!r}; use auto, {', '.join(PRECISIONS)}")
    return wanted


def restored(path: Path, device: torch.device) -> Any:
    """Return NeMo's model of a .nemo file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nemo.collections.asr.models import ASRModel
        from nemo.utils import logging as nemo_logging

        nemo_logging.setLevel(logging.ERROR)
        try:
            model = ASRModel.restore_from(str(path), map_location=device)
        except (RuntimeError, KeyError, ValueError, TypeError, EOFError, OSError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise EngineUnavailableError(f"{path.name} cannot be loaded: {reason}") from error
    model.eval()
    model.requires_grad_(requires_grad=False)
    return model
