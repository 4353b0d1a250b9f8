"""Which engines there are, found without importing any; the heavy import happens when one is built."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from myna.streaming.engines.base import Engine, EngineUnavailableError

_ENGINES: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    # name: module, class, what it needs installed, how to get it
    "moonshine": (
        "myna.streaming.engines.moonshine",
        "MoonshineEngine",
        ("onnxruntime", "onnx", "moonshine_voice"),
        "pip install moonshine-voice==0.1.0",
    ),
    "fake": ("myna.streaming.engines.fake", "FakeEngine", (), ""),
}
"""Selectable engines; Parakeet joins them when its file is written."""


def names() -> list[str]:
    """Return the engines that can be asked for."""
    return sorted(_ENGINES)


def check(name: str) -> None:
    """Raise `EngineUnavailableError` unless the engine is known and what it needs is installed."""
    if name not in _ENGINES:
        raise EngineUnavailableError(f"There is no engine {name!r}; there are: {', '.join(names())}")
    missing = [package for package in _ENGINES[name][2] if find_spec(package) is None]
    if missing:
        raise EngineUnavailableError(
            f"The engine {name!r} needs {', '.join(missing)}, not installed here: {_ENGINES[name][3]}"
        )


def builder(name: str) -> Callable[[], Engine]:
    """Return what builds the engine, importing it now. Raises `EngineUnavailableError`."""
    check(name)
    module, class_name, _, _ = _ENGINES[name]
    build: Callable[[], Engine] = getattr(import_module(module), class_name)
    return build
