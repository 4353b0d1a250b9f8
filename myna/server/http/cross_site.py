"""Which web pages may use the server: its own, and those of the origins that the operator allows.

A page may send requests to any address its visitor's machine reaches: it opens WebSockets, posts forms and texts, and, when
its own name is made to resolve to this machine (DNS rebinding), reads the answers. So while there are no keys the server
wants to be called by a name of its own (`Host`), and takes from a browser only what its own pages and the allowed ones ask
for (`Origin`, `Sec-Fetch-Site`). With keys a page is refused only where origins are named and its own is not among them.

A browser lets a page of another origin read an answer, or send one of its own headers, only where the server says so (CORS,
fetch.spec.whatwg.org): the answers to allowed origins say it, refusals among them, and so does the answer to the browser's
question beforehand (the *preflight*), which carries no key. Programs other than browsers send neither `Origin` nor
`Sec-Fetch-Site`, and are not concerned.
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
from myna.server.settings import Settings
from myna.wire.quoting import quoted

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROBED = ("/health/live", "/health/ready")
"""Load balancers ask these by whatever name; the answers tell one state."""
_LOG_EVERY_S = 60.0
"""A page may ask again and again, each time with another name: the log says so often that it is refused."""
_ANY = "*"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]@/\s]*)(:[0-9]{1,5})?")
_NAMES = re.compile(r"[\w!#$%&'*+.^`|~-]+(\s*,\s*[\w!#$%&'*+.^`|~-]+)*", re.ASCII)
"""Names of headers, as a preflight lists them."""
_METHODS = "GET, HEAD, POST"
_READABLE = "dg-request-id, dg-error, Retry-After, Allow, WWW-Authenticate, x-should-retry"
"""Headers of ours that pages may read besides those that browsers always show them."""
_KEPT_S = 600
"""A browser need not ask again for so long."""


class CrossSite:
    """The pages that may use a server which listens on this address; `keyless`: it has no keys."""

    def __init__(self, settings: Settings, listener: str, *, keyless: bool) -> None:
        self._keyless = keyless
        self._local = ipaddress.ip_address(listener.partition("%")[0]).is_loopback
        self._hosts = {"localhost", _plain(settings.host), *map(_plain, settings.allowed_hosts)}
        self._origins = {origin.lower().removesuffix("/") for origin in settings.allowed_origins}

    def add_to(self, app: web.Application) -> None:
        """Have every request of the application checked, and every answer say who may read it."""

        logged_at = float("-inf")

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            nonlocal logged_at
            refusal = self.refusal(request)
            if refusal is not None:
                if time.monotonic() - logged_at >= _LOG_EVERY_S:
                    logged_at = time.monotonic()
                    log.warning("requests of another site are refused", path=request.path, reason=refusal.message)
                return error_response(refusal, request)
            return self._preflight(request) if _is_preflight(request) else await handler(request)

        app.middlewares.append(check)
        app.on_response_prepare.append(self.permit)

    def refusal(self, request: web.Request) -> Refusal | None:
        """Return why the request is not for this server, or not from a page that may use it."""
        if self._keyless and request.path not in PROBED:
            for host in request.headers.getall("Host", []):
                if not self._is_own(host):
                    return Refusal(
                        403,
                        "forbidden_host",
                        f"This server is not called {quoted(host)}: add the name to allowed_hosts, or use API keys.",
                    )
        if self._minds(request) and (origin := self._foreign_origin(request)):
            advice = "add the origin to allowed_origins" + (", or use API keys" if self._keyless else "")
            return Refusal(403, "forbidden_origin", f"Pages of {quoted(origin)} may not use this server: {advice}.")
        return None

    async def permit(self, request: web.Request, response: web.StreamResponse) -> None:
        """Say in an answer's headers whether a page of another origin may read it."""
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
        """Return whether it matters which page a request is from."""
        if _is_preflight(request):
            return True
        return request.method != "OPTIONS" and request.path not in PROBED and (self._keyless or bool(self._origins))

    def _preflight(self, request: web.Request) -> web.Response:
        """Tell a browser that the page may send what it is about to send."""
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


def _is_preflight(request: web.Request) -> bool:
    return request.method == "OPTIONS" and {"Origin", "Access-Control-Request-Method"} <= request.headers.keys()


def _is_link(request: web.Request) -> bool:
    """Return whether somebody has followed a link to a page here, as opposed to a page asking for something."""
    asked = (request.method, request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest"))
    return asked in (("GET", "navigate", "document"), ("HEAD", "navigate", "document"))


def _plain(host: str) -> str:
    return host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
