"""Reflector's error format: FastAPI's `{"detail": …}`."""

from __future__ import annotations

from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ValidationError
from typing_extensions import TypedDict, TypeVar

from myna.runtime.errors import Refusal
from myna.server.http.errors import refusal_response
from myna.wire.quoting import shortened

INVALID = 422
Where = Literal["body", "query"]
_Asked = TypeVar("_Asked", bound=BaseModel)
_LONGEST_INPUT = 200
"""Characters of a wrong value that an error repeats."""
_MESSAGES = {401: "Invalid API key"}


class ReflectorError(TypedDict):
    """The body of an error: a text, or with status 422 a list of what is wrong, as FastAPI has it."""

    detail: Any


class InvalidRequestError(Refusal):
    """Parameters of a request are missing or have the wrong type. `wrong` lists them as FastAPI does."""

    def __init__(self, error: ValidationError, where: Where) -> None:
        self.wrong: list[dict[str, Any]] = [
            {
                "type": each["type"],
                "loc": [where, *each["loc"]],
                "msg": each["msg"],
                "input": _short(each["input"]) if each["type"] != "missing" else None,
            }
            for each in error.errors(include_url=False, include_context=False)
        ]
        first = self.wrong[0]
        super().__init__(INVALID, first["type"], first["msg"], param=".".join(map(str, first["loc"][1:])))


def validated(kind: type[_Asked], given: object, where: Where) -> _Asked:
    """Return the parameters of a request, parsed. Raises `InvalidRequestError`."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise InvalidRequestError(error, where) from error


def refused(message: str, status: int = 400) -> Refusal:
    """Return a refusal with this message."""
    return Refusal(status, "refused", message)


def reflector_response(refusal: Refusal, _request: web.Request | None = None) -> web.Response:
    """Return a refusal as a response."""
    if isinstance(refusal, InvalidRequestError):
        return refusal_response(refusal, {"detail": refusal.wrong})
    return refusal_response(refusal, {"detail": _MESSAGES.get(refusal.status, refusal.message)})


def _short(given: object) -> object:
    return given if isinstance(given, bool | int | float | None) else shortened(str(given), _LONGEST_INPUT)
