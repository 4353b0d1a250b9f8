"""Handles Reflector's `/diarize`: who spoke when in the file at an address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aiohttp import web

from myna.batch.diarization import Diarization
from myna.batch.json_pieces import json_pieces
from myna.server.dialects.parameters import Parameters
from myna.server.dialects.reflector.errors import reflector_response, validated
from myna.server.dialects.reflector.requests import PREFIX, DiarizeQuery, without_empty
from myna.server.dialects.speaker_limits import limits_of
from myna.server.http.answers import Answer
from myna.server.http.file_requests import Admitted, FileRequests, temporary_folder, unless_gone
from myna.server.http.file_work import FileWork
from myna.streaming.events import seconds
from myna.streaming.speakers.labelling import SpeakerLimits

PATH = "/diarize"


class Diarize:
    """The handler of one server."""

    def __init__(self, requests: FileRequests, work: FileWork) -> None:
        self._requests = requests
        self._work = work

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        for prefix in ("", PREFIX):
            app.router.add_post(f"{prefix}{PATH}", self.diarize)

    async def diarize(self, request: web.Request) -> web.StreamResponse:
        """Return the turns of the speakers."""
        return await self._requests.answered(self._diarize(request), reflector_response)

    async def _diarize(self, request: web.Request) -> web.StreamResponse:
        async with self._requests.admit(request) as admitted, temporary_folder() as folder:
            asked = validated(DiarizeQuery, without_empty(request.query.items()), "query")
            limits = limits_of(Parameters(request.query.items(), "invalid_value"), wanted=True, asking=PATH)
            work = self._answer(asked.audio_file_url, asked.timestamp, limits, folder, admitted)
            return await (await unless_gone(request, work)).send(request)

    async def _answer(
        self, url: str, offset_s: float, limits: SpeakerLimits | None, folder: Path, admitted: Admitted
    ) -> Answer:
        fetched = await self._work.fetched(url, folder / "fetched", admitted.grow, admitted.share)
        found = await self._work.diarize(fetched.path, limits, share=admitted.share)
        return await self._work.answers.made(
            lambda: json_pieces({"diarization": _turns(found, offset_s)}), folder, "application/json"
        )


def _turns(found: Diarization, offset_s: float) -> Iterator[dict[str, object]]:
    for turn in found.turns:
        start, end = (
            round(min(seconds(at), found.duration_s) + offset_s, 3) for at in (turn.span.start, turn.span.end)
        )
        if start < end:
            yield {"start": start, "end": end, "speaker": turn.speaker}
