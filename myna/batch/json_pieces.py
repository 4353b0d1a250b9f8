"""Writes JSON of any length in pieces, so that no thread holds the interpreter lock for long."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

_SLICE = 64
"""List items written in one call, which holds the interpreter lock for about 0.1 ms."""
_SCALARS = (str, int, float, type(None))


def json_pieces(value: Any) -> Iterator[bytes]:
    """Yield a value as JSON in pieces. A number that is not finite becomes null: JSON cannot represent it.

    An iterator is written as a list. Pass long lists as iterators: if all items exist at once, a garbage collection that
    visits them stops the process for up to half a second.
    """
    if isinstance(value, Mapping):
        yield b"{"
        for number, (name, item) in enumerate(value.items()):
            yield (", " if number else "").encode() + _dumped(str(name)) + b": "
            yield from json_pieces(item)
        yield b"}"
    elif isinstance(value, list | tuple | Iterator):
        yield b"["
        items, between = iter(value), b""
        while part := list(islice(items, _SLICE)):
            if all(map(_is_flat, part)):
                yield between + _dumped(part)[1:-1]
                between = b", "
                continue
            for item in part:
                yield between
                yield from json_pieces(item)
                between = b", "
        yield b"]"
    else:
        yield _dumped(value)


def _is_flat(item: object) -> bool:
    """Return whether an item is a scalar or a dictionary of scalars."""
    if isinstance(item, Mapping):
        return all(isinstance(value, _SCALARS) for value in item.values())
    return isinstance(item, _SCALARS)


def _dumped(value: object) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
