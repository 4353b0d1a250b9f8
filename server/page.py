"""The page at `/`: files of the browser client, which know nothing of this server but its address."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

import myna

FOLDER = (Path(myna.__file__).parent / "clients" / "web").resolve()
PREFIX = "/web"
_POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
)
"""The page loads nothing from elsewhere, and nobody may put it into theirs."""


def add_to(app: web.Application) -> None:
    """Give the page and its files their routes."""
    app.router.add_get("/", _page)
    app.router.add_get(PREFIX + r"/{name:[\w.]+}", _file)


async def _page(_request: web.Request) -> web.StreamResponse:
    return _sent("index.html")


async def _file(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    if name not in {path.name for path in FOLDER.iterdir()}:
        raise web.HTTPNotFound
    return _sent(name)


def _sent(name: str) -> web.FileResponse:
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return web.FileResponse(FOLDER / name, headers=headers)
