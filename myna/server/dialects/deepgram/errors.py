"""Deepgram's error format."""

from __future__ import annotations

import re

from aiohttp import web
from typing_extensions import TypedDict

from myna.runtime.errors import Refusal
from myna.server.dialects.base import Refused
from myna.server.http.errors import refusal_response
from myna.server.http.request_id import REQUEST_ID

_NAMES = {"remote_content": "REMOTE_CONTENT_ERROR"}
CODES = {
    400: "Bad Request",
    401: "INVALID_AUTH",
    403: "INSUFFICIENT_PERMISSIONS",
    429: "TOO_MANY_REQUESTS",
    503: "SERVICE_UNAVAILABLE",
}
"""`err_code` by status; for any other status it is the refusal's code in capitals."""
_LONGEST_HEADER = 500
"""Characters of a message in a header."""


class DeepgramError(TypedDict):
    """The body of an error."""

    err_code: str
    err_msg: str
    request_id: str


def error_body(refusal: Refusal, request_id: str) -> DeepgramError:
    """Return a refusal as Deepgram's servers write it."""
    return {
        "err_code": _NAMES.get(refusal.code) or CODES.get(refusal.status, refusal.code.upper()),
        "err_msg": refusal.message if refusal.status != 400 else f"Bad Request: {refusal.message}",
        "request_id": request_id,
    }


def refused_stream(refusal: Refusal, request_id: str) -> Refused:
    """Return the refusal of a live stream; the header ``dg-error`` repeats the message."""
    body = error_body(refusal, request_id)
    return Refused(body, {"dg-error": header_text(body["err_msg"])})


def deepgram_response(refusal: Refusal, request: web.Request) -> web.Response:
    """Return a refusal as a response."""
    refused = refused_stream(refusal, request[REQUEST_ID])
    return refusal_response(refusal, refused.body, refused.headers)


def header_text(text: str) -> str:
    """Return a text in the characters that a header may hold."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:_LONGEST_HEADER]
