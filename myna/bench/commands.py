"""The commands of `myna bench`. Each imports its measurement when it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from myna.command import ApiKey, extra, fail

bench = typer.Typer(help="Measure accuracy, delays, capacity and memory.", no_args_is_help=True)

Manifest = Annotated[Path, typer.Option(help="JSON lines with audio, text and group; see docs/accuracy.md.")]
ServerUrl = Annotated[str | None, typer.Option(help="Address of a running server; by default one is started.")]
StartedModel = Annotated[str | None, typer.Option(help="Model of the server that is started.")]
AnyModel = Annotated[str | None, typer.Option(help="Model: a name, a .nemo file or a hub name.")]
Groups = Annotated[list[str] | None, typer.Option(help="Only these groups of the manifest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Exit with one line where a measurement cannot be made."""
    with extra("bench"):
        from myna.bench.accuracy import AccuracyError
        from myna.clients.files import UnreadableFileError
        from myna.clients.local_server import LocalServerError
        from myna.streaming.errors import EngineUnavailableError
    try:
        yield
    except (AccuracyError, EngineUnavailableError, LocalServerError, UnreadableFileError) as error:
        fail(str(error))


def _numbers(option: str, given: str) -> list[int]:
    """Return the numbers of a comma-separated list, or exit."""
    if not all(number.isdecimal() and int(number) for number in given.split(",")):
        fail(f"{option} takes positive integers separated by commas, such as 1,4,16, not {given!r}")
    return [int(number) for number in given.split(",")]


@bench.command()
def accuracy(
    manifest: Manifest,
    live: Annotated[bool, typer.Option(help="Stream live; otherwise decode each file whole.")] = False,
    url: ServerUrl = None,
    api_key: ApiKey = None,
    speed: Annotated[float, typer.Option(min=0, help="Times real time; 0: as fast as the server accepts.")] = 0.0,
    endpointing_ms: Annotated[int | None, typer.Option(help="Silence that ends an utterance; 0: never.")] = None,
    group: Groups = None,
    model: AnyModel = None,
    json: AsJson = False,
) -> None:
    """Measure word error rate, word times and delays over a manifest of recordings."""
    with _errors():
        from myna.bench.accuracy import measure

        measure(
            manifest, live=live, url=url, api_key=api_key, speed=speed, endpointing_ms=endpointing_ms, groups=group or [],
            model=model, as_json=json,
        )  # fmt: skip


@bench.command()
def engine(
    model: AnyModel = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,4,16,64",
    manifest: Annotated[Path | None, typer.Option(help="Recordings; by default speech of the moonshine wheel.")] = None,
    utterances: Annotated[int, typer.Option(min=1, help="Utterances decoded in each round.")] = 128,
    json: AsJson = False,
) -> None:
    """Measure the overhead of the scheduler and the engine over the bare model."""
    sizes = _numbers("--batch", batch)
    with _errors():
        from myna.bench.engine import measure

        measure(model, sizes, manifest, utterances, as_json=json)


