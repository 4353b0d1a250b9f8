"""Checks `chunking_strategy`: `auto`, or voice activity detection with options.

It has no effect: every file is cut at pauses.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from myna.server.dialects.openai.errors import refused
from myna.server.dialects.openai.realtime_parts import SERVER_VAD, turn_detection
from myna.server.dialects.parameters import decimal
from myna.wire import strictjson
from myna.wire.quoting import quoted

NAME = "chunking_strategy"
_ACCEPTED = 'auto or {"type": "server_vad", …}'


def check_chunking(fields: Collection[tuple[str, str]]) -> None:
    """Check the strategy in a form: one value, or a field for each member of an object. Raises `Refusal`."""
    whole = {value for name, value in fields if name == NAME and value}
    parts = {
        name.removeprefix(f"{NAME}[").removesuffix("]"): value for name, value in fields if name.startswith(f"{NAME}[")
    }
    if len(whole) + bool(parts) > 1:
        raise refused(f"{NAME} was given more than once.", NAME)
    if parts:
        _check({name: _number(value) if name != "type" else value for name, value in parts.items()})
    for value in whole - {"auto"}:
        try:
            _check(strictjson.loads(value))
        except (ValueError, RecursionError) as error:
            raise refused(f"{NAME} must be {_ACCEPTED}, not {quoted(value)}.", NAME) from error


def _check(given: Any) -> None:
    if not isinstance(given, dict) or given.get("type") != "server_vad":
        raise refused(f"{NAME} must be {_ACCEPTED}, not {quoted(given)}.", NAME)
    if unknown := [name for name in given if name not in SERVER_VAD]:
        raise refused(f"{NAME} has no member {quoted(unknown[0])}; it has {', '.join(SERVER_VAD)}.", NAME)
    turn_detection(None, given, NAME)


def _number(text: str) -> float | int | str:
    """Return the number that a field's text writes, or the text."""
    value = decimal(text)
    if value is None:
        return text
    return int(value) if value.is_integer() else value
