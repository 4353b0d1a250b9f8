"""Short JSON answers over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from aiohttp import web

from myna.wire import strictjson


def json_answer(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an answer in JSON. Raises `ValueError` if the body has a value that JSON cannot express."""
    return web.json_response(body, status=status, headers=headers, dumps=strictjson.dumps)


def compact_answer(body: object) -> web.Response:
    """Return an answer in JSON on one line without spaces, for programs that compare it as text."""
    return web.json_response(body, dumps=partial(strictjson.dumps, ascii_only=False))
