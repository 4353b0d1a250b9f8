"""Request bodies in JSON."""

from __future__ import annotations

from typing import Any

from myna.runtime.errors import Refusal
from myna.wire import strictjson


def json_object(text: str) -> dict[str, Any]:
    """Return a JSON object. Raises `Refusal`."""
    return _object(text, "Content-type was application/json, but we could not process the JSON payload.")


def optional_json_object(body: bytes) -> dict[str, Any]:
    """Return a JSON object, which is empty if the body is. Raises `Refusal`."""
    return _object(body, "The body must be a JSON object, or empty.") if body.strip() else {}


def _object(body: str | bytes, message: str) -> dict[str, Any]:
    try:
        given = strictjson.loads(body)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Refusal(400, "invalid_json", message)
    return given
