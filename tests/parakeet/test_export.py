"""Checkpoints exported by `myna export`: what the graphs decode is what NeMo decodes, whole, followed and with keyterms."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exports import ARCHIVES, CHECKPOINTS, LAYOUTS, build, expected
from nemo.collections.asr.parts.context_biasing.boosting_graph_batched import (
    BoostingTreeModelConfig,
    GPUBoostingTreeModel,
)
from onnx import numpy_helper
from tiny import TINY, Reference, Sentence, final, follow, joined, text
from typer.testing import CliRunner

from myna.cli import app
from myna.inference.engines.boosting import BoostingTree
from myna.inference.engines.parakeet.checkpoint import inspect
from myna.inference.engines.parakeet.engine import ParakeetEngine
from myna.inference.engines.parakeet.export import export
from myna.inference.engines.parakeet.model import ParakeetModel
from myna.inference.engines.parakeet_onnx import signing
from myna.inference.engines.parakeet_onnx.engine import ParakeetOnnxEngine
from myna.inference.engines.parakeet_onnx.inspection import find
from myna.inference.engines.parakeet_onnx.model import OnnxModel, loaded
from myna.inference.engines.parakeet_onnx.pieces import Splitter
from myna.inference.engines.port import ModelOptions
from myna.inference.engines.transducer.words import Tokens
from myna.streaming.errors import EngineUnavailableError


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep changed graphs apart from the user's."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "places", lambda: iter([place]))
        yield


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("exported")
    made = {(model, layout): root / model / layout for model in CHECKPOINTS for layout in LAYOUTS}
    for (model, layout), folder in made.items():
        export(CHECKPOINTS[model], folder, layout=layout, int8=False, look_ahead=None)  # type: ignore[arg-type]
    return made


@pytest.fixture(scope="session", params=list(CHECKPOINTS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def nemos(kind: str, sentences: list[Sentence]) -> list[Tokens]:
    """What NeMo decodes from each sentence, by itself."""
    checkpoint = CHECKPOINTS[kind]
    options = ModelOptions(source=str(checkpoint), device="cpu", precision="fp32", threads=1)
    with torch.inference_mode():
        return each(ParakeetModel(inspect(checkpoint), options), sentences)


def exported(folder: Path) -> OnnxModel:
    found = find(folder)
    assert found is not None
    return loaded(found, "cpu", 1)


def each(model: Any, sentences: list[Sentence]) -> list[Tokens]:
    return [model.decode(model.encode([sentence.pcm]))[0][0] for sentence in sentences]


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_tokens_frames_and_durations_are_those_of_nemo(
    kind: str, layout: str, folders: dict[tuple[str, str], Path], nemos: list[Tokens], sentences: list[Sentence]
) -> None:
    model = exported(folders[kind, layout])
    ours = each(model, sentences)
    for a, b in zip(ours, nemos, strict=True):
        assert (a.ids, a.frames, a.durations) == (b.ids, b.frames, b.durations)
        assert np.abs(np.subtract(a.probabilities, b.probabilities)).max() <= 0.01
    audio = [sentence.pcm for sentence in sentences]
    assert [tokens for i in range(0, 40, 8) for tokens in model.decode(model.encode(audio[i : i + 8]))[0]] == ours


def test_the_archives_of_the_tests_without_torch_are_up_to_date(
    kind: str, folders: dict[tuple[str, str], Path], nemos: list[Tokens], tmp_path: Path
) -> None:
    for tokens, known in zip(nemos, expected(kind), strict=True):
        assert (tokens.ids, tokens.frames, tokens.durations) == (known["ids"], known["frames"], known["durations"])
    for layout, files in LAYOUTS.items():
        folder = build(kind, layout, tmp_path / layout)
        for name in files:
            ours, theirs = folder / name, folders[kind, layout] / name
            if not name.endswith(".onnx"):
                assert ours.read_text() == theirs.read_text()
                continue
            stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(ours).graph.initializer}
            for tensor in onnx.load(theirs).graph.initializer:
                assert np.array_equal(stored[tensor.name], numpy_helper.to_array(tensor)), tensor.name
    assert (ARCHIVES / f"{kind}.zip").stat().st_size < 200_000
    assert zipfile.is_zipfile(ARCHIVES / f"{kind}.zip")


def test_every_step_of_an_utterance_gives_the_words_of_the_nemo_engine(
    kind: str, folders: dict[tuple[str, str], Path], sentences: list[Sentence]
) -> None:
    """Short utterances, and 24 s without a pause; a cache-aware model from its first chunk on."""
    theirs = ParakeetEngine(ModelOptions(source=str(CHECKPOINTS[kind]), device="cpu", precision="fp32", threads=1))
    ours = ParakeetOnnxEngine(ModelOptions(source=str(folders[kind, "onnx-asr"])))
    for pcm in [*(sentence.pcm for sentence in sentences[:6]), joined(sentences, 24)[0]]:
        for a, b in zip(follow(ours, "s", pcm), follow(theirs, "s", pcm), strict=True):  # type: ignore[arg-type]
            assert [(w.text, w.start, w.end) for w in a.words] == [(w.text, w.start, w.end) for w in b.words]  # type: ignore[union-attr]


def test_keyterms_bring_out_the_words_that_they_bring_out_in_nemo(
    kind: str, folders: dict[tuple[str, str], Path], unseen: dict[str, np.ndarray]
) -> None:
    theirs = ParakeetEngine(ModelOptions(source=str(CHECKPOINTS[kind]), device="cpu", precision="fp32", threads=1))
    ours = ParakeetOnnxEngine(ModelOptions(source=str(folders[kind, "onnx-asr"])))
    for word, pcm in unseen.items():
        for terms in ((), (word,), (word, "Myna"), tuple(unseen)):
            (a,), (b,) = ours.transcribe([final(pcm, "f", terms)]), theirs.transcribe([final(pcm, "f", terms)])
            assert text(a) == text(b)


def test_pieces_of_text_are_those_of_sentencepiece(
    kind: str, folders: dict[tuple[str, str], Path], reference: Reference, path: Path
) -> None:
    tokenizer = reference.model.tokenizer
    splitter = Splitter(exported(folders["full", "onnx-asr"])._export.pieces)
    rng = random.Random(1)
    words = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 10))) for _ in range(2000)]
    words += [" ".join(rng.sample(words, 3)) for _ in range(500)]
    known = [word for word in words if 0 not in tokenizer.text_to_ids(word)]
    assert len(known) > 500
    assert [splitter(word) for word in known] == [tokenizer.text_to_ids(word) for word in known]


def test_boosting_scores_are_those_of_nemos_tree(reference: Reference, folders: dict[tuple[str, str], Path]) -> None:
    phrases = ["Davidson", "Annabel", "boot", "boat house", "book", "boot box", "Dave"]
    model = exported(folders["full", "onnx-asr"])
    config = BoostingTreeModelConfig(key_phrases_list=phrases)
    theirs = GPUBoostingTreeModel.from_config(config, tokenizer=reference.model.tokenizer)
    splitter = Splitter(model._export.pieces)
    ours = BoostingTree([splitter(phrase) for phrase in phrases])
    nothing = np.zeros(model._export.blank, np.float32)
    rng = random.Random(1)
    for _ in range(100):
        state, node = theirs.get_init_states(batch_size=1, bos=True), BoostingTree.ROOT
        for _ in range(12):
            scores, following = theirs.advance(state)
            bonuses = ours.bonuses(node)
            boosts = bonuses.added_to(nothing)
            assert np.array_equal(scores[0].detach().numpy(), boosts)
            promising = np.flatnonzero(boosts > boosts.min() + 0.5)
            likely = rng.random() < 0.8 and len(promising)
            token = int(rng.choice(promising.tolist())) if likely else rng.randrange(model._export.blank)
            state, node = following[:, token], bonuses.next.get(token, BoostingTree.ROOT)


def test_the_command_exports_and_says_how_many_words_differ(tmp_path: Path) -> None:
    recordings = [str(Path(__file__).parent / "held_out" / f"{n:02}.flac") for n in range(3)]
    audio = [part for recording in recordings for part in ("--audio", recording)]
    done = CliRunner().invoke(app, ["export", str(TINY), str(tmp_path / "new"), "--int8", *audio])
    assert done.exit_code == 0, done.output
    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        "encoder-model.int8.onnx", "decoder_joint-model.int8.onnx", "vocab.txt", "config.json",
    }  # fmt: skip
    size, differing = done.output.strip().splitlines()[-2:]
    assert size.endswith("new: 8 MB")
    assert differing.split(" of ")[0] in ("0", "1")
    assert differing.endswith("words differ from the checkpoint's")


def test_an_export_into_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = CliRunner().invoke(app, ["export", str(TINY), str(tmp_path)])
    assert done.exit_code == 2
    assert done.output.strip().endswith("is not empty; name a new folder")


def test_a_look_ahead_that_was_not_trained_is_refused(tmp_path: Path) -> None:
    for model, known in (("cache-aware", "its look-aheads: 6"), ("full", "none: it is not cache-aware")):
        with pytest.raises(EngineUnavailableError, match=known):
            export(CHECKPOINTS[model], tmp_path / model, layout="onnx-asr", int8=False, look_ahead=3)
