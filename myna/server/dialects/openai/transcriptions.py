"""Handles `POST /v1/audio/transcriptions` and `/v1/audio/translations`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from myna.batch.disk import Upload
from myna.batch.json_pieces import json_pieces
from myna.batch.transcriber import Listener
from myna.runtime.tasks import all_of
from myna.server.dialects.openai import event_stream, rest
from myna.server.dialects.openai.errors import openai_response, refused
from myna.server.dialects.openai.known_speakers import LONGEST_REFERENCE, REFERENCES, clips_of, unusable
from myna.server.http.answers import Answer
from myna.server.http.file_requests import FileRequests, temporary_folder, unless_gone
from myna.server.http.file_work import ClipRefusal, Done, FileWork
from myna.server.http.uploads import Form
from myna.streaming.audio.raw import Coded
from myna.streaming.session.jobs import EngineInfo

PATH = "/v1/audio/transcriptions"


class Transcriptions:
    """Handlers of one server."""

    def __init__(self, requests: FileRequests, work: FileWork) -> None:
        self._requests = requests
        self._work = work

    def add_to(self, app: web.Application) -> None:
        """Add the route of translations. The other address is shared with Reflector's clients."""
        app.router.add_post("/v1/audio/translations", self.translations)

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        """Transcribe the file, or files, of a form."""
        return await self._requests.answered(self._form(request, translate=False), openai_response)

    async def translations(self, request: web.Request) -> web.StreamResponse:
        """Write the speech of a form's file in English."""
        return await self._requests.answered(self._form(request, translate=True), openai_response)

    async def _form(self, request: web.Request, *, translate: bool) -> web.StreamResponse:
        async with self._requests.admit(request) as admitted, temporary_folder() as folder:
            receiver = self._requests.receiver(request, folder, admitted)
            form = await receiver.form(REFERENCES, LONGEST_REFERENCE)
            asked = rest.parse(form.fields, translate=translate)
            uploads = _uploads_of(form, asked)
            clips = await clips_of(asked.known_names, form.stored, diarized=asked.speakers is not None)
            if asked.stream:
                work = partial(self._transcript, uploads[0], clips, asked, admitted.share)
                return await event_stream.stream(request, work, asked, self._work.answers, folder)
            several = len(form.files) > 1 or asked.batch
            answer = self._answer(uploads, clips, asked, folder, admitted.share, several=several)
            return await (await unless_gone(request, answer)).send(request)

    async def _answer(
        self,
        uploads: list[Upload],
        clips: list[Path],
        asked: rest.TranscriptionRequest,
        folder: Path,
        share: str,
        *,
        several: bool,
    ) -> Answer:
        dones = await all_of(self._transcript(upload, clips, asked, share) for upload in uploads)

        def pieces() -> Iterable[bytes]:
            answers = [rest.answer(d.transcript, asked, d.engine, u.name) for u, d in zip(uploads, dones, strict=True)]
            return json_pieces({"results": answers}) if several else body_pieces(*answers)

        return await self._work.answers.made(pieces, folder, "application/json" if several else content_type(asked))

    async def _transcript(
        self,
        upload: Upload,
        clips: list[Path],
        asked: rest.TranscriptionRequest,
        share: str,
        listener: Listener = lambda _: None,
        accepted: Callable[[EngineInfo], None] = lambda _: None,
    ) -> Done:
        """Return the transcript of one file; call `accepted` when nothing but the file can be the reason for a refusal."""
        try:
            return await self._work.transcribe(
                upload.path, asked.model, asked.options, Coded(), mix=True, share=share, listener=listener,
                speakers=asked.speakers, needs_speakers=True, clips=clips, accepted=accepted,
            )  # fmt: skip
        except ClipRefusal as error:
            raise refused(unusable(error.number, error.reason), REFERENCES) from error


def content_type(asked: rest.TranscriptionRequest) -> str:
    """Return the content type of an answer."""
    return "text/plain" if asked.response_format in ("text", "srt", "vtt") else "application/json"


def body_pieces(answer: dict[str, Any] | str) -> Iterable[bytes]:
    """Yield an answer's body in pieces."""
    return [answer.encode()] if isinstance(answer, str) else json_pieces(answer)


def _uploads_of(form: Form, asked: rest.TranscriptionRequest) -> list[Upload]:
    """Return the files of a form that are to be transcribed. Raises `Refusal`."""
    single = [upload for name, upload in form.files if name == "file"]
    several = [upload for name, upload in form.files if name.removesuffix("[]") == "files"]
    if asked.batch and not several:
        raise refused("Batch transcription requires 'files'", "files")
    uploads = single or several
    if not uploads:
        raise refused("Either 'file' or 'files' parameter is required", "file")
    if len(single) > 1:
        raise refused("'file' was given more than once. Send several files as 'files'.", "file")
    return uploads
