from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from sounds import BECKETT, RATE, contained, recording

from myna.clients.local_server import local_server

MYNA = str(Path(sysconfig.get_path("scripts")) / "myna")


def myna(*arguments: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MYNA, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )


def assert_one_clear_line(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_clear_line(myna("serve", "--port", str(port)), str(port))


def test_a_host_that_is_not_an_address_of_this_machine_is_named() -> None:
    assert_one_clear_line(myna("serve", "--host", "192.0.2.1", "--port", "0"), "192.0.2.1")


def test_an_unknown_model_is_named_with_the_available_ones() -> None:
    assert_one_clear_line(myna("serve", "--port", "0", "--model", "whisper"), "moonshine")


def test_a_model_that_cannot_be_fetched_is_named_with_the_reason(tmp_path: Path, unused_tcp_port: int) -> None:
    assert_one_clear_line(myna("models", "add", "nope"), "whisper-base")
    there = ("models", "add", "whisper-base", "--folder", str(tmp_path))
    index = f"http://127.0.0.1:{unused_tcp_port}/simple"
    assert_one_clear_line(myna(*there, "--index", index), f"cannot be fetched from {index}")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "whisper-base").mkdir()
    assert_one_clear_line(myna(*there), "exists already")


def test_a_wrong_value_is_named(tmp_path: Path) -> None:
    assert_one_clear_line(myna("serve", MYNA_PORT="99999"), "port")
    config = tmp_path / "myna.toml"
    config.write_text("prot = 1\n")
    assert_one_clear_line(myna("serve", MYNA_CONFIG=str(config)), "prot")
    config.write_text("port = [")
    assert_one_clear_line(myna("serve", MYNA_CONFIG=str(config)), "configuration")
    assert_one_clear_line(myna("serve", MYNA_CONFIG=str(tmp_path / "none.toml")), "none.toml")


def test_missing_model_files_are_named(tmp_path: Path) -> None:
    """A package of the same name without the weights shadows the real one."""
    (tmp_path / "moonshine_voice").mkdir()
    (tmp_path / "moonshine_voice" / "__init__.py").touch()
    done = myna("serve", "--port", "0", "--log-level", "error", PYTHONPATH=str(tmp_path))
    assert_one_clear_line(done, "encoder_model.ort")


def test_an_unreachable_server_is_named(tmp_path: Path, unused_tcp_port: int) -> None:
    path = tmp_path / "speech.wav"
    write_wav(path, recording("beckett")[:RATE])
    assert_one_clear_line(myna("stream", str(path), "--url", f"http://127.0.0.1:{unused_tcp_port}"), "no Myna server")


def test_files_that_cannot_be_streamed_are_named(tmp_path: Path) -> None:
    with local_server("fake") as server:
        url = server.url
        assert_one_clear_line(myna("stream", str(tmp_path / "none.wav"), "--url", url), "none.wav does not exist")
        text = tmp_path / "text.wav"
        text.write_text("no sound")
        assert_one_clear_line(myna("stream", str(text), "--url", url), "cannot be read as audio")


def test_the_microphone_command_reports_a_missing_microphone() -> None:
    done = myna("mic")
    if done.returncode == 0:
        pytest.skip("this machine has a microphone")
    assert_one_clear_line(done, "icrophone")


