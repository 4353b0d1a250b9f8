"""Engines built in the process of a measurement, without a server."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from myna.inference.engines.catalogue import Catalogue, UnknownModelError
from myna.inference.engines.port import Engine, ModelOptions
from myna.inference.engines.registry import builder
from myna.streaming.errors import EngineUnavailableError


def local_engine(model: str | None, **options: Any) -> Callable[..., Engine]:
    """Return a factory of the model's engine with these `ModelOptions`. Raises `EngineUnavailableError`."""
    try:
        found = Catalogue(Path("models"), model or "moonshine", {}, {}).find()
    except UnknownModelError as error:
        raise EngineUnavailableError(str(error)) from error
    return partial(builder(found.engine), ModelOptions(source=found.source, name=found.name, **options))
