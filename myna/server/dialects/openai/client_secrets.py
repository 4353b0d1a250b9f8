"""Handles `/v1/realtime/client_secrets` and `/v1/realtime/transcription_sessions`: tokens for one Realtime session."""

from __future__ import annotations

import time
import uuid
from typing import Any

from aiohttp import web
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from myna.runtime.errors import Refusal
from myna.server.dialects.openai.errors import openai_response
from myna.server.dialects.openai.realtime_session import RealtimeSession
from myna.server.http.connections import authenticated
from myna.server.http.json_answer import json_answer
from myna.server.http.json_body import optional_json_object
from myna.server.keys import Authentication, Scope, credential
from myna.wire.quoting import quoted

DEFAULT_TTL_S = 600
BETA_TTL_S = 60
TTL_S = (10, 7200)
"""Seconds a client secret may live; with the two defaults, OpenAI's own."""


class ClientSecret(TypedDict):
    """A token, and when it expires, in seconds since 1970."""

    value: str
    expires_at: int


@with_config(ConfigDict(title="ClientSecretWithSession"))
class ClientSecretAnswer(ClientSecret):
    """A token, and the session it is for."""

    session: dict[str, Any]


class TranscriptionSession(TypedDict):
    """A session in the fields of the API's first version, and its token."""

    client_secret: ClientSecret


class ClientSecrets:
    """Handlers of one server."""

    def __init__(self, authentication: Authentication) -> None:
        self._authentication = authentication

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/v1/realtime/client_secrets", self.client_secret)
        app.router.add_post("/v1/realtime/transcription_sessions", self.transcription_session)

    async def client_secret(self, request: web.Request) -> web.Response:
        """Make a short-lived token for a Realtime session, which begins as the request describes it."""
        try:
            secret, session = await self._made(request, beta=False)
        except Refusal as refusal:
            return openai_response(refusal)
        body: ClientSecretAnswer = {**secret, "session": session}
        return json_answer(body)

    async def transcription_session(self, request: web.Request) -> web.Response:
        """Do the same in the fields of the API's first version."""
        try:
            secret, session = await self._made(request, beta=True)
        except Refusal as refusal:
            return openai_response(refusal)
        return json_answer({**session, "client_secret": secret})

    async def _made(self, request: web.Request, *, beta: bool) -> tuple[ClientSecret, dict[str, Any]]:
        """Return a token, and the session it is for as its client reads it. Raises `Refusal`."""
        identity = self._authentication.identify(credential(request.headers), Scope.GRANT)
        authenticated(request)
        asked = optional_json_object(await request.read())
        ttl_s = BETA_TTL_S if beta else _ttl(asked.get("expires_after"))
        patch = asked if beta else asked.get("session") or {}
        session = RealtimeSession().patched(patch, beta=beta)
        value = self._authentication.grant(identity, ttl_s, {"patch": patch, "beta": beta})
        secret: ClientSecret = {"value": value, "expires_at": int(time.time()) + ttl_s}
        return secret, session.described(f"sess_{uuid.uuid4().hex}", beta=beta)


def _ttl(given: object) -> int:
    """Return how many seconds a client secret lives: `expires_after` of the request. Raises `Refusal`."""
    low, high = TTL_S
    ttl_s = given.get("seconds", DEFAULT_TTL_S) if isinstance(given, dict) else DEFAULT_TTL_S
    if not isinstance(ttl_s, int) or isinstance(ttl_s, bool) or not low <= ttl_s <= high:
        message = f"expires_after.seconds must be from {low} to {high}, not {quoted(ttl_s)}."
        raise Refusal(400, "invalid_value", message, param="expires_after.seconds")
    return ttl_s
