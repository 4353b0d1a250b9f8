"""One log line and one measurement for each request: what was asked, how it ended, how long it took. Never what was said."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Literal

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from myna.server.http.request_id import REQUEST_ID
from myna.server.operations.metrics import Metrics
from myna.server.serving import SERVED_BY

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RequestKind = Literal["stream", "batch", "other"]
"""A live stream, a request with files, or anything else."""
KIND = web.RequestKey("kind", str)
"""The key under which a handler notes the request's kind, unless it is `other`."""
GONE = 499
"""The status of a request whose client left before its answer, as nginx has it."""
_QUIET = ("/health", "/health/live", "/health/ready", "/metrics", "/v1/status", "/v1/status/engine")
"""Routes that programs ask for every few seconds: their lines have the level `debug`."""


def logging_to(metrics: Metrics) -> Middleware:
    """Return the middleware that logs and measures requests, to be the outermost."""

    @web.middleware
    async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
        began, models, status = time.monotonic(), list[str](), GONE
        SERVED_BY.set(models)
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else "none"
            took_s = time.monotonic() - began
            metrics.request_ended(route, request.get(KIND, "other"), status, took_s)
            write = log.debug if route in _QUIET else log.info
            write(
                "request", request_id=request.get(REQUEST_ID), method=request.method, route=route, status=status,
                model=",".join(models) or None, seconds=round(took_s, 3),
            )  # fmt: skip

    return logged
