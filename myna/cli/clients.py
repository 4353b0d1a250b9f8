"""The commands of a client: stream a file, transcribe files, use the microphone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from myna.cli.options import DEFAULT_URL, ApiKey, MaxSpeakers, MinSpeakers, NumSpeakers, Speakers, Url, fail

if TYPE_CHECKING:
    from myna.clients.speakers import SpeakersWanted
    from myna.wire import messages as wire


def stream(
    file: Annotated[Path, typer.Argument(help="Any audio or video file that FFmpeg can read.")],
    url: Url = DEFAULT_URL,
    speed: Annotated[
        float, typer.Option(min=0, help="Multiple of real time; 0: as fast as the server accepts audio.")
    ] = 1.0,
    endpointing_ms: Annotated[int | None, typer.Option(help="Silence in ms that ends an utterance; 0: never.")] = None,
    language: Annotated[str | None, typer.Option(help="Spoken language.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; by default the server's.")] = None,
    keyterm: Annotated[list[str] | None, typer.Option(help="A word or phrase to boost; may be repeated.")] = None,
    api_key: ApiKey = None,
    speakers: Speakers = False,
    num_speakers: NumSpeakers = None,
    min_speakers: MinSpeakers = None,
    max_speakers: MaxSpeakers = None,
    json: Annotated[bool, typer.Option("--json", help="Print each message as a line of JSON.")] = False,
) -> None:
    """Stream a recording in real time and show the transcript."""
    from myna.clients import files

    try:
        _transcribe(
            files.paced(files.chunks(file), speed),
            _start(endpointing_ms, language, keyterm),
            url,
            model=model,
            api_key=api_key,
            json=json,
            speakers=_speakers(speakers, num_speakers, min_speakers, max_speakers),
        )
    except files.UnreadableFileError as error:
        fail(str(error))


def transcribe(
    sources: Annotated[list[str], typer.Argument(help="Files, or http(s) addresses of files.")],
    url: Url = DEFAULT_URL,
    form: Annotated[str, typer.Option("--format", help="Output format: txt, srt, vtt or json.")] = "txt",
    output: Annotated[Path | None, typer.Option(help="File to write to; for several sources, a folder.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; by default the server's.")] = None,
    language: Annotated[str | None, typer.Option(help="Spoken language.")] = None,
    api_key: ApiKey = None,
    speakers: Speakers = False,
    num_speakers: NumSpeakers = None,
    min_speakers: MinSpeakers = None,
    max_speakers: MaxSpeakers = None,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="Files transcribed at a time.")] = 4,
    local: Annotated[bool, typer.Option("--local", help="Start a server for this command; --url is ignored.")] = False,
) -> None:
    """Transcribe files. The exit status is 1 if any of them failed."""
    from rich.console import Console

    from myna.clients.local_server import local_server
    from myna.clients.transcribe import OutputFormat, Request
    from myna.clients.transcribe import transcribe as run

    if form not in list(OutputFormat):
        fail(f"--format must be one of {', '.join(OutputFormat)}, not {form!r}")
    if output is not None and len(sources) > 1 and output.is_file():
        fail(f"--output must be a folder for several sources; {output} is a file")
    wanted = _speakers(speakers, num_speakers, min_speakers, max_speakers)
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        if local:
            url = stack.enter_context(local_server(model)).url
        request = Request(url.rstrip("/"), OutputFormat(form), None if local else model, language, api_key, wanted)
        failed = asyncio.run(run(sources, request, output=output, at_once=at_once, console=console))
    if failed:
        raise typer.Exit(1)


def mic(
    url: Url = DEFAULT_URL,
    device: Annotated[str | None, typer.Option(help="Number, or part of the name, of the input device.")] = None,
    list_devices: Annotated[bool, typer.Option("--list", help="List the input devices and exit.")] = False,
    endpointing_ms: Annotated[int | None, typer.Option(help="Silence in ms that ends an utterance; 0: never.")] = None,
    language: Annotated[str | None, typer.Option(help="Spoken language.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; by default the server's.")] = None,
    keyterm: Annotated[list[str] | None, typer.Option(help="A word or phrase to boost; may be repeated.")] = None,
    api_key: ApiKey = None,
    speakers: Speakers = False,
    num_speakers: NumSpeakers = None,
    min_speakers: MinSpeakers = None,
    max_speakers: MaxSpeakers = None,
    json: Annotated[bool, typer.Option("--json", help="Print each message as a line of JSON.")] = False,
) -> None:
    """Transcribe the microphone until Ctrl-C."""
    from myna.clients import microphone

    try:
        if list_devices:
            for line in microphone.devices() or ["no input devices"]:
                typer.echo(line)
            return
        microphone.check()
        with contextlib.suppress(KeyboardInterrupt):
            start = _start(endpointing_ms, language, keyterm)
            wanted = _speakers(speakers, num_speakers, min_speakers, max_speakers)
            _transcribe(microphone.blocks(device), start, url, model=model, api_key=api_key, json=json, speakers=wanted)
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


def _speakers(wanted: bool, number: int | None, lowest: int | None, highest: int | None) -> SpeakersWanted | None:
    """Return what the options ask for; each of the numbers asks for speakers, too."""
    from myna.clients.speakers import SpeakersWanted

    if not wanted and (number, lowest, highest) == (None, None, None):
        return None
    return SpeakersWanted(number, lowest, highest)


def _transcribe(
    audio: AsyncIterator[bytes],
    start: wire.StartMessage,
    url: str,
    *,
    model: str | None,
    api_key: str | None,
    json: bool,
    speakers: SpeakersWanted | None,
) -> None:
    from myna.clients.display import JsonLines, Terminal
    from myna.clients.live import StreamError
    from myna.clients.session import transcribe

    try:
        display = JsonLines() if json else Terminal()
        asyncio.run(transcribe(audio, start, url, display, model=model, api_key=api_key, speakers=speakers))
    except StreamError as error:
        fail(str(error))
