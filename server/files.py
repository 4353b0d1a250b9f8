"""Files and addresses of files over REST, in the shapes of OpenAI, Deepgram and Reflector: receive, transcribe, answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from aiohttp import web

from myna.batch.fetch import Fetched, FetchError, fetch
from myna.batch.gate import Gate
from myna.batch.transcript import Transcript
from myna.server.admission import Admission
from myna.server.auth import Authentication, Identity, Scope, credential
from myna.server.config import Settings
from myna.server.connections import authenticated
from myna.server.dialects import deepgram_rest, openai_rest
from myna.server.dialects.base import ModelWanted, Refusal
from myna.server.dialects.deepgram import DeepgramEntry
from myna.server.http import REQUEST_ID, answer, openai_refusal
from myna.server.jobrunner import JobRunner
from myna.server.models import Models
from myna.server.serving import engine_for
from myna.server.transcriber import DecodeFailedError, Listener, Sound, Transcriber
from myna.server.uploads import Form, Receiver, Upload
from myna.streaming.audio import AudioError, Coded, RawFormat
from myna.streaming.engines.base import EngineInfo
from myna.streaming.engines.catalogue import Model
from myna.streaming.events import Final
from myna.streaming.policy import Options

log = structlog.get_logger()

FETCH_WITHIN_S = 600.0
"""A file at an address must be here within this; it is Deepgram's own limit for a whole request."""
LONGEST_JSON = 1 << 20
_WATCH_S = 1.0
"""A client that has left is noticed so soon."""
_Result = TypeVar("_Result")
OptionsOf = Callable[[EngineInfo], Options]


@dataclass(frozen=True, slots=True)
class Done:
    """A transcript, and what made it."""

    transcript: Transcript
    model: Model
    engine: EngineInfo


