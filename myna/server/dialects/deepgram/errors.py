"""Deepgram's error format."""

from __future__ import annotations

import re

from aiohttp import web
from typing_extensions import TypedDict

from myna.inference.engines.file_names import FAMILIES
from myna.runtime.errors import Refusal
from myna.server.dialects.base import Refused
from myna.server.http.errors import refusal_response
from myna.server.http.request_id import REQUEST_ID
from myna.server.serving import NoSuchModelRefusal

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
    message = _no_such_model(refusal) if isinstance(refusal, NoSuchModelRefusal) else refusal.message
    return {
        "err_code": _NAMES.get(refusal.code) or CODES.get(refusal.status, refusal.code.upper()),
        "err_msg": message if refusal.status != 400 else f"Bad Request: {message}",
        "request_id": request_id,
    }


def _no_such_model(refusal: NoSuchModelRefusal) -> str:
    """Return the message in Deepgram's words, which its clients parse, followed by the reason."""
    advice = ""
    if refusal.suggestion:
        name, language = refusal.suggestion
        tier = name.split("-")[0] if name.split("-")[0] in FAMILIES else "base"
        advice = f'You could try the "{name}" model (language: {language}, {tier} tier). '
    return f"No such model/language/tier combination found. {advice}{refusal.message}"


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
