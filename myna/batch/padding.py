"""Puts silence before the sound of a file, and stores the result at an address: what a mix of tracks needs of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aiohttp import ClientTimeout

from myna.batch.address_gate import FAILURES, AddressGate, explained
from myna.batch.disk import check_free, private_file
from myna.media.pool import DecoderPool
from myna.runtime.threads import on_thread

STORE_S = 60.0
"""Seconds that storing may take: Reflector's own limit on a transfer."""
MEDIA_TYPE = "audio/webm"


class StoreError(Exception):
    """The file cannot be stored at the address."""


async def pad(
    decoders: DecoderPool, path: Path, pad_ms: int, made: Path, grow: Callable[[int], None], least_free: int
) -> int:
    """Write the file's sound after `pad_ms` of silence to `made`, as WebM with Opus; return its bytes.

    `grow` is called with a number of bytes before they are written, and may raise. `least_free` bytes of the disk stay free.
    Raises `AudioError`, `DecoderLostError` and `OSError`.
    """
    size = 0
    with await on_thread(partial(private_file, made), lambda file: file.close()) as file:

        def put(place: int, piece: bytes) -> None:
            check_free(made.parent, least_free)
            os.pwrite(file.fileno(), piece, place)

        async def write(place: int, piece: bytes) -> None:
            nonlocal size
            grow(max(0, place + len(piece) - size))
            size = max(size, place + len(piece))
            await on_thread(partial(put, place, piece))

        await decoders.padded(path, pad_ms, write)
    return size


async def store(url: str, path: Path, size: int, gate: AddressGate, share: str) -> None:
    """Send a file of `size` bytes to an address with PUT, on behalf of the client `share`. Raises `StoreError`."""
    headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(size)}
    timeout = ClientTimeout(total=STORE_S)
    try:
        with await on_thread(partial(path.open, "rb"), lambda file: file.close()) as file:
            async with (
                gate.session(STORE_S, share) as session,
                session.put(
                    gate.check(url), data=file, headers=headers, allow_redirects=False, timeout=timeout
                ) as response,
            ):
                if response.status >= 300:
                    raise StoreError(f"its server answered with HTTP {response.status}")
    except TimeoutError as error:
        raise StoreError(f"it was not stored within {STORE_S:g} s") from error
    except FAILURES as error:
        raise StoreError(explained(error)) from error
