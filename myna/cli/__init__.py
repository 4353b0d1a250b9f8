"""The command line. Each command imports what it needs: a client need not load the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import ValidationError

from myna import __version__

if TYPE_CHECKING:
    from myna.wire import messages as wire

app = typer.Typer(name="myna", help="Self-hosted real-time speech to text.", no_args_is_help=True, add_completion=False)
bench = typer.Typer(help="Measure a server: accuracy, memory.", no_args_is_help=True)
app.add_typer(bench, name="bench")

keys = typer.Typer(help="API keys of a server.", no_args_is_help=True)
app.add_typer(keys, name="keys")

Url = Annotated[str, typer.Option(help="The server.", envvar="MYNA_URL")]
ApiKey = Annotated[str | None, typer.Option(help="Your key, if the server wants one.", envvar="MYNA_API_KEY")]
DEFAULT_URL = "http://127.0.0.1:8000"


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # processes it starts import nothing from the current folder
    app()


def _fail(message: str) -> NoReturn:
    """End with one clear line and status 2: what was asked for cannot be done."""
    typer.echo(f"myna: {message}", err=True)
    raise typer.Exit(2)


def _numbers(option: str, given: str) -> list[int]:
    """Return the numbers of a list with commas, or end."""
    if not all(number.isdecimal() and int(number) for number in given.split(",")):
        _fail(f"{option} takes numbers from 1 with commas between, such as 1,4,16, not {given!r}")
    return [int(number) for number in given.split(",")]


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(context: typer.Context) -> None:
    """Run the server; every setting is a flag (--help lists them)."""
    from myna.runtime.errors import ConfigurationError
    from myna.server.settings import load

    try:
        settings = load(context.args)
    except ConfigurationError as error:
        _fail(str(error))
    from myna.server.process import serve as run
    from myna.streaming.errors import EngineUnavailableError

    try:
        run(settings)
    except (ConfigurationError, EngineUnavailableError) as error:
        _fail(str(error))


@app.command()
def stream(
    file: Annotated[Path, typer.Argument(help="Any audio or video file FFmpeg reads.")],
    url: Url = DEFAULT_URL,
    speed: Annotated[float, typer.Option(min=0, help="Times real time; 0: as fast as the server takes it.")] = 1.0,
    endpointing_ms: Annotated[int | None, typer.Option(help="Silence that ends an utterance; 0: never.")] = None,
    language: Annotated[str | None, typer.Option(help="Language spoken.")] = None,
    model: Annotated[str | None, typer.Option(help="Model, if not the server's default.")] = None,
    keyterm: Annotated[list[str] | None, typer.Option(help="A word or phrase to be made likelier.")] = None,
    api_key: ApiKey = None,
    json: Annotated[bool, typer.Option("--json", help="One message a line.")] = False,
) -> None:
    """Send a recording as if it were spoken now, and read along."""
    from myna.clients import files

    try:
        _transcribe(
            files.paced(files.chunks(file), speed),
            _start(endpointing_ms, language, keyterm),
            url,
            model=model,
            api_key=api_key,
            json=json,
        )
    except files.UnreadableFileError as error:
        _fail(str(error))


@app.command()
def transcribe(
    sources: Annotated[list[str], typer.Argument(help="Files, or http(s) addresses of files.")],
    url: Url = DEFAULT_URL,
    form: Annotated[str, typer.Option("--format", help="txt, srt, vtt or json.")] = "txt",
    output: Annotated[Path | None, typer.Option(help="File, or for several sources folder, to write to.")] = None,
    model: Annotated[str | None, typer.Option(help="Model, if not the server's default.")] = None,
    language: Annotated[str | None, typer.Option(help="Language spoken.")] = None,
    api_key: ApiKey = None,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="Files under way at a time.")] = 4,
    local: Annotated[bool, typer.Option("--local", help="Run a server for this alone; --url is not used.")] = False,
) -> None:
    """Transcribe files; the status is 0 if all could be, 1 if some could not."""
    from rich.console import Console

    from myna.clients.transcribe import OutputFormat, Request
    from myna.clients.transcribe import transcribe as run
    from myna.streaming.errors import EngineUnavailableError

    if form not in list(OutputFormat):
        _fail(f"--format must be one of {', '.join(OutputFormat)}, not {form!r}")
    if output is not None and len(sources) > 1 and output.is_file():
        _fail(f"--output must be a folder for several sources; {output} is a file")
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        try:
            if local:
                from myna.bench.local import local_server

                url = stack.enter_context(local_server(model)).url
        except EngineUnavailableError as error:
            _fail(str(error))
        request = Request(url.rstrip("/"), OutputFormat(form), None if local else model, language, api_key)
        failed = asyncio.run(run(sources, request, output=output, at_once=at_once, console=console))
    if failed:
        raise typer.Exit(1)


@app.command()
def mic(
    url: Url = DEFAULT_URL,
    device: Annotated[str | None, typer.Option(help="Number or part of the name of the device.")] = None,
    list_devices: Annotated[bool, typer.Option("--list", help="List the devices and end.")] = False,
    endpointing_ms: Annotated[int | None, typer.Option(help="Silence that ends an utterance; 0: never.")] = None,
    language: Annotated[str | None, typer.Option(help="Language spoken.")] = None,
    model: Annotated[str | None, typer.Option(help="Model, if not the server's default.")] = None,
    keyterm: Annotated[list[str] | None, typer.Option(help="A word or phrase to be made likelier.")] = None,
    api_key: ApiKey = None,
    json: Annotated[bool, typer.Option("--json", help="One message a line.")] = False,
) -> None:
    """Speak, and read along; Ctrl-C ends."""
    from myna.clients import microphone

    try:
        if list_devices:
            for line in microphone.devices() or ["no input devices"]:
                typer.echo(line)
            return
        microphone.check()
        with contextlib.suppress(KeyboardInterrupt):
            start = _start(endpointing_ms, language, keyterm)
            _transcribe(microphone.blocks(device), start, url, model=model, api_key=api_key, json=json)
    except microphone.MicrophoneError as error:
        _fail(str(error))


def _start(endpointing_ms: int | None, language: str | None, keyterms: list[str] | None) -> wire.StartMessage:
    from myna.wire import messages as wire

    try:
        return wire.StartMessage(
            encoding="linear16", sample_rate=16_000, endpointing_ms=endpointing_ms, language=language,
            keyterms=tuple(keyterms or ()),
        )  # fmt: skip
    except ValueError as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("start",), "msg": str(error)}
        _fail(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}")


def _transcribe(
    audio: AsyncIterator[bytes],
    start: wire.StartMessage,
    url: str,
    *,
    model: str | None,
    api_key: str | None,
    json: bool,
) -> None:
    from myna.clients.display import JsonLines, Terminal
    from myna.clients.live import StreamError
    from myna.clients.session import transcribe

    try:
        display = JsonLines() if json else Terminal()
        asyncio.run(transcribe(audio, start, url, display, model=model, api_key=api_key))
    except StreamError as error:
        _fail(str(error))


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose or what for: it stands in the log.")],
    file: Annotated[Path, typer.Option(help="The file the server's setting `keys` names.")] = Path("keys.toml"),
    scope: Annotated[list[str] | None, typer.Option(help="transcribe, grant; all if none is given.")] = None,
) -> None:
    """Make a key, add it to the file, and print it: the file holds only its hash."""
    from myna.runtime.errors import ConfigurationError
    from myna.server.keys import Scope, add_key

    try:
        scopes = frozenset(Scope(each) for each in scope or Scope)
        typer.echo(add_key(file, name, scopes))
    except ValueError:
        _fail(f"--scope must be one of {', '.join(Scope)}, not {', '.join(scope or [])}")
    except ConfigurationError as error:
        _fail(str(error))


@bench.command()
def accuracy(
    manifest: Annotated[Path, typer.Option(help="JSON lines of audio, text and group; see docs/accuracy.md.")],
    live: Annotated[bool, typer.Option(help="Stream live; otherwise decode each file whole.")] = False,
    url: Annotated[str | None, typer.Option(help="A running server; without it one is started.")] = None,
    api_key: ApiKey = None,
    speed: Annotated[float, typer.Option(min=0, help="Times real time; 0: as fast as it goes.")] = 0.0,
    endpointing_ms: Annotated[int | None, typer.Option(help="Silence that ends an utterance; 0: never.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Only these groups.")] = None,
    model: Annotated[str | None, typer.Option(help="Model: a name, a .nemo file or a hub name.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Measure word error rate, word times and delays over a manifest of recordings."""
    from myna.bench.accuracy import AccuracyError, measure

    try:
        measure(
            manifest, live=live, url=url, api_key=api_key, speed=speed, endpointing_ms=endpointing_ms, groups=group or [],
            model=model, as_json=json,
        )  # fmt: skip
    except AccuracyError as error:
        _fail(str(error))


