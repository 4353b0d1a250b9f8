"""Finds the engine that serves a request, or the reason why none can."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

from myna.inference.engines.catalogue import Catalogue, UnknownModelError
from myna.inference.engines.file_names import Serves
from myna.inference.engines.kind import Model
from myna.inference.models import ModelBusyError
from myna.inference.port import ModelPool, ModelSource
from myna.runtime.errors import Refusal
from myna.server.language_tags import spoken_language
from myna.server.settings import Settings
from myna.streaming.errors import EngineUnavailableError

SERVED_BY: ContextVar[list[str]] = ContextVar("served_by")
"""The names of the models that serve the current request, for its log line; the middleware that logs sets the list."""
NO_DIARIZER = "no_diarizer"
"""The error code where no model tells speakers apart."""


@dataclass(frozen=True, slots=True)
class ModelWanted:
    """The model a client asks for (None: any), and whether the default model serves if none has that name."""

    name: str | None = None
    or_default: bool = False
    language: str | None = None
    """The language that the client names, as in `Options`; it chooses among models where the name leaves a choice."""

    @classmethod
    def of(cls, name: str | None, public: re.Pattern[str], language: str | None = None) -> ModelWanted:
        """Return the request for this name and language tag. A vendor's `public` name stands for the default model."""
        return cls(name, name is not None and public.fullmatch(name) is not None, spoken_language(language))


class NoSuchModelRefusal(Refusal):
    """No model serves a request: none has its name, or the one that has lacks the language."""

    def __init__(self, code: str, message: str, *, param: str | None = None, language: str | None = None) -> None:
        super().__init__(400, code, message, param=param)
        self.language = language
        """The language that the client asked for, if any."""
        self.suggestion: tuple[str, str] | None = None
        """The name of a model that serves the language, or any, and the language."""

    def suggest(self, models: ModelSource) -> None:
        """Find the suggestion."""
        if model := models.catalogue.supporting(self.language):
            self.suggestion = (model.called or model.name, self.language or model.languages[0])


@contextlib.asynccontextmanager
async def engine_for(
    models: ModelSource, wanted: ModelWanted, unknown: str = "unknown_model", *, serves: Serves
) -> AsyncIterator[tuple[Model, ModelPool]]:
    """Yield the model asked for and its engine, which stays loaded while the context lasts. Raises `Refusal`.

    `unknown` is the dialect's error code for a model that does not exist. `serves` tells what the request is for.
    """
    try:
        find = partial(
            models.catalogue.find, wanted.name, or_default=wanted.or_default, language=wanted.language, serves=serves
        )
        async with models.serving(await _found(models, find)) as loaded:
            _note_served(loaded.model.name)
            yield loaded.model, loaded.pool
    except UnknownModelError as error:
        refusal = NoSuchModelRefusal(unknown, str(error), param="model", language=wanted.language)
        await asyncio.to_thread(refusal.suggest, models)
        raise refusal from error
    except NoSuchModelRefusal as refusal:
        await asyncio.to_thread(refusal.suggest, models)
        raise
    except EngineUnavailableError as error:
        raise Refusal(400, "unusable_model", str(error), param="model") from error
    except ModelBusyError as error:
        raise Refusal(503, "model_busy", str(error), retry_after_s=error.retry_s) from error


def _note_served(model: str) -> None:
    models = SERVED_BY.get(None)
    if models is not None and model not in models:
        models.append(model)


async def _found(models: ModelSource, find: Callable[[], Model]) -> Model:
    """Return the model found, or the one in memory if its file was replaced by one that cannot be used."""
    try:
        return await asyncio.to_thread(find)
    except UnknownModelError as error:
        if error.broken and (older := models.in_memory(error.broken)):
            return older
        raise


@contextlib.asynccontextmanager
async def diarizer_of(models: ModelSource) -> AsyncIterator[ModelPool]:
    """Yield the engine that tells speakers apart, which stays loaded while the context lasts. Raises `Refusal`."""
    try:
        model = await asyncio.to_thread(models.catalogue.diarizer)
        async with models.serving(model) as loaded:
            yield loaded.pool
    except (UnknownModelError, EngineUnavailableError) as error:
        raise Refusal(400, NO_DIARIZER, str(error)) from error
    except ModelBusyError as error:
        raise Refusal(503, "model_busy", str(error), retry_after_s=error.retry_s) from error


def catalogue_of(settings: Settings) -> Catalogue:
    """Return the catalogue of a server with these settings."""
    return Catalogue(
        settings.models, settings.model, settings.aliases, settings.languages, settings.models_by_language,
        look_ahead_ms=settings.look_ahead_ms, diarizer=settings.diarization_model,
    )  # fmt: skip
