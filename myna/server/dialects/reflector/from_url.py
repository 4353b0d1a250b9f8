"""Handles `transcriptions-from-url`, and OpenAI's transcription route at Reflector's own addresses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from aiohttp import web

from myna.batch.json_pieces import json_pieces
from myna.server.dialects.openai import rest
from myna.server.dialects.openai.errors import openai_response
from myna.server.dialects.openai.transcriptions import PATH, Transcriptions, body_pieces, content_type
from myna.server.dialects.reflector.requests import PREFIX, parse
from myna.server.http.answers import Answer
from myna.server.http.file_requests import LONGEST_JSON, Admitted, FileRequests, temporary_folder, unless_gone
from myna.server.http.file_work import FileWork
from myna.server.http.json_body import json_object
from myna.streaming.audio.raw import Coded

FROM_URL = f"{PATH}-from-url"


class FromUrl:
    """Handlers of one server."""

    def __init__(self, requests: FileRequests, work: FileWork, transcriptions: Transcriptions) -> None:
        self._requests = requests
        self._work = work
        self._transcriptions = transcriptions

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post(FROM_URL, self.from_url)
        app.router.add_post(f"{PREFIX}{FROM_URL}", self.from_url)
        app.router.add_post(f"{PREFIX}{PATH}", self._transcriptions.transcriptions)

    async def from_url(self, request: web.Request) -> web.StreamResponse:
        """Transcribe the file at an address."""
        return await self._requests.answered(self._from_url(request), openai_response)

    async def _from_url(self, request: web.Request) -> web.StreamResponse:
        async with self._requests.admit(request) as admitted, temporary_folder() as folder:
            receiver = self._requests.receiver(request, folder, admitted)
            asked, url, offset_s = parse(json_object(await receiver.text(LONGEST_JSON)))
            work = self._answer(asked, url, offset_s, folder, admitted)
            return await (await unless_gone(request, work)).send(request)

    async def _answer(
        self, asked: rest.TranscriptionRequest, url: str, offset_s: float, folder: Path, admitted: Admitted
    ) -> Answer:
        fetched = await self._work.fetched(url, folder / "fetched", admitted.grow, admitted.share)
        done = await self._work.transcribe(
            fetched.path, asked.model, asked.options, Coded(), mix=True, share=admitted.share,
            speakers=asked.speakers, needs_speakers=True,
        )  # fmt: skip

        def pieces() -> Iterable[bytes]:
            if asked.response_format is not None:
                return body_pieces(rest.answer(done.transcript, asked, done.engine, ""))
            words = rest.spaced_words(done.transcript.words, offset_s)
            return json_pieces({"text": done.transcript.text, "words": words, "filename": None})

        return await self._work.answers.made(pieces, folder, content_type(asked))