class Files:
    """Handlers of one server."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        transcriber: Transcriber,
        authentication: Authentication,
        gate: Gate,
        jobs: JobRunner,
        admission: Admission,
    ) -> None:
        self._admission = admission
        self._settings = settings
        self._models = models
        self._transcriber = transcriber
        self._authentication = authentication
        self._gate = gate
        self._jobs = jobs
        jobs.work = self.run_job
        self._turns = asyncio.Semaphore(settings.files_at_once)

    def add_to(self, app: web.Application) -> None:
        """Give the handlers their routes."""
        app.router.add_post("/v1/listen", self.listen)
        app.router.add_post("/v1/audio/transcriptions", self.transcriptions)
        app.router.add_post("/v1/audio/translations", self.translations)
        app.router.add_post("/v1/audio/transcriptions-from-url", self.from_url)
        app.router.add_get("/v1/jobs/{id}", self.job)

    # Deepgram

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """Transcribe a body, or a file at an address, for Deepgram's clients."""
        request_id = request[REQUEST_ID]
        try:
            async with self._let_in(request) as (identity, receiver, folder):
                query = tuple(request.query.items())
                asked = deepgram_rest.parse(query)
                url, upload = None, None
                if request.content_type == "application/json":
                    url = _url_in(await receiver.text(LONGEST_JSON))
                else:
                    upload = await receiver.body()
                if asked.callback is not None:
                    self._check(asked.callback.url)
                    await self._jobs.accept(request_id, identity.name, query, url, upload)
                    return web.json_response({"request_id": request_id})
                return await _unless_gone(request, self._listen(asked, url, upload, folder, request_id))
        except Refusal as refusal:
            return answer(refusal, DeepgramEntry(request_id, self._settings))

    async def _listen(
        self,
        asked: deepgram_rest.FileRequest,
        url: str | None,
        upload: Upload | None,
        folder: Path,
        request_id: str,
    ) -> web.Response:
        path, sha256 = (upload.path, upload.sha256) if upload else await self._fetched(url or "", folder)
        done = await self._transcribe(path, asked.model, asked.options, asked.audio, mix=not asked.multichannel)
        body = deepgram_rest.answer(done.transcript, asked, done.model, done.engine, request_id, sha256)
        return web.json_response(body)

    async def run_job(
        self,
        job_id: str,
        query: tuple[tuple[str, str], ...],
        url: str | None,
        path: Path,
        sha256: str | None,
        listener: Listener,
    ) -> dict[str, Any]:
        """Return the answer to a request that was accepted before. Raises `Refusal`."""
        asked = deepgram_rest.parse(query)
        async with _folder() as folder:
            if url is not None:
                path, sha256 = await self._fetched(url, folder)
            mix = not asked.multichannel
            done = await self._transcribe(path, asked.model, asked.options, asked.audio, mix=mix, listener=listener)
            return deepgram_rest.answer(done.transcript, asked, done.model, done.engine, job_id, sha256 or "")

    async def job(self, request: web.Request) -> web.Response:
        """Say how far a request is that was accepted before."""
        try:
            identity = self._authentication.identify(credential(request.headers))
            authenticated(request)
            job = await self._jobs.get(request.match_info["id"])
            if job is None or job.owner != identity.name:
                raise Refusal(404, "job_not_found", "There is no such job; results are kept for seven days.")
        except Refusal as refusal:
            return answer(refusal, DeepgramEntry(request[REQUEST_ID], self._settings))
        return web.json_response(
            {
                "id": job.id,
                "status": job.state.value,
                "created": job.created,
                "finished": job.finished,
                "heard_seconds": round(job.heard_s, 3),
                "deliveries": job.deliveries,
                "error": job.error,
                "result": json.loads(job.result) if job.result and job.finished else None,
            }
        )

    # OpenAI, and Reflector where it shares the address

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        """Transcribe the file, or files, of a form."""
        try:
            async with self._let_in(request) as (_, receiver, _):
                form = await receiver.form()
                asked = openai_rest.parse(form.fields)
                uploads = _files_of(form, asked)
                if asked.stream:
                    return await self._stream(request, uploads[0], asked)
                return await _unless_gone(request, self._transcriptions(uploads, asked, several=_several(form, asked)))
        except Refusal as refusal:
            return openai_refusal(refusal)

    async def _transcriptions(
        self, uploads: list[Upload], asked: openai_rest.TranscriptionRequest, *, several: bool
    ) -> web.Response:
        try:
            async with asyncio.TaskGroup() as group:  # one that fails stops the others
                tasks = [group.create_task(self._one(upload, asked)) for upload in uploads]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        dones = [task.result() for task in tasks]
        answers = [
            openai_rest.answer(d.transcript, asked, d.engine, u.name) for u, d in zip(uploads, dones, strict=True)
        ]
        if several:
            return web.json_response({"results": answers})
        return _body(*answers)

    async def _one(
        self, upload: Upload, asked: openai_rest.TranscriptionRequest, listener: Listener = lambda _: None
    ) -> Done:
        return await self._transcribe(upload.path, asked.model, asked.options, Coded(), mix=True, listener=listener)

    async def _stream(
        self, request: web.Request, upload: Upload, asked: openai_rest.TranscriptionRequest
    ) -> web.StreamResponse:
        """Send the text as server-sent events while it comes."""
        finals: asyncio.Queue[Final | None] = asyncio.Queue()
        working = asyncio.create_task(self._one(upload, asked, finals.put_nowait))
        working.add_done_callback(lambda _: finals.put_nowait(None))
        response: web.StreamResponse | None = None
        try:
            first = True
            while (final := await finals.get()) is not None:
                response = response or await _events(request)
                if final.words:
                    text = " ".join(word.text for word in final.words)
                    await _send_event(response, openai_rest.delta(text, first=first))
                    first = False
            try:
                done = await working
            except Refusal as refusal:
                if response is None:
                    raise
                await _send_event(response, {"type": "error", **openai_rest.error_body(refusal)})
            else:
                response = response or await _events(request)
                await _send_event(response, openai_rest.done(done.transcript, asked))
            await response.write_eof()
        except ConnectionError:
            log.info("a client left before its transcript was complete")
        finally:
            working.cancel()
            await asyncio.wait([working])
        return response or web.Response(status=499)

    async def translations(self, request: web.Request) -> web.Response:
        """Say that nothing here translates."""
        try:
            self._authentication.identify(credential(request.headers), Scope.TRANSCRIBE)
        except Refusal as refusal:
            return openai_refusal(refusal)
        message = "No model of this server translates; /v1/audio/transcriptions transcribes in the language spoken."
        return openai_refusal(openai_rest.refused(message, "model", code="unsupported_model"))

    async def from_url(self, request: web.Request) -> web.StreamResponse:
        """Transcribe the file at an address, for Reflector."""
        try:
            async with self._let_in(request) as (_, receiver, folder):
                body = _object(await receiver.text(LONGEST_JSON))
                asked, url, offset_s = _reflector(body)
                return await _unless_gone(request, self._from_url(asked, url, offset_s, folder))
        except Refusal as refusal:
            return openai_refusal(refusal)

    async def _from_url(
        self, asked: openai_rest.TranscriptionRequest, url: str, offset_s: float, folder: Path
    ) -> web.Response:
        path, _ = await self._fetched(url, folder)
        done = await self._transcribe(path, asked.model, asked.options, Coded(), mix=True)
        if asked.response_format is not None:
            return _body(openai_rest.answer(done.transcript, asked, done.engine, ""))
        described = openai_rest.reflector_words(done.transcript.words, offset_s)
        return web.json_response({"text": done.transcript.text, "words": described, "filename": None})

    # Shared

    @contextlib.asynccontextmanager
    async def _let_in(self, request: web.Request) -> AsyncIterator[tuple[Identity, Receiver, Path]]:
        """Yield who asks, what reads the body, and a folder for it, gone afterwards. Raises `Refusal`."""
        identity = self._authentication.identify(credential(request.headers), Scope.TRANSCRIBE)
        authenticated(request)
        async with self._admission.request(identity, self._jobs.unfinished), _folder() as folder:
            yield identity, Receiver(request, folder, self._most_bytes), folder

    @property
    def _most_bytes(self) -> int:
        return self._settings.max_upload_mb << 20

    def _check(self, url: str) -> None:
        try:
            self._gate.check(url)
        except ValueError as error:
            raise Refusal(400, "bad_callback", f"callback: {error}.") from error

    async def _fetched(self, url: str, folder: Path) -> tuple[Path, str]:
        try:
            path = folder / "fetched"
            fetched: Fetched = await fetch(url, path, self._gate, most_bytes=self._most_bytes, within_s=FETCH_WITHIN_S)
        except FetchError as error:
            status = 404 if error.status == 404 else 400
            raise Refusal(status, "remote_content", f"The file at the address cannot be had: {error}.") from error
        return fetched.path, fetched.sha256

    async def _transcribe(
        self,
        path: Path,
        wanted: ModelWanted,
        options_of: OptionsOf,
        audio: RawFormat | Coded,
        *,
        mix: bool,
        listener: Listener = lambda _: None,
    ) -> Done:
        sound = Sound(path, audio, mix, self._settings.max_file_hours * 3600)
        try:
            async with engine_for(self._models, wanted, unknown="model_not_found") as (model, engine):
                options = options_of(engine.info)
                async with self._turns:
                    transcript = await self._transcriber.transcribe(sound, engine, options, listener)
                return Done(transcript, model, engine.info)
        except AudioError as error:
            raise Refusal(400, "bad_audio", f"failed to process audio: {error}", param="file") from error
        except DecodeFailedError as error:
            log.error("a file could not be decoded", reason=str(error))
            raise Refusal(500, "decode_failed", "The model failed on this file.") from error


