"""Handles Reflector's requests with files in a form: its transcription route, and the older `/transcribe`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from aiohttp import web

from myna.batch.disk import Upload
from myna.batch.json_pieces import json_pieces
from myna.runtime.tasks import all_of
from myna.server.dialects.openai.rest import TranscriptionRequest
from myna.server.dialects.openai.transcriptions import PATH
from myna.server.dialects.reflector.errors import reflector_response, refused, validated
from myna.server.dialects.reflector.requests import (
    PREFIX,
    FormFields,
    TranscribeFields,
    extensions,
    without_empty,
)
from myna.server.dialects.reflector.words import answer, older_answer, parsed, transcribed
from myna.server.http.answers import Answer
from myna.server.http.file_requests import Admitted, FileRequests, temporary_folder, unless_gone
from myna.server.http.file_work import FileWork
from myna.server.http.uploads import Form

TRANSCRIBE = "/transcribe"


class ReflectorForms:
    """Handlers of one server."""

    def __init__(self, requests: FileRequests, work: FileWork) -> None:
        self._requests = requests
        self._work = work

    def add_to(self, app: web.Application) -> None:
        """Add the routes. The address shared with OpenAI's clients is not among them."""
        app.router.add_post(f"{PREFIX}{PATH}", self.transcriptions)
        for prefix in ("", PREFIX):
            app.router.add_post(f"{prefix}{TRANSCRIBE}", self.transcribe)

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        """Transcribe the file, or the files, of a form."""
        return await self._requests.answered(self._transcriptions(request), reflector_response)

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        """Transcribe the file of a form, in the format of Reflector's API before 2025."""
        return await self._requests.answered(self._transcribe(request), reflector_response)

    async def _transcriptions(self, request: web.Request) -> web.StreamResponse:
        async with self._requests.admit(request) as admitted, temporary_folder() as folder:
            form = await self._form(request, folder, admitted)
            fields = without_empty(form.fields)
            asked = validated(FormFields, fields, "body")
            uploads = _uploads_of(form, batch=asked.batch)
            wanted = parsed(asked.model, asked.language, extensions(fields))
            work = self._answer(uploads, wanted, folder, admitted.share)
            return await (await unless_gone(request, work)).send(request)

    async def _answer(self, uploads: list[Upload], asked: TranscriptionRequest, folder: Path, share: str) -> Answer:
        dones = await all_of(transcribed(self._work, upload.path, asked, share) for upload in uploads)

        def pieces() -> Iterable[bytes]:
            answers = [answer(done, asked, upload.name) for upload, done in zip(uploads, dones, strict=True)]
            return json_pieces({"results": answers} if len(answers) > 1 else answers[0])

        return await self._work.answers.made(pieces, folder)

    async def _transcribe(self, request: web.Request) -> web.StreamResponse:
        async with self._requests.admit(request) as admitted, temporary_folder() as folder:
            form = await self._form(request, folder, admitted)
            asked = validated(TranscribeFields, {**request.query, **without_empty(form.fields)}, "body")
            uploads = [upload for name, upload in form.files if name == "file"]
            if len(uploads) != 1:
                raise refused(f"The form must have one 'file', not {len(uploads)}.")
            wanted = parsed("", asked.language or asked.source_language)
            work = self._older(uploads[0], wanted, asked.timestamp, folder, admitted.share)
            return await (await unless_gone(request, work)).send(request)

    async def _older(
        self, upload: Upload, asked: TranscriptionRequest, offset_s: float, folder: Path, share: str
    ) -> Answer:
        done = await transcribed(self._work, upload.path, asked, share)
        return await self._work.answers.made(lambda: json_pieces(older_answer(done, asked, offset_s)), folder)

    async def _form(self, request: web.Request, folder: Path, admitted: Admitted) -> Form:
        """Return the request's form. A form without files may be encoded like a query, and is empty here."""
        if request.content_type == "application/x-www-form-urlencoded":
            return Form()
        return await self._requests.receiver(request, folder, admitted).form()


def _uploads_of(form: Form, *, batch: bool) -> list[Upload]:
    """Return the files of a form that are to be transcribed: `file`, else `files`. Raises `Refusal`."""
    single = [upload for name, upload in form.files if name == "file"]
    several = [upload for name, upload in form.files if name.removesuffix("[]") == "files"]
    if not single and not several:
        raise refused("Either 'file' or 'files' parameter is required")
    if batch and not several:
        raise refused("Batch transcription requires 'files'")
    return single[-1:] or several
