"""Keeps the web pages of other sites away from a server without keys, to which the user's own browser lets them speak.

A page may send requests to any address its visitor's machine reaches: it opens WebSockets, posts forms and texts, and, when
its own name is made to resolve to this machine (DNS rebinding), reads the answers. So while there are no keys the server
wants to be called by a name of its own (`Host`), and takes from a browser only what its own pages ask for (`Origin`,
`Sec-Fetch-Site`). Programs other than browsers send neither `Origin` nor `Sec-Fetch-Site`, and are not concerned.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from myna.server.config import Settings
from myna.server.dialects.base import Refusal
from myna.server.http import in_dialect
from myna.streaming.quoting import quoted

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROBED = ("/health/live", "/health/ready")
"""Load balancers ask these by whatever name; the answers tell one state."""
_LOG_EVERY_S = 60.0
"""A page may ask again and again, each time with another name: the log says so often that it is refused."""
_ANY = "*"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]@/\s]*)(:[0-9]{1,5})?")


def only_own_sites(settings: Settings, listener: str) -> Middleware:
    """Return the check for a server that listens on this address and has no keys."""
    site = _Site(settings.host, listener, settings.allowed_hosts, settings.allowed_origins)
    logged_at = float("-inf")

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal logged_at
        refusal = None if request.path in PROBED else site.refusal(request)
        if refusal is None:
            return await handler(request)
        if time.monotonic() - logged_at >= _LOG_EVERY_S:
            logged_at = time.monotonic()
            log.warning("requests of another site are refused", path=request.path, reason=refusal.message)
        return in_dialect(refusal, request)

    return check


class _Site:
    def __init__(self, host: str, listener: str, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self._local = ipaddress.ip_address(listener.partition("%")[0]).is_loopback
        self._hosts = {"localhost", _plain(host), *map(_plain, hosts)}
        self._origins = {origin.lower().removesuffix("/") for origin in origins}

    def refusal(self, request: web.Request) -> Refusal | None:
        """Return why the request is not for this site, or not from it."""
        for host in request.headers.getall("Host", []):
            if not self._is_own(host):
                return Refusal(
                    403,
                    "forbidden_host",
                    f"This server is not called {quoted(host)}: add the name to allowed_hosts, or use API keys.",
                )
        if request.method != "OPTIONS" and (origin := self._foreign_origin(request)):
            return Refusal(
                403,
                "forbidden_origin",
                f"Pages of {quoted(origin)} may not use this server: add the origin to allowed_origins, or use API keys.",
            )
        return None

    def _is_own(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = _plain(found[1])
        if name in self._hosts or _ANY in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # No name that somebody else controls is an address: only a server for this machine alone need look at which it is.
        return address.is_loopback or not self._local

    def _foreign_origin(self, request: web.Request) -> str | None:
        """Return where a browser says the request comes from, unless that is here, or allowed."""
        origin = request.headers.get("Origin")
        if _ANY in self._origins:
            return None
        if origin is not None:
            # Behind a proxy that ends TLS the scheme is another, so it is not compared.
            own = origin.lower().partition("://")[2] == request.headers.get("Host", "").lower()
            return None if own or origin.lower() in self._origins else origin
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site in ("none", "same-origin") or _is_link(request):
            return None
        return f"another site ({site})"


def _is_link(request: web.Request) -> bool:
    """Return whether somebody has followed a link to a page here, as opposed to a page asking for something."""
    asked = (request.method, request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest"))
    return asked in (("GET", "navigate", "document"), ("HEAD", "navigate", "document"))


def _plain(host: str) -> str:
    return host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
