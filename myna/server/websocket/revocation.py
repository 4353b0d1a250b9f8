"""Ends the live streams of API keys that were removed, or lost the scope that admitted the stream."""

from __future__ import annotations

import asyncio

import structlog

from myna.runtime.errors import DialectError
from myna.server.keys import Authentication
from myna.server.services import Services

log = structlog.get_logger()

CHECK_EVERY_S = 1.0
"""Seconds between two checks of the key file's date. A changed file counts for the next client at once. A stream ends when
its key is missing in two checks in a row."""


async def watch(authentication: Authentication, services: Services) -> None:
    """Reload the keys when their file changes, and end the streams that they no longer allow. Runs until cancelled."""
    ended: set[str] = set()
    missing: set[str] = set()
    while True:
        await asyncio.sleep(CHECK_EVERY_S)
        authentication.reload_if_changed()
        ended &= services.streams.keys()
        before, missing = missing, set()
        for name, stream in list(services.streams.items()):
            if name in ended or authentication.still_allows(stream.identity):
                continue
            missing.add(name)
            if name in before:  # one check may have read a file that an editor had half written
                ended.add(name)
                log.warning("a stream ends because its API key was removed", stream=name)
                stream.shut_down(DialectError("unauthorized", "the API key of this stream has been removed"))
