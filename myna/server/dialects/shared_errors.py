"""Errors at addresses of no single vendor: one body with the fields of Deepgram's and of OpenAI's errors."""

from __future__ import annotations

from aiohttp import web
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from myna.runtime.errors import Refusal
from myna.server.dialects.deepgram.errors import refused_stream
from myna.server.dialects.openai.errors import OpenAIErrorFields
from myna.server.http.errors import refusal_response
from myna.server.http.request_id import REQUEST_ID


@with_config(ConfigDict(title="Error"))
class SharedError(TypedDict):
    """The body of an error that clients of both APIs can read."""

    error: OpenAIErrorFields
    err_code: str
    err_msg: str
    request_id: str


def shared_response(refusal: Refusal, request: web.Request) -> web.Response:
    """Return a refusal that clients of both APIs can read."""
    refused = refused_stream(refusal, request[REQUEST_ID])
    error = {"message": refusal.message, "type": "invalid_request_error", "param": None, "code": refusal.code}
    return refusal_response(refusal, {"error": error, **refused.body}, refused.headers)
