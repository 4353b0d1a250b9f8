"""Files and addresses of files to a server, several at a time, with a bar for each; transcripts to files or the terminal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_CHUNK = 1 << 18
_PATIENCE_S = 3600.0
"""A long file on a small machine takes its time."""
_LOADING_WITHIN_S = 300.0
_PATH = "/v1/audio/transcriptions"


class OutputFormat(StrEnum):
    """How a transcript is written; the name is also the ending of its file."""

    TXT = "txt"
    SRT = "srt"
    VTT = "vtt"
    JSON = "json"


_RESPONSE = {
    OutputFormat.TXT: "text",
    OutputFormat.SRT: "srt",
    OutputFormat.VTT: "vtt",
    OutputFormat.JSON: "verbose_json",
}


class TranscriptionError(Exception):
    """One file could not be transcribed; the message says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the server for every file."""

    url: str
    form: OutputFormat = OutputFormat.TXT
    model: str | None = None
    language: str | None = None
    api_key: str | None = None


def is_address(source: str) -> bool:
    """Return whether a source is an address rather than a file."""
    return source.startswith(("http://", "https://"))


def name_of(source: str) -> str:
    """Return the name of a source without its ending, for the file its transcript goes to."""
    path = urlsplit(source).path if is_address(source) else source
    return Path(path).stem or "transcript"


async def transcribe(
    sources: Sequence[str], request: Request, *, output: Path | None, at_once: int, console: Console
) -> int:
    """Transcribe every source; return how many could not be. `output` is a file, or a folder; None: the terminal."""
    headers = {"Authorization": f"Bearer {request.api_key}"} if request.api_key else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=_PATIENCE_S, sock_connect=10)
    turns = asyncio.Semaphore(at_once)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        with Progress(*columns, console=console, transient=True) as progress:

            async def one(source: str) -> str | TranscriptionError:
                task = progress.add_task(source, total=None, start=False)
                async with turns:
                    progress.start_task(task)
                    try:
                        return await _one(session, source, request, progress, task)
                    except TranscriptionError as error:
                        return error
                    except (aiohttp.ClientError, TimeoutError, OSError) as error:
                        return TranscriptionError(f"no answer from {request.url}: {str(error) or type(error).__name__}")
                    finally:
                        progress.remove_task(task)

            results = await asyncio.gather(*map(one, sources))
    failed = 0
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, TranscriptionError):
            failed += 1
            console.print(f"{source}: {result}", style="red", markup=False, highlight=False, soft_wrap=True)
        else:
            _write(source, result, request.form, output, several=len(sources) > 1)
    return failed


async def _one(session: aiohttp.ClientSession, source: str, request: Request, progress: Progress, task: TaskID) -> str:
    fields = {"response_format": _RESPONSE[request.form]}
    fields |= {name: value for name in ("model", "language") if (value := getattr(request, name))}
    waited_s = 0.0
    while True:
        if is_address(source):
            asked = session.post(f"{request.url}{_PATH}-from-url", json={"audio_file_url": source, **fields})
        else:
            asked = session.post(f"{request.url}{_PATH}", data=_form(source, fields, progress, task))
        async with asked as response:
            text = await response.text()
            retry_s = float(response.headers.get("Retry-After", 0))
            if response.status == 503 and retry_s and waited_s < _LOADING_WITHIN_S:
                waited_s += retry_s
            elif response.status != 200:
                raise TranscriptionError(_reason(text, response.status))
            else:
                return text
        await asyncio.sleep(retry_s)


def _form(source: str, fields: dict[str, str], progress: Progress, task: TaskID) -> aiohttp.FormData:
    path = Path(source)
    try:
        size = path.stat().st_size
        file = path.open("rb")
    except OSError as error:
        raise TranscriptionError(f"cannot be read: {error.strerror}") from error
    progress.update(task, total=size, completed=0)
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value)
    if fields["response_format"] == "verbose_json":
        form.add_field("timestamp_granularities[]", "word")
        form.add_field("timestamp_granularities[]", "segment")

    async def chunks() -> AsyncIterator[bytes]:
        with file:
            while data := await asyncio.to_thread(file.read, _CHUNK):
                yield data
                progress.advance(task, len(data))
        progress.update(task, description=f"{source}: transcribing", total=None)

    form.add_field("file", chunks(), filename=path.name, content_type="application/octet-stream")
    return form


def _reason(text: str, status: int) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered with HTTP {status}"


def _write(source: str, text: str, form: OutputFormat, output: Path | None, *, several: bool) -> None:
    if output is None:
        print(f"== {source}\n{text.rstrip()}\n" if several else text.rstrip())
        return
    path = output
    if several or output.is_dir():
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{name_of(source)}.{form.value}"
    path.write_text(text, encoding="utf-8")
