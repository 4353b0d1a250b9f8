"""Handles Reflector's `transcriptions-from-url`: the words of the file at an address."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from aiohttp import web

from myna.batch.json_pieces import json_pieces
from myna.server.dialects.openai import rest
from myna.server.dialects.openai.transcriptions import PATH, body_pieces, content_type
from myna.server.dialects.reflector.errors import reflector_response, refused, validated
from myna.server.dialects.reflector.requests import PREFIX, FromUrlBody, extensions
from myna.server.dialects.reflector.words import answer, parsed, transcribed
from myna.server.http.answers import Answer
from myna.server.http.file_requests import LONGEST_JSON, Admitted, FileRequests, temporary_folder, unless_gone
from myna.server.http.file_work import FileWork
from myna.server.http.json_body import json_object

FORMAT = "response_format"
"""An extension: the answer has one of OpenAI's formats."""
FROM_URL = f"{PATH}-from-url"


class FromUrl:
    """The handler of one server."""

    def __init__(self, requests: FileRequests, work: FileWork) -> None:
        self._requests = requests
        self._work = work

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        for prefix in ("", PREFIX):
            app.router.add_post(f"{prefix}{FROM_URL}", self.from_url)

    async def from_url(self, request: web.Request) -> web.StreamResponse:
        """Transcribe the file at an address."""
        return await self._requests.answered(self._from_url(request), reflector_response)

    async def _from_url(self, request: web.Request) -> web.StreamResponse:
        async with self._requests.admit(request) as admitted, temporary_folder() as folder:
            receiver = self._requests.receiver(request, folder, admitted)
            body = json_object(await receiver.text(LONGEST_JSON))
            asked = validated(FromUrlBody, body, "body")
            wanted = parsed(asked.model, asked.language, extensions(body, FORMAT))
            if asked.timestamp_offset and wanted.response_format is not None:
                raise refused(f"timestamp_offset must be 0 with {FORMAT}={wanted.response_format}.")
            return await (await unless_gone(request, self._answer(asked, wanted, folder, admitted))).send(request)

    async def _answer(
        self, asked: FromUrlBody, wanted: rest.TranscriptionRequest, folder: Path, admitted: Admitted
    ) -> Answer:
        fetched = await self._work.fetched(asked.audio_file_url, folder / "fetched", admitted.grow, admitted.share)
        done = await transcribed(self._work, fetched.path, wanted, admitted.share)

        def pieces() -> Iterable[bytes]:
            if wanted.response_format is not None:
                return body_pieces(rest.answer(done.transcript, wanted, done.engine, ""))
            return json_pieces(answer(done, wanted, None, asked.timestamp_offset))

        return await self._work.answers.made(pieces, folder, content_type(wanted))