def test_a_recording_is_streamed_and_its_transcript_shown(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    write_wav(path, recording("beckett"))
    with local_server("moonshine") as server:
        url = server.url
        lines = myna("stream", str(path), "--url", url, "--speed", "0", "--json")
        assert lines.returncode == 0, lines.stderr
        messages = [json.loads(line) for line in lines.stdout.splitlines()]
        assert messages[-1]["type"] == "closed"
        assert any("tried" in message.get("text", "") for message in messages)
        shown = myna("stream", str(path), "--url", url, "--speed", "4")
        assert shown.returncode == 0, shown.stderr
        assert "Ever tried" in shown.stdout


def test_accuracy_is_measured_through_a_server_and_on_whole_files(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", recording("beckett"))
    manifest = tmp_path / "manifest.jsonl"
    text = "ever tried ever failed no matter try again fail again fail better"
    manifest.write_text(json.dumps({"audio": "a.wav", "text": text}) + "\n")
    for flags in ((), ("--live",)):
        done = myna("bench", "accuracy", "--manifest", str(manifest), "--json", *flags)
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)["groups"]["all"]
        assert figures["words"] == 12
        assert figures["wer_percent"] <= 20
        assert ("written_unlike_percent" in figures) == bool(flags)
    assert_one_clear_line(myna("bench", "accuracy", "--manifest", str(tmp_path / "none")), "none")


def test_bench_overhead_compares_the_scheduler_with_the_bare_model() -> None:
    done = myna("bench", "overhead", "--model", "fake", "--batch", "1,4", "--utterances", "12", "--json")
    assert done.returncode == 0, done.stderr
    one, four = json.loads(done.stdout)
    assert (one["batch"], one["padding"]) == (1, 0.0)
    assert four["batch"] == 4
    assert four["ratio"] > 0
    assert_one_clear_line(myna("bench", "overhead", "--batch", "1,x"), "1,x")
    assert_one_clear_line(myna("bench", "overhead", "--model", "parrot"), "parrot")


def test_bench_engine_compares_models_on_the_same_recordings(tmp_path: Path) -> None:
    write_wav(tmp_path / "speech.wav", recording("beckett"))
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps({"audio": "speech.wav", "text": BECKETT}) + "\n")
    done = myna("bench", "engine", "moonshine", "fake", "--manifest", str(manifest), "--live-s", "2", "--json")
    assert done.returncode == 0, done.stderr
    ours, fake = json.loads(done.stdout)
    assert ours["wer_percent"] <= 20 < fake["wer_percent"] == 100
    for figures in (ours, fake):
        assert figures["words"] == 12
        assert min(figures[name] for name in ("file_cost", "live_cost", "finals_cost", "memory_mb", "streams")) > 0
    assert_one_clear_line(myna("bench", "engine", "parrot", "--manifest", str(manifest)), "parrot")


def test_models_are_listed_with_what_each_costs_and_what_is_wrong_with_others(tmp_path: Path) -> None:
    (tmp_path / "broken.nemo").write_bytes(b"no archive")
    done = myna("models", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "moonshine-tiny-en" in line]
    assert "(default)" in line
    assert " MB" in line
    assert "broken cannot be used: " in done.stdout
    listed = json.loads(myna("models", "--folder", str(tmp_path), "--json").stdout)
    assert listed["default"] == "moonshine-tiny-en"
    assert [model["name"] for model in listed["here"]] == ["moonshine-tiny-en", "speakers"]
    assert "broken" in listed["unusable"]


def test_a_server_says_which_models_it_has_and_how_to_get_others() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "myna", "serve", "--model", "fake", "--port", "0"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "`myna models`" in line)
        process.terminate()
    assert "fake" in said
    assert "moonshine-tiny-en" in said


def test_bench_load_speaks_both_dialects_and_draws_what_it_found(tmp_path: Path) -> None:
    write_wav(tmp_path / "speech.wav", recording("beckett"))
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps({"audio": "speech.wav", "text": BECKETT}) + "\n")
    ask = (
        "bench",
        "load",
        "--manifest",
        str(manifest),
        "--seconds",
        "15",
        "--target-ms",
        "60000",
        "--json",
        "--streams",
    )
    done = myna(*ask, "2", "--beside", "--report", str(tmp_path / "report"), timeout=200)
    assert done.returncode == 0, done.stderr
    ours, plain = json.loads(done.stdout)
    (level,) = ours["levels"]
    assert (level["streams"], level["refused"], level["broken"]) == (2, 0, [])
    assert level["wer"] == level["wer_alone"] < 10
    assert level["final_p50_ms"] <= level["final_p95_ms"] <= level["final_p99_ms"]
    assert level["interims_a_minute"] > 5
    assert level["cpu"] > 0
    assert plain["levels"][0]["final_p95_ms"] > 0
    assert json.loads((tmp_path / "report" / "load.json").read_text()) == [ours, plain]
    assert "<svg" in (tmp_path / "report" / "load.svg").read_text()
    with local_server("moonshine") as server:
        done = myna(*ask, "1", "--url", server.url, "--dialect", "deepgram", timeout=200)
    assert done.returncode == 0, done.stderr
    ((level,),) = [report["levels"] for report in json.loads(done.stdout)]
    assert level["wer"] == level["wer_alone"] < 10
    assert level["final_p95_ms"] > 0
    assert_one_clear_line(myna(*ask, "1", "--dialect", "flux"), "flux")
    assert_one_clear_line(myna(*ask, "1,x"), "1,x")


