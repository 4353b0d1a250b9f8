"""The engine that a request is to be served by, or the refusal that says why none can."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from myna.server.dialects.base import ModelWanted
from myna.runtime.errors import Refusal
from myna.inference.workers.pool import EnginePool
from myna.inference.models import ModelBusyError, Models
from myna.streaming.errors import EngineUnavailableError
from myna.inference.engines.catalogue import Model, UnknownModelError


@contextlib.asynccontextmanager
async def engine_for(
    models: Models, wanted: ModelWanted, unknown: str = "unknown_model"
) -> AsyncIterator[tuple[Model, EnginePool]]:
    """Yield the model asked for and its worker, which stays in memory meanwhile. Raises `Refusal`.

    `unknown` is the dialect's code for a model that is not there.
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
