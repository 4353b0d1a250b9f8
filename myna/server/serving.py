"""Finds the engine that serves a request, or the reason why none can."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from myna.inference.engines.catalogue import Catalogue, UnknownModelError
from myna.inference.engines.kind import Model
from myna.inference.models import ModelBusyError
from myna.inference.port import ModelPool, ModelSource
from myna.runtime.errors import Refusal
from myna.server.language_tags import spoken_language
from myna.server.settings import Settings
from myna.streaming.errors import EngineUnavailableError

NO_DIARIZER = "no_diarizer"
"""The error code where no model tells speakers apart."""


@dataclass(frozen=True, slots=True)
class ModelWanted:
    """The model a client asks for (None: any), and whether the default model serves if none has that name."""

    name: str | None = None
    or_default: bool = False
    language: str | None = None
    """The language that the client names, as in `Options`; it chooses the model where the name is `auto`."""

    @classmethod
    def of(cls, name: str | None, public: re.Pattern[str], language: str | None = None) -> ModelWanted:
        """Return the request for this name and language tag. A vendor's `public` name stands for the default model."""
        return cls(name, name is not None and public.fullmatch(name) is not None, spoken_language(language))


@contextlib.asynccontextmanager
async def engine_for(
    models: ModelSource, wanted: ModelWanted, unknown: str = "unknown_model"
) -> AsyncIterator[tuple[Model, ModelPool]]:
    """Yield the model asked for and its engine, which stays loaded while the context lasts. Raises `Refusal`.

    `unknown` is the dialect's error code for a model that does not exist.
    """
    try:
        find = partial(models.catalogue.find, wanted.name, or_default=wanted.or_default, language=wanted.language)
        model = await asyncio.to_thread(find)
        async with models.serving(model) as engine:
            yield model, engine
    except UnknownModelError as error:
        raise Refusal(400, unknown, str(error), param="model") from error
    except EngineUnavailableError as error:
        raise Refusal(400, "unusable_model", str(error), param="model") from error
    except ModelBusyError as error:
        raise Refusal(503, "model_busy", str(error), retry_after_s=error.retry_s) from error


@contextlib.asynccontextmanager
async def diarizer_of(models: ModelSource) -> AsyncIterator[ModelPool]:
    """Yield the engine that tells speakers apart, which stays loaded while the context lasts. Raises `Refusal`."""
    try:
        model = await asyncio.to_thread(models.catalogue.diarizer)
        async with models.serving(model) as engine:
            yield engine
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
