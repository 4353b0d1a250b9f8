"""Status as Deepgram's own servers report it: `/v1/status` and `/v1/status/engine`."""

from __future__ import annotations

from typing import Literal

from aiohttp import web
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from myna.inference.port import ModelSource
from myna.server.dialects.deepgram import flux
from myna.server.http.json_answer import compact_answer
from myna.server.operations.front_admission import FrontAdmission
from myna.server.operations.overview import Overview


@with_config(ConfigDict(title="Status"))
class StatusAnswer(TypedDict):
    """The state of the server; `Critical` if it takes nothing new."""

    system_health: Literal["Healthy", "Degraded", "Critical"]
    active_batch_requests: int
    active_stream_requests: int
    active_listen_v2_stream_requests: int


@with_config(ConfigDict(title="EngineStatus"))
class EngineStatusAnswer(TypedDict):
    """Whether engines serve requests."""

    engine_connection_status: Literal["Connected", "Disconnected"]


class StatusHandlers:
    """Handlers of one server."""

    def __init__(self, overview: Overview, models: ModelSource, admission: FrontAdmission) -> None:
        self._overview = overview
        self._models = models
        self._admission = admission

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/status", self.status)
        app.router.add_get("/v1/status/engine", self.engine_status)

    async def status(self, _request: web.Request) -> web.Response:
        """Return the server's state and how many requests are active."""
        streams = await self._overview.streams()
        turn_taking = streams.get(flux.PATH, 0)
        body: StatusAnswer = {
            "system_health": (
                "Critical" if self._admission.draining else "Degraded" if await self._overview.failing() else "Healthy"
            ),
            "active_batch_requests": await self._overview.files(),
            "active_stream_requests": sum(streams.values()) - turn_taking,
            "active_listen_v2_stream_requests": turn_taking,
        }
        return compact_answer(body)

    async def engine_status(self, _request: web.Request) -> web.Response:
        """Return whether engines serve requests; Deepgram's readiness probe compares the answer's text."""
        body: EngineStatusAnswer = {
            "engine_connection_status": (
                "Disconnected" if self._admission.draining or self._models.why_not() else "Connected"
            )
        }
        return compact_answer(body)
