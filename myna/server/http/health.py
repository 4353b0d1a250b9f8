"""Health, liveness, readiness and metrics: what load balancers, supervisors and Prometheus read."""

from __future__ import annotations

from typing import Annotated, Literal

from aiohttp import web
from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from myna import __version__
from myna.inference.port import ModelSource
from myna.server.http.json_answer import json_answer
from myna.server.http.openapi import RouteDescriptions, json_response, operation, reference
from myna.server.operations.front_admission import FrontAdmission
from myna.server.operations.gauges import Gauges
from myna.server.operations.metrics import CONTENT_TYPE
from myna.server.operations.overview import Overview

Failing = Annotated[dict[str, str], Field(description="The parts that do not work, each with the reason.")]


@with_config(ConfigDict(title="Health"))
class HealthAnswer(TypedDict):
    """The answer at `/health`."""

    status: Literal["ok", "degraded"]
    failing: Failing
    version: str
    model: str
    streams: int


@with_config(ConfigDict(title="Live"))
class LiveAnswer(TypedDict):
    """The answer at `/health/live`, and that of a server which is ready."""

    status: str


@with_config(ConfigDict(title="NotReady"))
class NotReadyAnswer(TypedDict):
    """The answer of a server that should get no new streams."""

    status: str
    reason: str
    failing: Failing


class HealthHandlers:
    """Handlers of one server."""

    def __init__(self, overview: Overview, models: ModelSource, admission: FrontAdmission, gauges: Gauges) -> None:
        self._overview = overview
        self._models = models
        self._admission = admission
        self._gauges = gauges

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/health", self.health)
        app.router.add_get("/health/live", self.live)
        app.router.add_get("/health/ready", self.ready)
        app.router.add_get("/metrics", self.metrics)

    async def health(self, _request: web.Request) -> web.Response:
        """Return whether every part of the server works, and which do not."""
        failing = await self._overview.failing()
        body: HealthAnswer = {
            "status": "degraded" if failing else "ok",
            "failing": failing,
            "version": __version__,
            "model": self._models.catalogue.default,
            "streams": sum((await self._overview.streams()).values()),
        }
        return json_answer(body, status=503 if failing else 200)

    async def live(self, _request: web.Request) -> web.Response:
        """Return that the event loop turns; a server that does not answer should be restarted."""
        body: LiveAnswer = {"status": "live"}
        return json_answer(body)

    async def ready(self, _request: web.Request) -> web.Response:
        """Return whether new streams may be sent to this server; a metric tells how many it has room for."""
        failing = self._gauges.failing
        if self._admission.draining:
            reason = "draining"
        elif failing:
            reason = "; ".join(f"{part}: {why}" for part, why in failing.items())
        else:
            ready: LiveAnswer = {"status": "ready"}
            return json_answer(ready)
        not_ready: NotReadyAnswer = {"status": "not ready", "reason": reason, "failing": failing}
        return json_answer(not_ready, status=503)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Return every metric in Prometheus's text format."""
        return web.Response(body=await self._overview.exposition(), headers={"Content-Type": CONTENT_TYPE})


DESCRIPTION = RouteDescriptions(
    paths={
        "/health": {
            "get": operation(
                "Whether every part of the server works, and which do not.",
                {"200": reference(HealthAnswer), "503": reference(HealthAnswer)},
                error=None,
            )
        },
        "/health/live": {"get": operation("Whether the event loop turns.", {"200": reference(LiveAnswer)}, error=None)},
        "/health/ready": {
            "get": operation(
                "Whether new streams may be sent to this server.",
                {"200": reference(LiveAnswer), "503": reference(NotReadyAnswer)},
                error=None,
            )
        },
        "/metrics": {
            "get": operation(
                "Every metric, in Prometheus's text format.",
                {"200": json_response({"type": "string"}, media_type="text/plain", description="Samples.")},
                error=None,
            )
        },
    },
    components=(HealthAnswer, LiveAnswer, NotReadyAnswer),
)
