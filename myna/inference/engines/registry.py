"""Finds the engine kinds: the folders beside this module, and what other packages register as entry points.

A package adds an engine with an entry point of the group `myna.engines` that names its `EngineKind`. Finding kinds imports no
engine; the heavy import happens when an engine is built.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import structlog

from myna.inference.engines.kind import EngineKind
from myna.inference.engines.port import Engine, ModelOptions

log = structlog.get_logger()

GROUP = "myna.engines"
_PACKAGE = __name__.rpartition(".")[0]


@functools.cache
def kinds() -> dict[str, EngineKind]:
    """Return the engine kinds by name."""
    found: dict[str, EngineKind] = {}
    folder = Path(__file__).parent
    for each in pkgutil.iter_modules([str(folder)]):
        if each.ispkg and (folder / each.name / "kind.py").is_file():
            _add(found, import_module(f"{_PACKAGE}.{each.name}.kind").KIND)
    for entry in entry_points(group=GROUP):
        try:
            _add(found, entry.load())
        except Exception as error:  # another package's code: the server serves its other models
            log.error("engine cannot be registered", entry=f"{entry.name} = {entry.value}", reason=str(error))
    return found


def _add(found: dict[str, EngineKind], kind: EngineKind) -> None:
    if not isinstance(kind, EngineKind):
        raise TypeError(f"it is a {type(kind).__name__}, not an EngineKind")
    if kind.name in found:
        raise ValueError(f"there is already an engine {kind.name!r}")
    found[kind.name] = kind


def builder(name: str) -> Callable[[ModelOptions], Engine]:
    """Import the engine and return its constructor. Raises `EngineUnavailableError`."""
    kind = kinds()[name]
    kind.check()
    module, _, class_name = kind.engine.partition(":")
    build: Callable[[ModelOptions], Engine] = getattr(import_module(module), class_name)
    return build
