"""Which front serves a request: files have a front of their own, and a stream is resumed where it is."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from aiohttp import web

from myna.runtime.errors import Refusal
from myna.server.dialects.registry import has_files
from myna.server.fronts.peers import pass_on
from myna.server.fronts.role import FILES, Role
from myna.server.http.diversion import Destination
from myna.server.http.errors import error_response
from myna.wire import messages as wire

_RETRY_S = 5


def resume_prefix(role: Role) -> str:
    """Return what the front's tokens for resumption begin with: its number, by which the other fronts know the owner."""
    return f"{role.number}."


def front_of(line: bytes, role: Role) -> int | None:
    """Return the number of the front that serves the request with this first line; None if any front does."""
    parts = line.decode("latin-1").split()
    if len(parts) != 3:
        return None  # not HTTP: the connection's own front says so
    path, _, query = parts[1].partition("?")
    if has_files(parts[0], path):
        return FILES
    if path != wire.PATH or "resume=" not in query:
        return None
    token = parse_qs(query, max_num_fields=100).get("resume", [""])[-1]
    number, dot, _ = token.partition(".")
    known = dot and number.isascii() and number.isdecimal() and len(number) < 6 and int(number) <= role.fronts
    return int(number) if known else None


def destination_of(line: bytes, role: Role) -> Destination | None:
    """Return where the connection of the request with this first line is passed; None: this front serves it."""
    try:
        number = front_of(line, role)
    except ValueError:  # too many parameters: the dialect refuses the request
        return None
    return None if number in (None, role.number) else functools.partial(pass_on, role.peer(number or FILES))


@web.middleware
async def no_files(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse a request with files. It reaches a front for streams only while the front for files is not running."""
    if has_files(request.method, request.path):
        message = "The process for files is being restarted; retry in a moment."
        return error_response(Refusal(503, "too_busy", message, retry_after_s=_RETRY_S), request)
    return await handler(request)
