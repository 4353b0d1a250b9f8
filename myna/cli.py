"""The command line. Each command imports its modules when it runs, so that a client does not load the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from myna import __version__
from myna.bench.commands import bench
from myna.command import DEFAULT_URL, ApiKey, Url, extra, fail

if TYPE_CHECKING:
    from myna.wire import messages as wire

app = typer.Typer(name="myna", help="Self-hosted real-time speech to text.", no_args_is_help=True, add_completion=False)
app.add_typer(bench, name="bench")

keys = typer.Typer(help="Manage the API keys of a server.", no_args_is_help=True)
app.add_typer(keys, name="keys")


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # child processes import nothing from the current folder
    app()


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(context: typer.Context) -> None:
    """Run the server; every setting is a flag (--help lists them)."""
    with extra("server"):
        from myna.runtime.errors import ConfigurationError
        from myna.server.settings import load

    try:
        settings = load(context.args)
    except ConfigurationError as error:
        fail(str(error))
    with extra("server"):
        from myna.server.app import serve as run
        from myna.streaming.errors import EngineUnavailableError

    try:
        run(settings)
    except (ConfigurationError, EngineUnavailableError) as error:
        fail(str(error))


@app.command()
def stream(
    file: Annotated[Path, typer.Argument(help="Any audio or video file FFmpeg reads.")],
    url: Url = DEFAULT_URL,
    speed: Annotated[float, typer.Option(min=0, help="Times real time; 0: as fast as the server accepts it.")] = 1.0,
    endpointing_ms: Annotated[int | None, typer.Option(help="Silence that ends an utterance; 0: never.")] = None,
    language: Annotated[str | None, typer.Option(help="Spoken language.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; by default the server's.")] = None,
    keyterm: Annotated[list[str] | None, typer.Option(help="A word or phrase to favour in recognition.")] = None,
    api_key: ApiKey = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON message a line.")] = False,
) -> None:
    """Stream a recording in real time and show its words as they are recognised."""
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
        fail(str(error))


@app.command()
def transcribe(
    sources: Annotated[list[str], typer.Argument(help="Files, or http(s) URLs of files.")],
    url: Url = DEFAULT_URL,
    form: Annotated[str, typer.Option("--format", help="txt, srt, vtt or json.")] = "txt",
    output: Annotated[Path | None, typer.Option(help="File to write; a folder if there are several sources.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; by default the server's.")] = None,
    language: Annotated[str | None, typer.Option(help="Spoken language.")] = None,
    api_key: ApiKey = None,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="Number of files sent at the same time.")] = 4,
    local: Annotated[bool, typer.Option("--local", help="Start a server for this command; --url is ignored.")] = False,
) -> None:
    """Transcribe files. The exit status is 1 if a file could not be transcribed."""
    from rich.console import Console

    from myna.clients.local_server import LocalServerError, local_server
    from myna.clients.transcribe import OutputFormat, Request
    from myna.clients.transcribe import transcribe as run

    if form not in list(OutputFormat):
        fail(f"--format must be one of {', '.join(OutputFormat)}, not {form!r}")
    if output is not None and len(sources) > 1 and output.is_file():
        fail(f"--output must be a folder for several sources; {output} is a file")
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        try:
            if local:
                url = stack.enter_context(local_server(model)).url
        except LocalServerError as error:
            fail(str(error))
        request = Request(url.rstrip("/"), OutputFormat(form), None if local else model, language, api_key)
        failed = asyncio.run(run(sources, request, output=output, at_once=at_once, console=console))
    if failed:
        raise typer.Exit(1)


@app.command()
def mic(
    url: Url = DEFAULT_URL,
    device: Annotated[str | None, typer.Option(help="The device: its number or part of its name.")] = None,
    list_devices: Annotated[bool, typer.Option("--list", help="List the devices and exit.")] = False,
    endpointing_ms: Annotated[int | None, typer.Option(help="Silence that ends an utterance; 0: never.")] = None,
    language: Annotated[str | None, typer.Option(help="Spoken language.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; by default the server's.")] = None,
    keyterm: Annotated[list[str] | None, typer.Option(help="A word or phrase to favour in recognition.")] = None,
    api_key: ApiKey = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON message a line.")] = False,
) -> None:
    """Transcribe the microphone until Ctrl-C is pressed."""
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
        fail(str(error))


def _start(endpointing_ms: int | None, language: str | None, keyterms: list[str] | None) -> wire.StartMessage:
    from myna.wire import messages as wire

    try:
        return wire.StartMessage(
            encoding="linear16", sample_rate=16_000, endpointing_ms=endpointing_ms, language=language,
            keyterms=tuple(keyterms or ()),
        )  # fmt: skip
    except ValueError as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("start",), "msg": str(error)}
        fail(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}")


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
        fail(str(error))


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the key, as the log shows it.")],
    file: Annotated[Path, typer.Option(help="Key file: the value of the server's setting `keys`.")] = Path("keys.toml"),
    scope: Annotated[list[str] | None, typer.Option(help="transcribe or grant; all scopes by default.")] = None,
) -> None:
    """Create a key, add its hash to the file, and print the key."""
    with extra("server"):
        from myna.runtime.errors import ConfigurationError
        from myna.server.keys import Scope, add_key

    try:
        scopes = frozenset(Scope(each) for each in scope or Scope)
        typer.echo(add_key(file, name, scopes))
    except ValueError:
        fail(f"--scope takes {', '.join(Scope)}, not {', '.join(scope or [])}")
    except ConfigurationError as error:
        fail(str(error))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