@bench.command()
def batch(
    manifest: Manifest,
    minutes: Annotated[str, typer.Option(help="Lengths of the files to build, separated by commas.")] = "5,20",
    model: AnyModel = None,
    live: Annotated[bool, typer.Option(help="Run a live stream at the same time.")] = False,
    accuracy: Annotated[
        bool, typer.Option(help="Also measure the word error rate of the recordings as files.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Measure files: speed against the bare engine, memory, accuracy, and the finals of a concurrent live stream."""
    try:
        lengths = [float(length) for length in minutes.split(",")]
    except ValueError:
        fail(f"--minutes takes numbers separated by commas, such as 5,20, not {minutes!r}")
    with _errors():
        from myna.bench.batch import measure

        measure(manifest, lengths, model, live=live, accuracy=accuracy, as_json=json)


@bench.command()
def turns(
    manifest: Manifest,
    thresholds: Annotated[str, typer.Option(help="End-of-turn thresholds, separated by commas.")] = "0.5,0.7,0.85",
    eager: Annotated[float | None, typer.Option(help="Eager threshold used with each of them.")] = None,
    url: ServerUrl = None,
    api_key: ApiKey = None,
    streams: Annotated[int, typer.Option(min=1, help="Recordings streamed at once.")] = 6,
    group: Groups = None,
    model: StartedModel = None,
    json: AsJson = False,
) -> None:
    """Measure turns: how many end inside an utterance, and the delay of the others after its end."""
    with _errors():
        from myna.bench.turns import Setting, measure

    try:
        settings = [Setting(float(threshold), eager) for threshold in thresholds.split(",")]
    except ValueError:
        fail(f"--thresholds takes numbers separated by commas, such as 0.5,0.7, not {thresholds!r}")
    with _errors():
        measure(
            manifest, settings, url=url, api_key=api_key, groups=group or [], model=model, streams=streams, as_json=json
        )


@bench.command()
def load(
    manifest: Manifest,
    streams: Annotated[str, typer.Option(help="Numbers of concurrent streams, separated by commas.")] = "1,2,4,8,16",
    url: ServerUrl = None,
    dialect: Annotated[str, typer.Option(help="native or deepgram.")] = "native",
    api_key: ApiKey = None,
    model: StartedModel = None,
    seconds: Annotated[float, typer.Option(min=15, help="Length of each stream.")] = 60.0,
    target_ms: Annotated[
        int, typer.Option(min=1, help="Target for the p95 delay of finals after their endpoint.")
    ] = 700,
    interim_every_s: Annotated[float, typer.Option(help="The setting of the server that is started.")] = 1.0,
    in_phase: Annotated[bool, typer.Option("--in-phase", help="Start all streams at the same moment.")] = False,
    beside: Annotated[bool, typer.Option(help="Also measure a plain loop around sherpa-onnx.")] = False,
    server_flag: Annotated[list[str] | None, typer.Option(help="Flag for the server that is started.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for load.json and load.svg.")] = None,
    json: AsJson = False,
) -> None:
    """Measure how many real-time streams a server holds: delays, words, refusals, CPU and memory at each step."""
    if dialect not in ("native", "deepgram"):
        fail(f"--dialect must be native or deepgram, not {dialect!r}")
    counts = tuple(_numbers("--streams", streams))
    with _errors():
        from myna.bench.load import Plan, measure

        plan = Plan(
            counts=counts, manifest=manifest, seconds=seconds, url=url,
            dialect=dialect, api_key=api_key, model=model, target_ms=target_ms, staggered=not in_phase,
            interim_every_s=interim_every_s, flags=tuple(server_flag or ()), beside=beside,
        )  # fmt: skip
        measure(plan, report, as_json=json)


@bench.command()
def front(
    manifest: Manifest,
    streams: Annotated[str, typer.Option(help="Numbers of concurrent streams, separated by commas.")] = "100,200,300",
    json: AsJson = False,
) -> None:
    """Measure the cost of connections, sessions and voice activity with an engine that costs nothing."""
    counts = _numbers("--streams", streams)
    with _errors():
        from myna.bench.front import measure

        measure(manifest, counts, as_json=json)


@bench.command()
def containers(
    file: Annotated[Path, typer.Argument(help="Speech; it is repeated up to the length needed.")],
    streams: Annotated[int, typer.Option(min=1, help="Concurrent streams.")] = 8,
    seconds: Annotated[float, typer.Option(min=5, help="Length of each stream.")] = 20.0,
    model: StartedModel = None,
    json: AsJson = False,
) -> None:
    """Measure the cost of live streams in containers against raw ones."""
    with _errors():
        from myna.bench.containers import measure

        measure(file, streams, seconds, model, as_json=json)


@bench.command()
def memory(
    file: Annotated[Path, typer.Argument(help="Speech; it is sent repeatedly.")],
    minutes: Annotated[float, typer.Option(min=2, help="Minutes of audio to send.")] = 60.0,
    model: StartedModel = None,
) -> None:
    """Send hours of audio through one stream as fast as the server accepts it, and record the server's memory."""
    with _errors():
        from myna.bench.memory import measure

        measure(file, minutes, model)
