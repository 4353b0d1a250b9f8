"""Finds the engine that serves a request, or the reason why none can."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from myna.inference.engines.catalogue import UnknownModelError
from myna.inference.engines.kind import Model
from myna.inference.models import ModelBusyError, Models
from myna.inference.workers.pool import EnginePool
from myna.runtime.errors import Refusal
from myna.streaming.errors import EngineUnavailableError


@dataclass(frozen=True, slots=True)
class ModelWanted:
    """The model a client asks for (None: any), and whether the default model serves if none has that name."""

    name: str | None = None
    or_default: bool = False

    @classmethod
    def of(cls, name: str | None, public: re.Pattern[str]) -> ModelWanted:
        """Return the request for this name. A vendor's `public` name stands for the default model."""
        return cls(name, or_default=name is not None and public.fullmatch(name) is not None)


@contextlib.asynccontextmanager
async def engine_for(
    models: Models, wanted: ModelWanted, unknown: str = "unknown_model"
) -> AsyncIterator[tuple[Model, EnginePool]]:
    """Yield the model asked for and its engine, which stays loaded while the context lasts. Raises `Refusal`.

    `unknown` is the dialect's error code for a model that does not exist.
    """
    try:
        model = await asyncio.to_thread(models.catalogue.find, wanted.name, or_default=wanted.or_default)
        async with models.serving(model) as engine:
            yield model, engine
    except UnknownModelError as error:
        raise Refusal(400, unknown, str(error), param="model") from error
    except EngineUnavailableError as error:
        raise Refusal(400, "unusable_model", str(error), param="model") from error
    except ModelBusyError as error:
        raise Refusal(503, "model_busy", str(error), retry_after_s=error.retry_s) from error
