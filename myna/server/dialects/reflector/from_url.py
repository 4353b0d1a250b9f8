"""Handles Reflector's `transcriptions-from-url`: the words of the file at an address."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from myna.batch.json_pieces import json_pieces
from myna.server.dialects.openai.rest import TranscriptionRequest
from myna.server.dialects.openai.transcriptions import PATH
from myna.server.dialects.reflector.errors import reflector_response, validated
from myna.server.dialects.reflector.requests import PREFIX, FromUrlBody, extensions
from myna.server.dialects.reflector.words import answer, parsed, transcribed
from myna.server.http.answers import Answer
from myna.server.http.file_requests import LONGEST_JSON, Admitted, FileRequests, temporary_folder, unless_gone
from myna.server.http.file_work import FileWork
from myna.server.http.json_body import json_object

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
            wanted = parsed(asked.model, asked.language, extensions(body))
            return await (await unless_gone(request, self._answer(asked, wanted, folder, admitted))).send(request)

    async def _answer(
        self, asked: FromUrlBody, wanted: TranscriptionRequest, folder: Path, admitted: Admitted
    ) -> Answer:
        fetched = await self._work.fetched(asked.audio_file_url, folder / "fetched", admitted.grow, admitted.share)
        transcript = await transcribed(self._work, fetched.path, wanted, admitted.share)
        return await self._work.answers.made(
            lambda: json_pieces(answer(transcript, None, asked.timestamp_offset)), folder
        )
