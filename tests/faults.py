"""Errors put into a running server, one at a time."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def failing_once(owner: Any, name: str) -> Iterator[Callable[[], bool]]:
    """Have the next call of a function raise, inside its task if it is a coroutine; yield what tells whether it has."""
    whole, failed = getattr(owner, name), False

    def broken(*_: Any, **__: Any) -> Any:
        nonlocal failed
        setattr(owner, name, whole)
        failed = True
        raise RuntimeError("injected")

    async def broken_coroutine(*_: Any, **__: Any) -> Any:
        broken()

    setattr(owner, name, broken_coroutine if inspect.iscoroutinefunction(whole) else broken)
    try:
        yield lambda: failed
    finally:
        setattr(owner, name, whole)
    assert failed
