"""Decides which web pages may use the server: its own, and those of the origins that the operator allows.

A page can send requests to any address that its visitor's machine reaches: it can open WebSockets and post forms, and with
DNS rebinding it can read the answers. A server without keys therefore accepts only its own names (`Host`), and from a browser
only requests of its own pages and of allowed origins (`Origin`, `Sec-Fetch-Site`). A server with keys refuses a page only if
origins are configured and the page's is not among them.

A browser lets a page of another origin read an answer only if the answer's headers allow it (CORS, fetch.spec.whatwg.org).
Every answer to an allowed origin has these headers, errors included, and so has the answer to a *preflight*, the request
without a key that a browser sends beforehand. Programs other than browsers send neither `Origin` nor `Sec-Fetch-Site`; these
rules do not affect them.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from myna.runtime.errors import Refusal
from myna.server.http.errors import error_response
from myna.server.http.open_routes import OpenRoutes
from myna.server.settings import Settings
from myna.wire.quoting import quoted

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROBED = ("/health/live", "/health/ready")
"""Load balancers request these under any host name; the answers contain one word of state."""
_LOG_EVERY_S = 60.0
"""Interval between two log lines: a page may repeat its request at any rate, with another host name each time."""
_ANY = "*"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]@/\s]*)(:[0-9]{1,5})?")
_NAMES = re.compile(r"[\w!#$%&'*+.^`|~-]+(\s*,\s*[\w!#$%&'*+.^`|~-]+)*", re.ASCII)
"""Names of headers, as a preflight lists them."""
_METHODS = "GET, HEAD, POST"
_READABLE = "dg-request-id, dg-error, Retry-After, Allow, WWW-Authenticate, x-should-retry"
"""Response headers that pages may read besides those that browsers always expose."""
_KEPT_S = 600
"""Seconds for which a browser may reuse a preflight's answer."""


class CrossSite:
    """The rules of a server that listens on the address `listener`. `keyless`: the server has no keys."""

    def __init__(self, settings: Settings, listener: str, *, keyless: bool) -> None:
        self._keyless = keyless
        self._open_routes = OpenRoutes(settings)
        self._local = ipaddress.ip_address(listener.partition("%")[0]).is_loopback
        self._hosts = {"localhost", _plain(settings.host), *map(_plain, settings.allowed_hosts)}
        self._origins = {origin.lower().removesuffix("/") for origin in settings.allowed_origins}

    def add_to(self, app: web.Application) -> None:
        """Check every request of the application, and add CORS headers to every answer."""

        logged_at = float("-inf")

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            nonlocal logged_at
            refusal = self.refusal(request)
            if refusal is not None:
                if time.monotonic() - logged_at >= _LOG_EVERY_S:
                    logged_at = time.monotonic()
                    log.warning("requests from another site are refused", path=request.path, reason=refusal.message)
                return error_response(refusal, request)
            return self._preflight(request) if _is_preflight(request) else await handler(request)

        app.middlewares.append(check)
        app.on_response_prepare.append(self.permit)

    def refusal(self, request: web.Request) -> Refusal | None:
        """Return why the request is refused: it has another host name, or its page may not use the server."""
        if self._needs_no_key(request) and request.path not in PROBED:
            for host in request.headers.getall("Host", []):
                if not self._is_own(host):
                    return Refusal(
                        403,
                        "forbidden_host",
                        f"{quoted(host)} is not a name of this server: add it to allowed_hosts, or use API keys.",
                    )
        if self._minds(request) and (origin := self._foreign_origin(request)):
            advice = "add the origin to allowed_origins" + (", or use API keys" if self._keyless else "")
            return Refusal(403, "forbidden_origin", f"Pages of {quoted(origin)} may not use this server: {advice}.")
        return None

    async def permit(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers that let a page of an allowed origin read the answer."""
        if not self._origins:
            return
        if _ANY in self._origins:
            response.headers["Access-Control-Allow-Origin"] = _ANY
        else:
            response.headers["Vary"] = ", ".join(filter(None, (response.headers.get("Vary"), "Origin")))
            origin = request.headers.get("Origin", "")
            if origin.lower() not in self._origins:
                return
            response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _READABLE

    def _minds(self, request: web.Request) -> bool:
        """Return whether the origin of the request is checked."""
        if _is_preflight(request):
            return True
        if request.method == "OPTIONS" or request.path in PROBED:
            return False
        return bool(self._origins) or self._needs_no_key(request)

    def _needs_no_key(self, request: web.Request) -> bool:
        return self._keyless or self._open_routes.open(request)

    def _preflight(self, request: web.Request) -> web.Response:
        """Return the answer to a preflight: the page may send its request."""
        headers = {"Access-Control-Allow-Methods": _METHODS, "Access-Control-Max-Age": str(_KEPT_S)}
        if _NAMES.fullmatch(names := request.headers.get("Access-Control-Request-Headers", "")):
            headers["Access-Control-Allow-Headers"] = names
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=headers)

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
        # DNS rebinding needs a name: only a server that listens on the loopback interface checks which address it is.
        return address.is_loopback or not self._local

    def _foreign_origin(self, request: web.Request) -> str | None:
        """Return the origin that a browser names, unless it is the server's own or allowed."""
        origin = request.headers.get("Origin")
        if _ANY in self._origins:
            return None
        if origin is not None:
            # The scheme is not compared: behind a proxy that terminates TLS it differs.
            own = origin.lower().partition("://")[2] == request.headers.get("Host", "").lower()
            return None if own or origin.lower() in self._origins else origin
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site in ("none", "same-origin") or _is_link(request):
            return None
        return f"another site ({site})"


def _is_preflight(request: web.Request) -> bool:
    return request.method == "OPTIONS" and {"Origin", "Access-Control-Request-Method"} <= request.headers.keys()


def _is_link(request: web.Request) -> bool:
    """Return whether the visitor followed a link to a page of this server, rather than a script requesting data."""
    asked = (request.method, request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest"))
    return asked in (("GET", "navigate", "document"), ("HEAD", "navigate", "document"))


def _plain(host: str) -> str:
    return host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
