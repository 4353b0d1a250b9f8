"""Handles Reflector's `/pad`: silence before a track, stored where the client says."""

from __future__ import annotations

import math
from pathlib import Path

from aiohttp import web

from myna.server.dialects.reflector.errors import reflector_response, refused, validated
from myna.server.dialects.reflector.requests import PREFIX, PadBody
from myna.server.http.file_requests import LONGEST_JSON, Admitted, FileRequests, temporary_folder, unless_gone
from myna.server.http.file_work import FileWork
from myna.server.http.json_answer import json_answer
from myna.server.http.json_body import json_object

PATH = "/pad"
LONGEST_PAD_S = 18_000
"""Seconds of silence: Reflector's own limit."""


class Pad:
    """The handler of one server."""

    def __init__(self, requests: FileRequests, work: FileWork) -> None:
        self._requests = requests
        self._work = work

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        for prefix in ("", PREFIX):
            app.router.add_post(f"{prefix}{PATH}", self.pad)

    async def pad(self, request: web.Request) -> web.StreamResponse:
        """Put silence before a track."""
        return await self._requests.answered(self._pad(request), reflector_response)

    async def _pad(self, request: web.Request) -> web.StreamResponse:
        async with self._requests.admit(request) as admitted, temporary_folder() as folder:
            body = json_object(await self._requests.receiver(request, folder, admitted).text(LONGEST_JSON))
            asked = validated(PadBody, body, "body")
            _check(asked)
            size = await unless_gone(request, self._padded(asked, folder, admitted))
            return json_answer({"size": size, "cancelled": False})

    async def _padded(self, asked: PadBody, folder: Path, admitted: Admitted) -> int:
        fetched = await self._work.fetched(asked.track_url, folder / "fetched", admitted.grow, admitted.share)
        pad_ms = math.floor(asked.start_time_seconds * 1000)
        return await self._work.pad(
            fetched.path, pad_ms, folder / "padded", asked.output_url, grow=admitted.grow, share=admitted.share
        )


def _check(asked: PadBody) -> None:
    """Raise the `Refusal` of a value that Reflector's server refuses, in its words."""
    for name, url in (("track_url", asked.track_url), ("output_url", asked.output_url)):
        if not url.strip():
            raise refused(f"{name} cannot be empty")
    if asked.start_time_seconds <= 0:
        raise refused(f"start_time_seconds must be positive, got {asked.start_time_seconds}")
    if asked.start_time_seconds > LONGEST_PAD_S:
        raise refused(f"start_time_seconds exceeds maximum {LONGEST_PAD_S}s (5 hours)")
