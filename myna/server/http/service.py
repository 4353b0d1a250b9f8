"""The answers that are no streams: health, status, models, short-lived tokens; in Deepgram's and OpenAI's shapes at once."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from aiohttp import web

from myna import __version__
from myna.server.operations.admission import Admission
from myna.server.keys import LONGEST_GRANT_S, Authentication, Scope, credential
from myna.server.http.connections import authenticated
from myna.server.dialects.deepgram import listen_request as deepgram_request
from myna.server.dialects.deepgram import flux
from myna.server.dialects.openai import rest as openai_rest
from myna.server.dialects.reflector import requests as reflector
from myna.server.dialects.base import Entry
from myna.runtime.errors import Refusal
from myna.server.dialects.deepgram.live import DeepgramEntry
from myna.server.dialects.openai.rest import error_body
from myna.server.dialects.openai.realtime_session import RealtimeSession
from myna.server.http.json_answer import compact_answer, json_answer
from myna.server.operations.gauges import Gauges
from myna.server.operations.metrics import CONTENT_TYPE
from myna.inference.models import Models
from myna.server.services import Services
from myna.batch.transcriber import Transcriber
from myna.wire import strictjson
from myna.inference.engines.catalogue import Model, UnknownModelError
from myna.wire.quoting import quoted

REQUEST_ID = web.RequestKey("request_id", str)
"""Under this a request carries its id."""
DEFAULT_GRANT_S = 30
"""Deepgram's own."""
DEFAULT_REALTIME_GRANT_S = 600
BETA_GRANT_S = 60
REALTIME_GRANT_S = (10, 7200)
"""OpenAI's own."""


def answer(refusal: Refusal, entry: Entry) -> web.Response:
    """Return a refusal in the words of the dialect it was met in."""
    refused = entry.refused(refusal)
    return json_answer(refused.body, status=refusal.status, headers={**refused.headers, **refusal_headers(refusal)})


def refusal_headers(refusal: Refusal) -> dict[str, str]:
    """Return the headers that HTTP itself asks for with a refusal."""
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def openai_refusal(refusal: Refusal) -> web.Response:
    """Return a refusal as OpenAI's clients read it; they try again what is not told to be permanent."""
    if refusal.code == "model_not_found":
        refusal = Refusal(404, refusal.code, refusal.message, param=refusal.param)
    passes = refusal.status >= 500 or refusal.retry_after_s is not None
    headers = refusal_headers(refusal) | {"x-should-retry": "true" if passes else "false"}
    return json_answer(error_body(refusal), status=refusal.status, headers=headers)


