"""Handles `/v1/models`, which clients of several vendors use: each reads its own fields of one answer."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from aiohttp import web
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from myna.inference.engines.catalogue import UnknownModelError
from myna.inference.engines.kind import Model
from myna.inference.port import ModelSource
from myna.runtime.errors import Refusal
from myna.server.dialects.deepgram import models as deepgram_models
from myna.server.dialects.openai import models as openai_models
from myna.server.dialects.shared_errors import SharedError
from myna.server.http.connections import authenticated
from myna.server.http.errors import error_response
from myna.server.http.json_answer import json_answer
from myna.server.http.openapi import RouteDescriptions, operation, path_parameter, reference
from myna.server.keys import Authentication, credential


@with_config(ConfigDict(title="Model"))
class ModelAnswer(TypedDict):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


@with_config(ConfigDict(title="Models"))
class ModelsAnswer(TypedDict):
    """The models: `data` as OpenAI lists them, `stt` as Deepgram does. `unusable` gives a reason for each other model."""

    object: Literal["list"]
    data: list[ModelAnswer]
    stt: list[dict[str, Any]]
    tts: list[Any]
    unusable: dict[str, Any]


class ModelHandlers:
    """Handlers of one server."""

    def __init__(self, models: ModelSource, authentication: Authentication) -> None:
        self._models = models
        self._authentication = authentication

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/models", self.models)
        app.router.add_get(r"/v1/models/{id:[\s\S]+}", self.model)

    async def models(self, request: web.Request) -> web.Response:
        """Return all models."""
        try:
            self._identify(request)
        except Refusal as refusal:
            return error_response(refusal, request)
        usable, broken = await asyncio.to_thread(self._models.catalogue.models)
        return json_answer(
            {
                "object": "list",
                "data": [self._described(model) for model in usable.values()],
                "stt": [deepgram_models.described(model) for model in usable.values()],
                "tts": [],
                "unusable": broken,
            }
        )

    async def model(self, request: web.Request) -> web.Response:
        """Return one model by its name, alias or uuid, or by a vendor's name that stands for the default."""
        wanted = request.match_info["id"]
        try:
            self._identify(request)
            usable, _ = await asyncio.to_thread(self._models.catalogue.models)
            by_uuid = {model.uuid: model for model in usable.values() if model.uuid}
            found = by_uuid.get(wanted)
            if found is None:
                found = await asyncio.to_thread(
                    self._models.catalogue.find, wanted, or_default=_stands_for_default(wanted)
                )
        except UnknownModelError as error:
            return error_response(Refusal(404, "model_not_found", str(error)), request)
        except Refusal as refusal:
            return error_response(refusal, request)
        described = {**deepgram_models.described(found), **self._described(found)}
        if wanted not in (
            found.uuid,
            *usable,
            *self._models.catalogue.aliases,
        ):  # clients compare it with their request
            described["id"] = wanted
        return json_answer(described)

    def _identify(self, request: web.Request) -> None:
        self._authentication.identify(credential(request.headers))
        authenticated(request)

    def _described(self, model: Model) -> dict[str, object]:
        return openai_models.described(model, self._models.catalogue, loaded=self._models.loaded(model))


def _stands_for_default(name: str) -> bool:
    """Return whether a name is a vendor's, which stands for the default model unless a model here has it."""
    vendors = (openai_models.PUBLIC_MODELS, deepgram_models.PUBLIC_MODELS)
    return any(names.fullmatch(name) for names in vendors)


_ERROR = reference(SharedError)
DESCRIPTION = RouteDescriptions(
    paths={
        "/v1/models": {
            "get": operation(
                "The models: `data` as OpenAI lists them, `stt` as Deepgram does.",
                {"200": reference(ModelsAnswer)},
                error=_ERROR,
            )
        },
        "/v1/models/{id}": {
            "get": operation(
                "One model, by name, alias or uuid, or by a vendor's name that stands for the default.",
                {"200": reference(ModelAnswer), "404": _ERROR},
                error=_ERROR,
                parameters=[path_parameter("id")],
            )
        },
    },
    components=(ModelAnswer, ModelsAnswer, SharedError),
)
