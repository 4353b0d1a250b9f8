"""Files and addresses of files over REST, in the shapes of OpenAI, Deepgram and Reflector: receive, transcribe, answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from aiohttp import web

from myna.batch.address_gate import AddressGate
from myna.batch.disk import Upload, check_free, private_folder
from myna.batch.job_runner import JobRunner
from myna.batch.json_pieces import json_pieces
from myna.batch.storage import UPLOADS, refusal_of
from myna.batch.transcriber import Listener, Transcriber
from myna.inference.models import Models
from myna.runtime.errors import Refusal
from myna.server.dialects.deepgram import rest as deepgram_rest
from myna.server.dialects.deepgram.live import DeepgramEntry
from myna.server.dialects.openai import rest as openai_rest
from myna.server.dialects.reflector import requests as reflector
from myna.server.http import event_stream as eventstream
from myna.server.http.answers import Answer
from myna.server.http.bodies import files_of, is_several, json_object, reflector_request, url_in
from myna.server.http.connections import authenticated
from myna.server.http.file_work import Done, FileWork, deepgram_answer
from myna.server.http.intake import Intake, share_of
from myna.server.http.json_answer import json_answer
from myna.server.http.service import REQUEST_ID, answer, openai_refusal
from myna.server.http.uploads import Receiver
from myna.server.keys import Authentication, Identity, Scope, credential
from myna.server.operations.admission import Admission
from myna.server.settings import Settings
from myna.streaming.audio.raw import Coded
from myna.streaming.policy import Options
from myna.streaming.session.jobs import EngineInfo

log = structlog.get_logger()

LONGEST_JSON = 1 << 20
_WATCH_S = 1.0
"""A client that has left is noticed so soon."""
_Result = TypeVar("_Result")
Refuse = Callable[[Refusal], web.Response]


@dataclass(frozen=True, slots=True)
class Guest:
    """A request that was let in: who asks, whose share it takes, and what is told of bytes before they are stored."""

    identity: Identity
    share: str
    grow: Callable[[int], None]


class Files:
    """Handlers of one server."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        transcriber: Transcriber,
        authentication: Authentication,
        gate: AddressGate,
        jobs: JobRunner,
        admission: Admission,
        intake: Intake,
    ) -> None:
        self._admission = admission
        self._intake = intake
        self._settings = settings
        self._authentication = authentication
        self._gate = gate
        self._jobs = jobs
        self._work = jobs.work = FileWork(settings, models, transcriber, gate, intake)

    def add_to(self, app: web.Application) -> None:
        """Give the handlers their routes."""
        app.router.add_post("/v1/listen", self.listen)
        app.router.add_post("/v1/audio/transcriptions", self.transcriptions)
        app.router.add_post("/v1/audio/translations", self.translations)
        app.router.add_post("/v1/audio/transcriptions-from-url", self.from_url)
        app.router.add_post(f"{reflector.PREFIX}/v1/audio/transcriptions", self.transcriptions)
        app.router.add_post(f"{reflector.PREFIX}/v1/audio/transcriptions-from-url", self.from_url)
        app.router.add_get("/v1/jobs/{id}", self.job)
        app.on_cleanup.append(self._close)

    # Deepgram

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """Transcribe a body, or a file at an address, for Deepgram's clients."""
        return await self._answered(self._listen(request), self._deepgram(request))

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        async with self._let_in(request) as guest:
            query = tuple(request.query.items())
            asked = self._work.deepgram_request(query)
            if asked.callback is not None:
                return await self._accept(request, query, asked.callback.url, guest)
            async with _folder() as folder:
                receiver = self._receiver(request, folder, guest)
                if request.content_type == "application/json":
                    url = url_in(await receiver.text(LONGEST_JSON))
                    work = self._listen_to_address(asked, url, folder, guest, request[REQUEST_ID])
                else:
                    upload = await receiver.body()
                    work = self._listen_to_file(
                        asked, upload.path, upload.sha256, folder, guest.share, request[REQUEST_ID]
                    )
                return await (await _unless_gone(request, work)).send(request)

    async def _accept(
        self, request: web.Request, query: tuple[tuple[str, str], ...], callback: str, guest: Guest
    ) -> web.Response:
        """Keep a request that is answered at its callback."""
        try:
            self._gate.check(callback)
        except ValueError as error:
            raise Refusal(400, "bad_callback", f"callback: {error}.") from error
        self._intake.check_job(guest.share)
        await asyncio.to_thread(self._check_room_for_job)
        job_id = request[REQUEST_ID]
        async with _folder(self._jobs.folder) as folder:
            receiver = self._receiver(request, folder, guest)
            url, upload = None, None
            if request.content_type == "application/json":
                url = url_in(await receiver.text(LONGEST_JSON))
            else:
                upload = await receiver.body(sync=True)
            self._intake.check_job(guest.share)  # others may have come while this was received
            await self._jobs.accept(job_id, guest.identity.id, guest.share, query, url, upload)
        return json_answer({"request_id": job_id})

    def _check_room_for_job(self) -> None:
        check_free(private_folder(self._jobs.folder), self._intake.least_free)

    async def _listen_to_address(
        self, asked: deepgram_rest.FileRequest, url: str, folder: Path, guest: Guest, request_id: str
    ) -> Answer:
        fetched = await self._work.fetched(url, folder / "fetched", guest.grow, guest.share)
        return await self._listen_to_file(asked, fetched.path, fetched.sha256, folder, guest.share, request_id)

    async def _listen_to_file(
        self, asked: deepgram_rest.FileRequest, path: Path, sha256: str, folder: Path, share: str, request_id: str
    ) -> Answer:
        done = await self._work.transcribe(
            path, asked.model, asked.options, asked.audio, mix=not asked.multichannel, share=share
        )
        return await self._work.answers.made(deepgram_answer(done, asked, request_id, sha256), folder)

    async def job(self, request: web.Request) -> web.StreamResponse:
        """Say how far a request is that was accepted before."""
        return await self._answered(self._job(request), self._deepgram(request))

    async def _job(self, request: web.Request) -> web.StreamResponse:
        identity = self._authentication.identify(credential(request.headers), Scope.TRANSCRIBE)
        authenticated(request)
        found = await self._jobs.get(request.match_info["id"])
        if found is None or found[0].owner != identity.id:
            raise Refusal(404, "job_not_found", "There is no such job; results are kept for seven days.")
        job, heard_s, result = found
        described = {
            "id": job.id,
            "status": job.state.value,
            "created": job.created,
            "finished": job.finished,
            "heard_seconds": round(heard_s, 3),
            "deliveries": job.deliveries,
            "error": job.error,
        }
        start = json.dumps(described)[:-1] + ', "result": '
        if not job.finished or not result.exists():
            return web.Response(text=start + "null}", content_type="application/json")
        return await Answer("application/json", start.encode(), result, b"}").send(request)

    # OpenAI, and Reflector where it shares the address

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        """Transcribe the file, or files, of a form."""
        return await self._answered(self._form(request), openai_refusal)

    async def _form(self, request: web.Request) -> web.StreamResponse:
        async with self._let_in(request) as guest, _folder() as folder:
            form = await self._receiver(request, folder, guest).form()
            names = self._settings.reflector_hosts
            spaced = reflector.is_theirs(request.path, request.headers.get("Host", ""), names)
            asked = openai_rest.parse(form.fields, spaced=spaced)
            uploads = files_of(form, asked)
            if asked.stream:
                work = partial(self._one, uploads[0], asked, guest.share)
                return await eventstream.stream(request, work, asked, self._work.answers, folder)
            answer = self._transcriptions(uploads, asked, folder, guest.share, several=is_several(form, asked))
            return await (await _unless_gone(request, answer)).send(request)

    async def _transcriptions(
        self,
        uploads: list[Upload],
        asked: openai_rest.TranscriptionRequest,
        folder: Path,
        share: str,
        *,
        several: bool,
    ) -> Answer:
        try:
            async with asyncio.TaskGroup() as group:  # one that fails stops the others
                tasks = [group.create_task(self._one(upload, asked, share)) for upload in uploads]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        dones = [task.result() for task in tasks]

        def pieces() -> Iterable[bytes]:
            answers = [
                openai_rest.answer(d.transcript, asked, d.engine, u.name) for u, d in zip(uploads, dones, strict=True)
            ]
            return json_pieces({"results": answers}) if several else _pieces(*answers)

        return await self._work.answers.made(pieces, folder, "application/json" if several else _kind(asked))

    async def _one(
        self,
        upload: Upload,
        asked: openai_rest.TranscriptionRequest,
        share: str,
        listener: Listener = lambda _: None,
        accepted: Callable[[], None] = lambda: None,
    ) -> Done:
        def options(engine: EngineInfo) -> Options:
            found = asked.options(engine)
            accepted()
            return found

        return await self._work.transcribe(
            upload.path, asked.model, options, Coded(), mix=True, share=share, listener=listener
        )

    async def translations(self, request: web.Request) -> web.Response:
        """Say that nothing here translates."""
        try:
            self._authentication.identify(credential(request.headers), Scope.TRANSCRIBE)
            authenticated(request)
        except Refusal as refusal:
            return openai_refusal(refusal)
        message = "No model of this server translates; /v1/audio/transcriptions transcribes in the language spoken."
        return openai_refusal(openai_rest.refused(message, "model", code="unsupported_model"))

    async def from_url(self, request: web.Request) -> web.StreamResponse:
        """Transcribe the file at an address, for Reflector."""
        return await self._answered(self._address(request), openai_refusal)

    async def _address(self, request: web.Request) -> web.StreamResponse:
        async with self._let_in(request) as guest, _folder() as folder:
            receiver = self._receiver(request, folder, guest)
            asked, url, offset_s = reflector_request(json_object(await receiver.text(LONGEST_JSON)))
            work = self._from_url(asked, url, offset_s, folder, guest)
            return await (await _unless_gone(request, work)).send(request)

    async def _from_url(
        self, asked: openai_rest.TranscriptionRequest, url: str, offset_s: float, folder: Path, guest: Guest
    ) -> Answer:
        fetched = await self._work.fetched(url, folder / "fetched", guest.grow, guest.share)
        done = await self._work.transcribe(
            fetched.path, asked.model, asked.options, Coded(), mix=True, share=guest.share
        )

        def pieces() -> Iterable[bytes]:
            if asked.response_format is not None:
                return _pieces(openai_rest.answer(done.transcript, asked, done.engine, ""))
            described = openai_rest.reflector_words(done.transcript.words, offset_s)
            return json_pieces({"text": done.transcript.text, "words": described, "filename": None})

        return await self._work.answers.made(pieces, folder, _kind(asked))

    # Shared

    async def _close(self, _app: web.Application) -> None:
        self._work.answers.close()

    def _deepgram(self, request: web.Request) -> Refuse:
        return lambda refusal: answer(refusal, DeepgramEntry(request[REQUEST_ID], self._settings))

    async def _answered(self, work: Awaitable[web.StreamResponse], refused: Refuse) -> web.StreamResponse:
        """Return what the work does, or why it cannot be done, in the dialect's shape."""
        try:
            return await work
        except Refusal as refusal:
            return refused(refusal)
        except ConnectionError:
            raise
        except (OSError, sqlite3.Error) as error:
            shortage = refusal_of(error)
            if shortage is None:
                raise
            self._intake.disk_failed(error)
            return refused(shortage)

    @contextlib.asynccontextmanager
    async def _let_in(self, request: web.Request) -> AsyncIterator[Guest]:
        """Yield who asks. Raises `Refusal`."""
        identity = self._authentication.identify(credential(request.headers), Scope.TRANSCRIBE)
        authenticated(request)
        share = share_of(identity, request, self._authentication)
        async with self._admission.request(identity, self._jobs.unfinished):
            with self._intake.file(share) as grow:
                yield Guest(identity, share, grow)

    def _receiver(self, request: web.Request, folder: Path, guest: Guest) -> Receiver:
        return Receiver(request, folder, self._settings.max_upload_mb << 20, guest.grow, self._intake.least_free)


@contextlib.asynccontextmanager
async def _folder(parent: Path | None = None) -> AsyncIterator[Path]:
    """Yield a folder for this user alone that is gone afterwards, whatever happens. Raises `OSError`."""
    made = tempfile.TemporaryDirectory(prefix=UPLOADS, dir=parent, ignore_cleanup_errors=True)
    try:
        yield Path(made.name)
    finally:
        # Large files take a while to delete; a request that is cancelled leaves that to the thread.
        await asyncio.shield(asyncio.to_thread(made.cleanup))


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


def _kind(asked: openai_rest.TranscriptionRequest) -> str:
    return "text/plain" if asked.response_format in ("text", "srt", "vtt") else "application/json"


def _pieces(said: dict[str, Any] | str) -> Iterable[bytes]:
    return [said.encode()] if isinstance(said, str) else json_pieces(said)
