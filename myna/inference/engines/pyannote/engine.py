"""The engine of pyannote.audio: the diarizer with the models of a pipeline."""

from __future__ import annotations

from pathlib import Path

import torch

from myna.inference.engines.diarizer.engine import DiarizerEngine
from myna.inference.engines.port import ModelOptions
from myna.inference.engines.pyannote.pipeline import PipelineParts
from myna.inference.engines.torch_device import device_of


class PyannoteEngine(DiarizerEngine):
    """One pipeline on one device. Its runs, their clustering and labels are those of every diarizer."""

    def __init__(self, options: ModelOptions) -> None:
        torch.set_num_threads(max(1, options.threads))
        super().__init__(options, PipelineParts(Path(options.source), device_of(options.device, options.worker)))
