"""The id of a request: where a request carries it, and the header that tells it to the client."""

from __future__ import annotations

import uuid

from aiohttp import web

REQUEST_ID = web.RequestKey("request_id", str)
"""The key under which a request carries its id."""
HEADER = "dg-request-id"


async def send_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Put the request's id into the response's headers."""
    response.headers[HEADER] = request.get(REQUEST_ID) or str(uuid.uuid4())
