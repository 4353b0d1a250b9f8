"""Pipelines of pyannote.audio: the same runs as the embedded models have, no network, and what is wrong with a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from community import CONFIGURATION
from peer import settings
from sounds import contained, recording

from myna.inference.engines.catalogue import Catalogue
from myna.inference.engines.diarizer.engine import DiarizerEngine
from myna.inference.engines.port import Engine, ModelOptions
from myna.inference.engines.pyannote.engine import PyannoteEngine
from myna.inference.engines.pyannote.folder import inspect
from myna.runtime.errors import ConfigurationError
from myna.server.app import running
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import SAMPLE_RATE
from myna.streaming.session.jobs import InferenceJob, JobKind
from myna.streaming.speakers.labelling import Distances, SpeakerLimits, SpeakerTurn
from myna.streaming.speakers.recording import Recording
from myna.streaming.speakers.runs import Voices

DIALOGUE = recording("endgame_nagg_nell")
SAMPLE = Path(distribution("pyannote.audio").locate_file("pyannote/audio/sample"))
"""Half a minute of a telephone conversation, with its reference, in the wheel of pyannote.audio (MIT)."""


@pytest.fixture(scope="module")
def engine(community_folder: Path) -> PyannoteEngine:
    return PyannoteEngine(ModelOptions(source=str(community_folder), name="community-1", device="cpu", threads=1))


@pytest.fixture(scope="module")
def embedded() -> DiarizerEngine:
    return DiarizerEngine(ModelOptions())


def voices(engine: Engine, sound: np.ndarray) -> Voices:
    (found,) = engine.transcribe([InferenceJob("a", "a", JobKind.FILE, sound.tobytes(), 0.0)])
    assert isinstance(found, Voices)
    return found


def turns(engine: Engine, sound: np.ndarray) -> list[SpeakerTurn]:
    """Return who spoke when in a file."""
    whole = Recording()
    for window in [*whole.push(sound.tobytes()), *whole.end()]:
        (found,) = engine.transcribe([InferenceJob("a", "a", JobKind.FILE, window.pcm, 0.0, window=window.part)])
        assert isinstance(found, Voices)
        whole.hear(found.runs)
    return whole.turns(Distances(*engine.info.voice_distances), SpeakerLimits())


@pytest.mark.parametrize("begin_s", [0, 9, 18])
def test_the_runs_are_those_of_the_embedded_models(
    engine: PyannoteEngine, embedded: DiarizerEngine, begin_s: int
) -> None:
    window = DIALOGUE[begin_s * SAMPLE_RATE : (begin_s + 10) * SAMPLE_RATE]
    here, there = voices(engine, window).runs, voices(embedded, window).runs
    assert [(run.span, run.own, run.track, run.heard) for run in here] == [
        (run.span, run.own, run.track, run.heard) for run in there
    ]
    assert [run.embedding is None for run in here] == [run.embedding is None for run in there]
    pairs = [(run, other) for run, other in zip(here, there, strict=True) if run.embedding and other.embedding]
    assert pairs
    for run, other in pairs:
        assert run.embedding is not None
        assert other.embedding is not None
        cosine = float(np.frombuffer(run.embedding, np.float32) @ np.frombuffer(other.embedding, np.float32))
        overlapped = run.heard < len(run.span) - SAMPLE_RATE // 20
        assert cosine > (0.9 if overlapped else 0.9999)


def test_the_labels_of_a_dialogue_are_those_of_the_embedded_models(
    engine: PyannoteEngine, embedded: DiarizerEngine
) -> None:
    here, there = turns(engine, DIALOGUE), turns(embedded, DIALOGUE)
    assert {turn.speaker for turn in here} == {0, 1}
    assert [(turn.span, turn.speaker) for turn in here] == [(turn.span, turn.speaker) for turn in there]


@pytest.mark.parametrize("length_s", [0.006, 0.5, 1.0])
def test_short_sound_has_at_most_one_voice(engine: PyannoteEngine, length_s: float) -> None:
    begin = SAMPLE_RATE // 2
    found = voices(engine, DIALOGUE[begin : begin + int(length_s * SAMPLE_RATE)])
    assert len({run.track for run in found.runs}) <= 1
    assert voices(engine, np.zeros(int(length_s * SAMPLE_RATE), np.int16)).runs == ()


def test_no_time_of_a_telephone_conversation_goes_to_the_wrong_speaker(engine: PyannoteEngine) -> None:
    sound, _ = soundfile.read(SAMPLE / "sample.wav", dtype="int16")
    found = [(turn.span.start, turn.span.end, turn.speaker) for turn in turns(engine, sound)]
    lines = [line.split() for line in (SAMPLE / "sample.rttm").read_text().splitlines() if line]
    said = [(float(line[3]), float(line[3]) + float(line[4]), line[7]) for line in lines]
    names = sorted({name for *_, name in said})
    assert {speaker for *_, speaker in found} == {0, 1}
    assert len(names) == 2
    step, edges = SAMPLE_RATE // 100, [edge for begin, end, _ in said for edge in (begin, end)]
    wrong = [0, 0]
    for at in range(0, len(sound), step):
        time = at / SAMPLE_RATE
        true = {names.index(name) for begin, end, name in said if begin <= time < end}
        heard = {speaker for begin, end, speaker in found if begin <= at < end}
        if len(true) == len(heard) == 1 and min(abs(time - edge) for edge in edges) > 0.25:
            (one,), (other,) = true, heard
            wrong[one == other] += 1
    assert min(wrong) == 0
    assert max(wrong) > 1000  # hundredths of a second


async def test_a_server_tells_speakers_apart_with_a_folder(community_folder: Path) -> None:
    from aiohttp import ClientSession

    async with running(settings(diarization_model=str(community_folder), speakers_within_ms=60_000)) as server:
        assert "community-1" in server.models.pools_by_name
        async with (
            ClientSession() as session,
            session.post(
                f"{server.url}/v1/listen?diarize=true", data=contained([DIALOGUE], "flac", "flac")
            ) as response,
        ):
            assert response.status == 200
            body = json.loads(await response.text())
    words = body["results"]["channels"][0]["alternatives"][0]["words"]
    speakers = [word["speaker"] for word in words]
    assert set(speakers) == {0, 1}
    assert sum(before != after for before, after in pairwise(speakers)) >= 6
    assert body["metadata"]["diarize_info"]["model_uuid"] == inspect(community_folder).uuid


def test_a_pipeline_is_loaded_and_run_without_a_network(community_folder: Path) -> None:
    code = f"""if True:
        import socket, sys
        seen = []
        def refuse(event, arguments):
            if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
                seen.append((event, arguments[1:] if event == "socket.connect" else arguments))
                raise OSError("there is no network")
        sys.addaudithook(refuse)
        from myna.inference.engines.port import ModelOptions
        from myna.inference.engines.pyannote.engine import PyannoteEngine
        PyannoteEngine(ModelOptions(source={str(community_folder)!r}, device="cpu", threads=1)).warm_up()
        from pyannote.audio.telemetry.metrics import is_metrics_enabled, provider
        provider.force_flush()
        print(seen, is_metrics_enabled())
    """
    environment = {**os.environ, "PYANNOTE_METRICS_ENABLED": "1"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert ended.stdout.strip().splitlines()[-1:] == ["[] False"], ended.stderr[-2000:]


def changed(community_folder: Path, folder: Path, name: str, data: bytes | None) -> Path:
    """Return a copy of the folder, with other data in one of its files; without the file if there is none."""
    shutil.copytree(community_folder, folder)
    if data is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data)
    return folder


def configuration(**parameters: object) -> bytes:
    pipeline = dict(CONFIGURATION["pipeline"])
    pipeline["params"] = {**CONFIGURATION["pipeline"]["params"], **parameters}
    return yaml.safe_dump({**CONFIGURATION, "pipeline": pipeline}).encode()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("config.yaml", b"a: [", "is not YAML"),
        ("config.yaml", b"[]", "must hold a mapping with `pipeline`, not list"),
        ("config.yaml", b"pipeline: {name: pyannote.audio.pipelines.VoiceActivityDetection}", "expected pipeline.name to be"),
        ("config.yaml", configuration(embedding=None), "names no model in pipeline.params.embedding"),
        ("config.yaml", configuration(embedding="pyannote/wespeaker"), "model 'pyannote/wespeaker' of a model hub"),
        ("segmentation/pytorch_model.bin", None, "lacks the weights of its segmentation model"),
        ("embedding/pytorch_model.bin", b"x" * 100, r"pytorch_model.bin \(100 bytes\) is cut short"),
    ],
)  # fmt: skip
async def test_a_folder_that_is_no_whole_pipeline_is_a_start_up_error(
    community_folder: Path, tmp_path: Path, name: str, data: bytes | None, reason: str
) -> None:
    folder = changed(community_folder, tmp_path / "changed", name, data)
    with pytest.raises(EngineUnavailableError, match=reason):
        Catalogue(tmp_path, "moonshine", {}, {}, diarizer=str(folder)).diarizer()


async def test_a_pipeline_that_cannot_be_loaded_is_a_start_up_error(community_folder: Path, tmp_path: Path) -> None:
    folder = changed(community_folder, tmp_path / "changed", "plda/plda.npz", None)
    with pytest.raises(ConfigurationError, match=r"changed cannot be loaded by pyannote\.audio: .*plda"):
        async with running(settings(model="fake", diarization_model=str(folder))):
            pass


def test_a_pipeline_that_cuts_average_linkage_keeps_its_own_distance(community_folder: Path, tmp_path: Path) -> None:
    given = yaml.safe_load(configuration(clustering="AgglomerativeClustering"))
    given["params"]["clustering"] = {"method": "average", "threshold": 0.58, "min_cluster_size": 1}
    folder = changed(community_folder, tmp_path / "changed", "config.yaml", yaml.safe_dump(given).encode())
    engine = PyannoteEngine(ModelOptions(source=str(folder), device="cpu", threads=1))
    assert engine.info.voice_distances == (0.58, 0.58)
    given["params"]["clustering"]["method"] = "centroid"
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    assert PyannoteEngine(ModelOptions(source=str(folder), threads=1)).info.voice_distances == (0.65, 0.65)