@contextlib.asynccontextmanager
async def _folder() -> AsyncIterator[Path]:
    """Yield a folder that is gone afterwards, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="myna-") as name:
        yield Path(name)


async def _unless_gone(request: web.Request, work: Awaitable[_Result]) -> _Result:
    """Wait for the work; give it up when the client has left."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_WATCH_S)
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client has left")
        return await task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    return response


async def _send_event(response: web.StreamResponse, event: dict[str, object]) -> None:
    await response.write(f"data: {json.dumps(event)}\n\n".encode())


def _files_of(form: Form, asked: openai_rest.TranscriptionRequest) -> list[Upload]:
    single = [upload for name, upload in form.files if name == "file"]
    several = [upload for name, upload in form.files if name.removesuffix("[]") == "files"]
    if asked.batch and not several:
        raise openai_rest.refused("Batch transcription requires 'files'", "files")
    uploads = single or several
    if not uploads:
        raise openai_rest.refused("Either 'file' or 'files' parameter is required", "file")
    if len(single) > 1:
        raise openai_rest.refused("'file' was given more than once: several files go into 'files'.", "file")
    return uploads


def _body(said: dict[str, Any] | str) -> web.Response:
    return web.Response(text=said) if isinstance(said, str) else web.json_response(said)


def _several(form: Form, asked: openai_rest.TranscriptionRequest) -> bool:
    return len(form.files) > 1 or asked.batch


def _object(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        message = "Content-type was application/json, but we could not process the JSON payload."
        raise Refusal(400, "invalid_json", message)
    return body


def _url_in(text: str) -> str:
    url = _object(text).get("url")
    if not isinstance(url, str) or not url:
        raise Refusal(400, "bad_request", 'The JSON payload must be {"url": "https://…"}.')
    return url


def _reflector(body: dict[str, Any]) -> tuple[openai_rest.TranscriptionRequest, str, float]:
    url, offset = body.get("audio_file_url"), body.get("timestamp_offset", 0.0)
    if not isinstance(url, str) or not url:
        raise Refusal(422, "missing_field", "audio_file_url is required, and is a text.", param="audio_file_url")
    if not isinstance(offset, int | float) or isinstance(offset, bool):
        raise Refusal(422, "wrong_type", "timestamp_offset is a number of seconds.", param="timestamp_offset")
    # response_format is ours: Reflector's clients do not ask for one.
    names = ("model", "language", "response_format")
    fields = [(name, value) for name in names if isinstance(value := body.get(name), str)]
    return openai_rest.parse(fields), url, float(offset)
