"""Handles `POST /v1/auth/grant`: short-lived tokens."""

from __future__ import annotations

from aiohttp import web
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from myna.runtime.errors import Refusal
from myna.server.http.connections import authenticated
from myna.server.http.errors import error_response
from myna.server.http.json_answer import json_answer
from myna.server.http.json_body import optional_json_object
from myna.server.keys import LONGEST_GRANT_S, Authentication, Scope, credential
from myna.wire.quoting import quoted

DEFAULT_GRANT_S = 30
"""Deepgram's own default."""


@with_config(ConfigDict(title="Grant"))
class GrantAnswer(TypedDict):
    """A token, and how many seconds it is valid."""

    access_token: str
    expires_in: int


class GrantHandler:
    """The handler of one server."""

    def __init__(self, authentication: Authentication) -> None:
        self._authentication = authentication

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_post("/v1/auth/grant", self.grant)

    async def grant(self, request: web.Request) -> web.Response:
        """Make a short-lived token."""
        try:
            identity = self._authentication.identify(credential(request.headers), Scope.GRANT)
            authenticated(request)
            ttl_s = _ttl(await request.read())
        except Refusal as refusal:
            return error_response(refusal, request)
        body: GrantAnswer = {"access_token": self._authentication.grant(identity, ttl_s), "expires_in": ttl_s}
        return json_answer(body)


def _ttl(body: bytes) -> int:
    ttl_s = optional_json_object(body).get("ttl_seconds", DEFAULT_GRANT_S)
    if not isinstance(ttl_s, int | float) or isinstance(ttl_s, bool) or not 1 <= ttl_s <= LONGEST_GRANT_S:
        raise Refusal(400, "bad_request", f"ttl_seconds must be from 1 to {LONGEST_GRANT_S}, not {quoted(ttl_s)}.")
    return int(ttl_s)
