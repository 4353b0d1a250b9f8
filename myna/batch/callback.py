"""Sends results to an address of the client's, one HTTP request for each, in order."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import structlog
from aiohttp import ClientTimeout

from myna.batch.address_gate import AddressGate, explained

log = structlog.get_logger()

TIMEOUT_S = 10.0
"""Limit on one attempt, plus one second for each `_BYTES_A_SECOND` of its body."""
_BYTES_A_SECOND = 256 * 1024
_PAUSES_S = (0.5, 2.0)
"""Pauses before the second and the third attempt, which is the last: later results wait meanwhile."""
_MOST_LOST = 3
"""After this many undelivered results in a row, the sender makes no further attempts."""


@dataclass(frozen=True, slots=True)
class Callback:
    """The address that receives results, and the HTTP method of the requests."""

    url: str
    method: str = "POST"
    key_header: str = ""
    """Header that carries the name of the API key that owns the result; empty: no header."""
    key_name: str = ""


class CallbackSender:
    """Sends payloads to a callback address. Use as an async context manager. Raises `ValueError` for a bad address."""

    def __init__(self, callback: Callback, gate: AddressGate, share: str) -> None:
        self._callback = callback
        self._url = gate.check(callback.url)
        self._headers = {"Content-Type": "application/json"}
        if callback.key_header:
            self._headers[callback.key_header] = callback.key_name
        self._session = gate.session(TIMEOUT_S, share)
        self._lost = 0

    async def __aenter__(self) -> CallbackSender:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, payload: str | bytes) -> None:
        """Send a payload, in up to three attempts. After three undelivered payloads in a row, do nothing."""
        if self._lost >= _MOST_LOST:
            return
        reason = None
        for pause_s in (*_PAUSES_S, None):
            reason = await self.attempt(payload)
            if reason is None:
                self._lost = 0
                return
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        self._lost += 1
        log.warning("callback not delivered", host=self._url.host, reason=reason, given_up=self._lost >= _MOST_LOST)

    async def attempt(self, payload: str | bytes) -> str | None:
        """Send once; return the reason for a failure, or None. Raises nothing."""
        return await self._request(payload, len(payload))

    async def attempt_file(self, path: Path) -> str | None:
        """Send a file's content once; return the reason for a failure, or None. Raises `OSError` for the file."""
        with path.open("rb") as file:
            return await self._request(file, os.fstat(file.fileno()).st_size)

    async def _request(self, data: object, size: int) -> str | None:
        timeout = ClientTimeout(total=TIMEOUT_S + size / _BYTES_A_SECOND)
        try:
            async with self._session.request(
                self._callback.method,
                self._url,
                data=data,
                headers=self._headers,
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                return None if response.status < 300 else f"HTTP {response.status}"
        except Exception as error:  # the peer and the resolver can raise many types
            return explained(error)
