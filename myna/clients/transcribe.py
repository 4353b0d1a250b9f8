"""Send files, or URLs of files, to a server; write the transcripts to files or the terminal."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from myna.clients.speakers import SpeakersWanted

_ANSWER_WITHIN_S = 3600.0
"""A small machine needs this long for a file of many hours."""
_LOADING_WITHIN_S = 300.0
"""The client retries for this long while the server loads the model."""
_PATH = "/v1/audio/transcriptions"


class OutputFormat(StrEnum):
    """Format of a transcript; the value is also its file name extension."""

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
    """A file could not be transcribed; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Request:
    """Parameters of the request, the same for every file."""

    url: str
    form: OutputFormat = OutputFormat.TXT
    model: str | None = None
    language: str | None = None
    api_key: str | None = None
    speakers: SpeakersWanted | None = None


def is_address(source: str) -> bool:
    """Return whether a source is a URL and not a file."""
    return source.startswith(("http://", "https://"))


def name_of(source: str) -> str:
    """Return the name of a source without its extension, which names the file of its transcript."""
    path = urlsplit(source).path if is_address(source) else source
    return Path(path).stem or "transcript"


async def transcribe(
    sources: Sequence[str], request: Request, *, output: Path | None, at_once: int, console: Console
) -> int:
    """Transcribe every source; return the number of failures. `output` is a file or a folder; None: the terminal."""
    headers = {"Authorization": f"Bearer {request.api_key}"} if request.api_key else {}
    timeout = httpx.Timeout(None, connect=10, read=_ANSWER_WITHIN_S)
    turns = asyncio.Semaphore(at_once)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    context = ssl.create_default_context()  # the system's certificates, and no proxy of the environment
    async with httpx.AsyncClient(headers=headers, timeout=timeout, verify=context, trust_env=False) as session:
        with Progress(*columns, console=console, transient=True) as progress:

            async def one(source: str) -> str | TranscriptionError:
                task = progress.add_task(source, total=None, start=False)
                async with turns:
                    progress.start_task(task)
                    try:
                        return await _one(session, source, request, progress, task)
                    except TranscriptionError as error:
                        return error
                    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
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


async def _one(session: httpx.AsyncClient, source: str, request: Request, progress: Progress, task: TaskID) -> str:
    fields: dict[str, Any] = {"response_format": _RESPONSE[request.form]}
    fields |= {name: value for name in ("model", "language") if (value := getattr(request, name))}
    if request.speakers is not None:
        fields |= request.speakers.parameters()
    waited_s = 0.0
    while True:
        if is_address(source):
            asked = session.post(f"{request.url}{_PATH}-from-url", json={"audio_file_url": source, **fields})
        else:
            asked = _upload(session, f"{request.url}{_PATH}", source, fields, progress, task)
        response = await asked
        retry_s = float(response.headers.get("Retry-After", 0))
        if response.status_code == 503 and retry_s and waited_s < _LOADING_WITHIN_S:
            waited_s += retry_s
        elif response.status_code != 200:
            raise TranscriptionError(_reason(response.text, response.status_code))
        else:
            return response.text
        await asyncio.sleep(retry_s)


async def _upload(
    session: httpx.AsyncClient, url: str, source: str, fields: dict[str, Any], progress: Progress, task: TaskID
) -> httpx.Response:
    path = Path(source)
    try:
        file, size = await asyncio.to_thread(_opened, path)
    except OSError as error:
        raise TranscriptionError(f"cannot be read: {error.strerror}") from error
    if fields["response_format"] == "verbose_json":
        fields = {**fields, "timestamp_granularities[]": ["word", "segment"]}
    with file:
        progress.update(task, total=size, completed=0)
        upload = cast("IO[bytes]", _Upload(file, progress, task, source))
        part = (path.name, upload, "application/octet-stream")
        return await session.post(url, data=fields, files={"file": part})


def _opened(path: Path) -> tuple[IO[bytes], int]:
    return path.open("rb"), path.stat().st_size


class _Upload:
    """A file that advances a progress bar as it is read. Without a length, httpx sends it in chunks."""

    def __init__(self, file: IO[bytes], progress: Progress, task: TaskID, source: str) -> None:
        self._file = file
        self._progress = progress
        self._task = task
        self._source = source

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        data = self._file.read(size)
        self._progress.advance(self._task, len(data))
        if not data:
            self._progress.update(self._task, description=f"{self._source}: transcribing", total=None)
        return data


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