class Pages:
    """Handlers of one server."""

    def __init__(
        self,
        services: Services,
        models: Models,
        transcriber: Transcriber,
        authentication: Authentication,
        admission: Admission,
        gauges: Gauges,
    ) -> None:
        self._admission = admission
        self._gauges = gauges
        self._services = services
        self._transcriber = transcriber
        self._models = models
        self._authentication = authentication

    def add_to(self, app: web.Application) -> None:
        """Give the handlers their routes."""
        app.router.add_get("/health", self.health)
        app.router.add_get("/health/live", self.live)
        app.router.add_get("/health/ready", self.ready)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/status", self.status)
        app.router.add_get("/v1/status/engine", self.engine_status)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get(r"/v1/models/{id:[\s\S]+}", self.model)
        app.router.add_post("/v1/auth/grant", self.grant)
        app.router.add_post("/v1/realtime/client_secrets", self.client_secret)
        app.router.add_post("/v1/realtime/transcription_sessions", self.transcription_session)

    async def health(self, _request: web.Request) -> web.Response:
        """Say whether every part of the server works, and which do not."""
        failing = self._gauges.failing
        return json_answer(
            {
                "status": "degraded" if failing else "ok",
                "failing": failing,
                "version": __version__,
                "model": self._models.catalogue.default,
                "streams": len(self._services.streams),
            },
            status=503 if failing else 200,
        )

    async def live(self, _request: web.Request) -> web.Response:
        """Say that the event loop turns: a server that does not answer this is to be started anew."""
        return json_answer({"status": "live"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Say whether new streams may be sent here; how many it still has room for is a metric."""
        failing = self._gauges.failing
        if self._admission.draining:
            reason = "draining"
        elif failing:
            reason = "; ".join(f"{part}: {why}" for part, why in failing.items())
        else:
            return json_answer({"status": "ready"})
        return json_answer({"status": "not ready", "reason": reason, "failing": failing}, status=503)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Write everything down for Prometheus."""
        return web.Response(body=self._services.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def status(self, _request: web.Request) -> web.Response:
        """Say the same as Deepgram's own servers do: `Critical` is one that serves nothing new."""
        turning = sum(stream.path == flux.PATH for stream in self._services.streams.values())
        health = "Critical" if self._admission.draining else "Degraded" if self._gauges.failing else "Healthy"
        return compact_answer(
            {
                "system_health": health,
                "active_batch_requests": self._transcriber.active,
                "active_stream_requests": len(self._services.streams) - turning,
                "active_listen_v2_stream_requests": turning,
            }
        )

    async def engine_status(self, _request: web.Request) -> web.Response:
        """Say whether engines serve what comes; Deepgram's readiness probe compares the answer's text."""
        status = "Disconnected" if self._admission.draining or self._models.why_not() else "Connected"
        return compact_answer({"engine_connection_status": status})

    async def models(self, request: web.Request) -> web.Response:
        """List the models: OpenAI's clients read `data`, Deepgram's `stt`."""
        try:
            self._authentication.identify(credential(request.headers))
            authenticated(request)
        except Refusal as refusal:
            return error_answer(refusal, request)
        usable, broken = await asyncio.to_thread(self._models.catalogue.models)
        return json_answer(
            {
                "object": "list",
                "data": [self._described(model) for model in usable.values()],
                "stt": [_deepgram_model(model) for model in usable.values()],
                "tts": [],
                "unusable": broken,
            }
        )

    async def model(self, request: web.Request) -> web.Response:
        """Describe one model, found by name, alias, uuid, or a vendor's name that stands for the default."""
        wanted = request.match_info["id"]
        try:
            self._authentication.identify(credential(request.headers))
            authenticated(request)
            usable, _ = await asyncio.to_thread(self._models.catalogue.models)
            by_uuid = {model.uuid: model for model in usable.values() if model.uuid}
            found = by_uuid.get(wanted)
            if found is None:
                found = await asyncio.to_thread(
                    self._models.catalogue.find, wanted, or_default=stands_for_default(wanted)
                )
        except UnknownModelError as error:
            return error_answer(Refusal(404, "model_not_found", str(error)), request)
        except Refusal as refusal:
            return error_answer(refusal, request)
        described = {**_deepgram_model(found), **self._described(found)}
        if wanted not in (found.uuid, *usable, *self._models.catalogue.aliases):  # clients look for what they asked for
            described["id"] = wanted
        return json_answer(described)

    async def grant(self, request: web.Request) -> web.Response:
        """Make a short-lived token."""
        try:
            identity = self._authentication.identify(credential(request.headers), Scope.GRANT)
            authenticated(request)
            ttl_s = _ttl(await request.read())
        except Refusal as refusal:
            return error_answer(refusal, request)
        return json_answer({"access_token": self._authentication.grant(identity, ttl_s), "expires_in": ttl_s})

    async def client_secret(self, request: web.Request) -> web.Response:
        """Make a short-lived token for a session of OpenAI's Realtime API, which it then begins with."""
        try:
            secret, told = await self._session_token(request, beta=False)
        except Refusal as refusal:
            return openai_refusal(refusal)
        return json_answer({**secret, "session": told})

    async def transcription_session(self, request: web.Request) -> web.Response:
        """Do the same in the first version of that API."""
        try:
            secret, told = await self._session_token(request, beta=True)
        except Refusal as refusal:
            return openai_refusal(refusal)
        return json_answer({**told, "client_secret": secret})

    async def _session_token(self, request: web.Request, *, beta: bool) -> tuple[dict[str, object], dict[str, Any]]:
        """Return a token, and the session that it is made for as it is told. Raises `Refusal`."""
        identity = self._authentication.identify(credential(request.headers), Scope.GRANT)
        authenticated(request)
        asked = _json_object(await request.read())
        ttl_s = BETA_GRANT_S if beta else realtime_ttl(asked.get("expires_after"))
        patch = asked if beta else asked.get("session") or {}
        session = RealtimeSession().patched(patch, beta=beta)
        value = self._authentication.grant(identity, ttl_s, {"patch": patch, "beta": beta})
        secret = {"value": value, "expires_at": int(time.time()) + ttl_s}
        return secret, session.told(f"sess_{uuid.uuid4().hex}", beta=beta)

    def _described(self, model: Model) -> dict[str, object]:
        catalogue = self._models.catalogue
        return {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "myna",
            "default": model.name == catalogue.default,
            "aliases": sorted(alias for alias, name in catalogue.aliases.items() if name == model.name),
            "engine": model.engine,
            "languages": list(model.languages),
            "mode": model.mode,
            "version": model.version,
            "uuid": model.uuid,
            "loaded": self._models.loaded(model),
        }


def stands_for_default(name: str) -> bool:
    """Return whether a name is one of those that stand for the default model where no model here bears them."""
    vendors = (openai_rest.PUBLIC_MODELS, deepgram_request.PUBLIC_MODELS)
    return any(names.fullmatch(name) for names in vendors)


def _deepgram_model(model: Model) -> dict[str, object]:
    return {
        "name": model.name,
        "canonical_name": model.name,
        "architecture": model.engine,
        "languages": list(model.languages),
        "version": model.version,
        "uuid": model.uuid,
        "batch": True,
        "streaming": True,
        "formatted_output": True,
    }


def error_answer(refusal: Refusal, request: web.Request) -> web.Response:
    """Return a refusal that clients of Deepgram's and of OpenAI's API can read."""
    refused = DeepgramEntry.shape(refusal, request[REQUEST_ID])
    error = {"message": refusal.message, "type": "invalid_request_error", "param": None, "code": refusal.code}
    headers = {**refused.headers, **refusal_headers(refusal)}
    return json_answer({"error": error, **refused.body}, status=refusal.status, headers=headers)


def in_dialect(refusal: Refusal, request: web.Request, path: str | None = None) -> web.Response:
    """Return a refusal as the clients of an address read it, the request's unless another is named."""
    if (path or request.path).startswith(("/v1/audio/", "/v1/realtime", f"{reflector.PREFIX}/")):
        return openai_refusal(refusal)
    return error_answer(refusal, request)


def realtime_ttl(given: object) -> int:
    """Return how long a client secret lives: `expires_after` of the request. Raises `Refusal`."""
    low, high = REALTIME_GRANT_S
    ttl_s = given.get("seconds", DEFAULT_REALTIME_GRANT_S) if isinstance(given, dict) else DEFAULT_REALTIME_GRANT_S
    if not isinstance(ttl_s, int) or isinstance(ttl_s, bool) or not low <= ttl_s <= high:
        message = f"expires_after.seconds must be from {low} to {high}, not {quoted(ttl_s)}."
        raise Refusal(400, "invalid_value", message, param="expires_after.seconds")
    return ttl_s


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        given = strictjson.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Refusal(400, "invalid_json", "The body must be a JSON object, or empty.")
    return given


def _ttl(body: bytes) -> int:
    ttl_s = _json_object(body).get("ttl_seconds", DEFAULT_GRANT_S)
    if not isinstance(ttl_s, int | float) or isinstance(ttl_s, bool) or not 1 <= ttl_s <= LONGEST_GRANT_S:
        raise Refusal(400, "bad_request", f"ttl_seconds must be from 1 to {LONGEST_GRANT_S}, not {quoted(ttl_s)}.")
    return int(ttl_s)
