"""Serves the browser client at `/`: static files that know only the server's address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

import myna

FOLDER = (Path(myna.__file__).parent / "clients" / "web").resolve()
PREFIX = "/web"
_POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
)
"""The page loads nothing from other origins, and no other page may embed it."""
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


def add_to(app: web.Application) -> None:
    """Add the routes of the page and its files."""
    app.router.add_get("/", _sender("index.html"))
    for path in FOLDER.iterdir():
        app.router.add_get(f"{PREFIX}/{path.name}", _sender(path.name))


def _sender(name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def send(_request: web.Request) -> web.StreamResponse:
        return web.FileResponse(FOLDER / name, headers=_HEADERS)

    return send