@bench.command()
def engine(
    model: Annotated[str | None, typer.Option(help="Model: a name, a .nemo file or a hub name.")] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, with commas between.")] = "1,4,16,64",
    manifest: Annotated[
        Path | None, typer.Option(help="Recordings; without it, speech of the moonshine wheel.")
    ] = None,
    utterances: Annotated[int, typer.Option(min=1, help="Utterances decoded in each round.")] = 128,
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Measure what the scheduler and the engine cost on top of the bare model."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.engine import measure
    from myna.streaming.errors import EngineUnavailableError

    sizes = _numbers("--batch", batch)
    try:
        measure(model, sizes, manifest, utterances, as_json=json)
    except (EngineUnavailableError, AccuracyError) as error:
        _fail(str(error))


@bench.command()
def batch(
    manifest: Annotated[Path, typer.Option(help="JSON lines of audio and text; see docs/accuracy.md.")],
    minutes: Annotated[str, typer.Option(help="Lengths of the files made of them, with commas between.")] = "5,20",
    model: Annotated[str | None, typer.Option(help="Model: a name, a .nemo file or a hub name.")] = None,
    live: Annotated[bool, typer.Option(help="Speak into a live stream meanwhile.")] = False,
    accuracy: Annotated[bool, typer.Option(help="Word error rate of the recordings, sent as files.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Measure files: speed against the bare engine, memory, accuracy, and the finals of a live stream beside them."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.batch import measure

    try:
        lengths = [float(length) for length in minutes.split(",")]
        measure(manifest, lengths, model, live=live, accuracy=accuracy, as_json=json)
    except ValueError:
        _fail(f"--minutes takes lengths with commas between, such as 5,20, not {minutes!r}")
    except AccuracyError as error:
        _fail(str(error))


@bench.command()
def turns(
    manifest: Annotated[Path, typer.Option(help="JSON lines of audio and text; see docs/accuracy.md.")],
    thresholds: Annotated[str, typer.Option(help="End-of-turn thresholds, with commas between.")] = "0.5,0.7,0.85",
    eager: Annotated[float | None, typer.Option(help="The eager threshold that goes with each.")] = None,
    url: Annotated[str | None, typer.Option(help="A running server; without it one is started.")] = None,
    api_key: ApiKey = None,
    streams: Annotated[int, typer.Option(min=1, help="Recordings streamed at once.")] = 6,
    group: Annotated[list[str] | None, typer.Option(help="Only these groups.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of the server that is started.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Measure turns: how many end inside an utterance, and how long after its end the others do."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.turns import Setting, measure
    from myna.streaming.errors import EngineUnavailableError

    try:
        settings = [Setting(float(threshold), eager) for threshold in thresholds.split(",")]
    except ValueError:
        _fail(f"--thresholds takes numbers with commas between, such as 0.5,0.7, not {thresholds!r}")
    try:
        measure(
            manifest, settings, url=url, api_key=api_key, groups=group or [], model=model, streams=streams, as_json=json
        )
    except (AccuracyError, EngineUnavailableError) as error:
        _fail(str(error))


@bench.command()
def load(
    manifest: Annotated[Path, typer.Option(help="JSON lines of audio and text; see docs/accuracy.md.")],
    streams: Annotated[str, typer.Option(help="Numbers of streams at once, with commas between.")] = "1,2,4,8,16",
    url: Annotated[str | None, typer.Option(help="A running server; without it one is started.")] = None,
    dialect: Annotated[str, typer.Option(help="native or deepgram.")] = "native",
    api_key: ApiKey = None,
    model: Annotated[str | None, typer.Option(help="Model of the server that is started.")] = None,
    seconds: Annotated[float, typer.Option(min=15, help="Length of each stream.")] = 60.0,
    target_ms: Annotated[int, typer.Option(min=1, help="p95 of finals after their endpoint that is to be kept.")] = 700,
    interim_every_s: Annotated[float, typer.Option(help="Of the server that is started.")] = 1.0,
    in_phase: Annotated[bool, typer.Option("--in-phase", help="All streams begin at the same moment.")] = False,
    beside: Annotated[bool, typer.Option(help="Measure a plain loop around sherpa-onnx, too.")] = False,
    server_flag: Annotated[list[str] | None, typer.Option(help="A flag of the server that is started.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for load.json and load.svg.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Measure how many real-time streams a server holds: delays, words, refusals, CPU and memory, step by step."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.load import Plan, measure
    from myna.streaming.errors import EngineUnavailableError

    if dialect not in ("native", "deepgram"):
        _fail(f"--dialect must be native or deepgram, not {dialect!r}")
    plan = Plan(
        counts=tuple(_numbers("--streams", streams)), manifest=manifest, seconds=seconds, url=url,
        dialect=dialect, api_key=api_key, model=model, target_ms=target_ms, staggered=not in_phase,
        interim_every_s=interim_every_s, flags=tuple(server_flag or ()), beside=beside,
    )  # fmt: skip
    try:
        measure(plan, report, as_json=json)
    except (AccuracyError, EngineUnavailableError) as error:
        _fail(str(error))


@bench.command()
def front(
    manifest: Annotated[Path, typer.Option(help="JSON lines of audio and text; see docs/accuracy.md.")],
    streams: Annotated[str, typer.Option(help="Numbers of streams at once, with commas between.")] = "100,200,300",
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Measure what connections, sessions and voice activity cost, the engine costing nothing."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.front import measure

    counts = _numbers("--streams", streams)
    try:
        measure(manifest, counts, as_json=json)
    except AccuracyError as error:
        _fail(str(error))


@bench.command()
def containers(
    file: Annotated[Path, typer.Argument(help="Speech; it is repeated to the length that is wanted.")],
    streams: Annotated[int, typer.Option(min=1, help="Streams at once.")] = 8,
    seconds: Annotated[float, typer.Option(min=5, help="Length of each stream.")] = 20.0,
    model: Annotated[str | None, typer.Option(help="Model of the server that is started.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Measure what live streams in containers cost beside raw ones."""
    from myna.bench.containers import measure
    from myna.clients.files import UnreadableFileError
    from myna.streaming.errors import EngineUnavailableError

    try:
        measure(file, streams, seconds, model, as_json=json)
    except (UnreadableFileError, EngineUnavailableError) as error:
        _fail(str(error))


@bench.command()
def memory(
    file: Annotated[Path, typer.Argument(help="Speech; it is sent again and again.")],
    minutes: Annotated[float, typer.Option(min=2, help="Minutes of audio to send.")] = 60.0,
    model: Annotated[str | None, typer.Option(help="Model of the server that is started.")] = None,
) -> None:
    """Send hours of audio through one stream as fast as it goes, and watch the server's memory."""
    from myna.bench.memory import measure
    from myna.clients.files import UnreadableFileError

    try:
        measure(file, minutes, model)
    except UnreadableFileError as error:
        _fail(str(error))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
