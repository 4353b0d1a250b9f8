"""OpenAI's error format."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from typing_extensions import TypedDict

from myna.runtime.errors import Refusal
from myna.server.http.errors import refusal_response

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CLIENT, _SERVER = "invalid_request_error", "server_error"


class OpenAIErrorFields(TypedDict):
    """What is wrong. `param` names the parameter, `code` the kind of error."""

    message: str
    type: str
    param: Any
    code: Any


class OpenAIError(TypedDict):
    """The body of an error. `detail` repeats the message for clients that read it there."""

    error: OpenAIErrorFields
    detail: str


def refused(message: str, param: str | None = None, status: int = 400, code: str = "invalid_value") -> Refusal:
    """Return a refusal that names its parameter."""
    return Refusal(status, code, message, param=param)


def error_body(refusal: Refusal) -> OpenAIError:
    """Return a refusal as OpenAI's clients read it."""
    return {
        "error": {
            "message": refusal.message,
            "type": _TYPES.get(refusal.status, _CLIENT if refusal.status < 500 else _SERVER),
            "param": refusal.param,
            "code": refusal.code,
        },
        "detail": refusal.message,
    }


def openai_response(refusal: Refusal, _request: web.Request | None = None) -> web.Response:
    """Return a refusal as a response. The header ``x-should-retry`` tells OpenAI's clients whether to try again."""
    if refusal.code == "model_not_found":
        refusal = Refusal(404, refusal.code, refusal.message, param=refusal.param)
    passes = refusal.status >= 500 or refusal.retry_after_s is not None
    return refusal_response(refusal, error_body(refusal), {"x-should-retry": "true" if passes else "false"})
