"""Fetches files from URLs given by clients: checks each address and redirect with the gate, and enforces limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientResponse, ClientSession, ClientTimeout
from yarl import URL

from myna.batch.address_gate import FAILURES, AddressGate, as_sent, explained
from myna.batch.disk import FileWriter
from myna.batch.pace import TOO_SLOW, Pace
from myna.wire.quoting import quoted

MOST_REDIRECTS = 5
STALL_S = 30.0
"""A fetch fails if the other server sends nothing for this long."""
_CHUNK = 1 << 18
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "myna"}


class FetchError(Exception):
    """The file cannot be fetched. `status` is the other server's HTTP status, if it answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file on disk: its length in bytes and its SHA-256."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Limits on one file: its bytes, the seconds of the whole fetch, and the bytes that stay free on the disk.

    `share` is the client on whose behalf the file is fetched. `grow` is called with the number of bytes before they are
    written, and may raise.
    """

    most_bytes: int
    within_s: float
    least_free: int = 0
    grow: Callable[[int], None] = lambda _: None
    share: str = ""


async def fetch(url: str, path: Path, gate: AddressGate, limits: FetchLimits) -> Fetched:
    """Fetch a file to `path`, synced. Raises `FetchError`, and `OSError` if the file cannot be written."""
    try:
        async with asyncio.timeout(limits.within_s), gate.session(limits.within_s, limits.share) as session:
            return await _follow(session, url, path, gate, limits)
    except TimeoutError:
        raise FetchError(
            f"the file was not received within {limits.within_s:g} s, or the server that has it stopped sending"
        ) from None


async def _follow(session: ClientSession, url: str, path: Path, gate: AddressGate, limits: FetchLimits) -> Fetched:
    for _ in range(MOST_REDIRECTS + 1):
        timeout = ClientTimeout(sock_read=STALL_S, sock_connect=STALL_S)
        try:
            address = gate.check(url)
            response = await session.get(address, headers=_HEADERS, allow_redirects=False, timeout=timeout)
        except ValueError as error:  # UnicodeError: a name that cannot be resolved; InvalidURL
            raise FetchError(str(error)) from error
        except TimeoutError:
            raise
        except FAILURES as error:
            raise FetchError(f"the file cannot be fetched: {explained(error)}") from error
        async with response:
            if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                url = _joined(address, response.headers["Location"])
                continue
            if response.status != 200:
                raise FetchError(f"the file's server answered with HTTP {response.status}", response.status)
            if (response.content_length or 0) > limits.most_bytes:
                raise FetchError(
                    f"the file has {response.content_length} bytes; at most {limits.most_bytes} are possible"
                )
            return await _stored(response, path, limits)
    raise FetchError(f"more than {MOST_REDIRECTS} redirects")


async def _stored(response: ClientResponse, path: Path, limits: FetchLimits) -> Fetched:
    pace = Pace(asyncio.get_running_loop().time)
    pace.is_slow(0)
    async with FileWriter(path, limits.grow, limits.least_free) as file:
        while data := await _next(response):
            if pace.is_slow(file.size + len(data)):
                raise FetchError(f"the file's server is too slow: it sends {TOO_SLOW}")
            if file.size + len(data) > limits.most_bytes:
                raise FetchError(f"the file exceeds the limit of {limits.most_bytes} bytes")
            await file.write(data)
        return Fetched(path, file.size, await file.finish(sync=True))


async def _next(response: ClientResponse) -> bytes:
    try:
        return await response.content.read(_CHUNK)
    except TimeoutError:
        raise
    except FAILURES as error:
        raise FetchError(f"the file cannot be fetched: {explained(error)}") from error


def _joined(address: URL, location: str) -> str:
    """Return the target of a redirect. The user and password of the first address are not passed on."""
    try:
        return str(address.with_user(None).join(as_sent(location)))
    except ValueError as error:
        raise FetchError(f"the file's server redirects to {quoted(location)}, which is not a valid address") from error
