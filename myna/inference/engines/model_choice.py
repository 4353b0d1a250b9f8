"""Which of the models fits a request: by the names of files, languages, and what a model is for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from myna.inference.engines import file_names
from myna.inference.engines.file_names import Serves
from myna.inference.engines.kind import Model
from myna.streaming.policy import MULTIPLE


def named(model: Model) -> Model:
    """Return a model with what the name of its file says."""
    told = file_names.parsed(model.name)
    if told is None:
        return model
    return replace(
        model,
        called=told.called,
        languages=told.languages or model.languages,
        serves=told.serves,
        formatted=told.formatted,
        version=model.version or told.hash,
    )


def files_of(wanted: str, usable: Collection[Model]) -> list[Model]:
    """Return the models with this uuid, or else those whose files' names bear this name."""
    return [model for model in usable if model.uuid == wanted] or [
        model for model in usable if model.called and file_names.same(model.called, wanted)
    ]


def bears(name: str, wanted: str) -> bool:
    """Return whether the file with this name is of the wanted model."""
    told = file_names.parsed(name)
    return name == wanted or (told is not None and file_names.same(told.called, wanted))


def fit(model: Model, language: str | None, serves: Serves) -> tuple[bool, bool, int]:
    """Return how well a model fits a request, for comparison."""
    speaks = not model.languages or language is None or language in model.languages
    return speaks, "all" in (serves, model.serves) or serves == model.serves, model.created


def supports(model: Model, language: str | None) -> bool:
    """Return whether a model is known to support a language; None: any one."""
    if language == MULTIPLE:
        return len(model.languages) > 1
    return bool(model.languages) if language is None else language in model.languages