def test_unsupported_keyterms_and_unknown_models_are_named(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    write_wav(path, recording("beckett"))
    with local_server("fake") as server:
        ask = ("stream", str(path), "--url", server.url)
        assert_one_clear_line(myna(*ask, "--keyterm", "Myna"), "does not support keyterms")
        assert_one_clear_line(myna(*ask, "--model", "whisper"), "whisper")
        assert_one_clear_line(myna(*ask, "--keyterm", ""), "--keyterms")


@contextlib.contextmanager
def server_and_children() -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    command = [sys.executable, "-m", "myna", "serve", "--port", "0", "--model", "fake", "--workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "listening" not in process.stderr.readline():
            pass
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 4  # a worker, the process that forks decoders, and two decoders
        yield process, children


def test_a_stopped_server_leaves_no_process() -> None:
    with server_and_children() as (process, children):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive


def test_every_process_of_a_server_that_is_killed_ends_too() -> None:
    with server_and_children() as (process, children):
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive


def write_wav(path: Path, pcm: np.ndarray) -> None:
    with av.open(str(path), "w", format="wav") as file:
        stream = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = RATE
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def test_a_new_key_is_printed_once_and_accepted_by_the_server(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    made = myna("keys", "add", "kitchen", "--file", str(file))
    assert made.returncode == 0
    key = made.stdout.strip()
    assert key.startswith("myna_")
    assert_one_clear_line(myna("keys", "add", "kitchen", "--file", str(file)), "kitchen")
    assert_one_clear_line(myna("keys", "add", "door", "--file", str(file), "--scope", "all"), "transcribe, grant")
    sound = tmp_path / "silence.wav"
    with av.open(str(sound), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, RATE), np.int16), format="s16", layout="mono")
        frame.sample_rate = RATE
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with local_server("fake", "--keys", str(file)) as server:
        assert_one_clear_line(myna("stream", str(sound), "--url", server.url), "Invalid credentials")
        done = myna("stream", str(sound), "--url", server.url, "--speed", "0", MYNA_API_KEY=key)
        assert done.returncode == 0, done.stderr


def test_a_server_open_to_others_without_keys_does_not_start() -> None:
    assert_one_clear_line(myna("serve", "--port", "0", "--host", "0.0.0.0"), "myna keys add")


def test_files_are_transcribed_several_at_once_each_to_its_own_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.flac").write_bytes(contained([recording("beckett")], "flac", "flac"))
    (tmp_path / "bad.wav").write_bytes(b"no sound at all")
    sources = [str(tmp_path / name) for name in ("one.flac", "two.flac", "bad.wav", "nowhere.wav")]
    out = tmp_path / "out"
    with local_server(None) as server:
        done = myna("transcribe", *sources, "--url", server.url, "--format", "srt", "--output", str(out))
        assert done.returncode == 1
        assert "bad.wav: failed to process audio" in done.stderr.replace("\n", " ")
        assert "nowhere.wav: cannot be read" in done.stderr.replace("\n", " ")
        assert sorted(path.name for path in out.iterdir()) == ["one.srt", "two.srt"]
        assert "fail better." in (out / "one.srt").read_text()
        single = myna("transcribe", sources[0], "--url", server.url)
        assert (single.returncode, single.stdout.strip().endswith("fail better.")) == (0, True)
        words = json.loads(myna("transcribe", sources[0], "--url", server.url, "--format", "json").stdout)["words"]
        assert words[0]["word"] == "Ever"


def test_transcribing_locally_needs_no_running_server(tmp_path: Path) -> None:
    file = tmp_path / "speech.mp3"
    file.write_bytes(contained([recording("beckett")], "mp3", "libmp3lame"))
    done = myna("transcribe", str(file), "--local")
    assert (done.returncode, done.stdout.strip().endswith("fail better.")) == (0, True), done.stderr
    assert_one_clear_line(myna("transcribe", str(file), "--format", "yaml"), "txt, srt, vtt, json")


def test_an_unreachable_server_fails_each_file_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "speech.wav"
    file.write_bytes(b"x")
    done = myna("transcribe", str(file), "--url", "http://127.0.0.1:9")
    assert (done.returncode, "no answer from http://127.0.0.1:9" in done.stderr.replace("\n", " ")) == (1, True)
