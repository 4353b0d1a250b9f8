"""Ends the live streams of keys that have been removed, or have lost the scope that let the stream in."""

from __future__ import annotations

import asyncio

import structlog

from myna.server.keys import Authentication
from myna.runtime.errors import DialectError
from myna.server.services import Services

log = structlog.get_logger()

LOOK_S = 1.0
"""The key file's date is looked at so often; what is read then also counts for the next client. A stream ends when its key is
missing at two looks in a row."""


async def watch(authentication: Authentication, services: Services) -> None:
    """Look at the keys again and again, and end the streams that none of them allows any more. Runs until cancelled."""
    told: set[str] = set()
    doubtful: set[str] = set()
    while True:
        await asyncio.sleep(LOOK_S)
        authentication.look()
        told &= services.streams.keys()
        before, doubtful = doubtful, set()
        for name, stream in list(services.streams.items()):
            if name in told or authentication.still_allows(stream.identity):
                continue
            doubtful.add(name)
            if name in before:  # one look may have met a file that an editor had written half of
                told.add(name)
                log.warning("a stream ends: its key is gone", stream=name)
                stream.retire(DialectError("unauthorized", "the API key of this stream has been removed"))
