"""The routes that some networks may use without a key, on a server with keys.

Reflector's client for translations can send no key, so the network of Reflector's servers needs such a route.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from aiohttp import web

from myna.server.keys import ANYBODY, Authentication, Identity, Scope, credential
from myna.server.settings import Settings


class OpenRoutes:
    """The open routes of one server: `keyless_paths`, open to `keyless_networks`."""

    def __init__(self, settings: Settings) -> None:
        self._paths = tuple(settings.keyless_paths)
        self._networks = [ip_network(network) for network in settings.keyless_networks]

    def open(self, request: web.Request) -> bool:
        """Return whether this request, which shows no key, may do without one."""
        if not self._networks or not any(
            request.path == path or request.path.startswith(f"{path.removesuffix('/')}/") for path in self._paths
        ):
            return False
        if credential(request.headers) is not None:
            return False
        try:
            peer = ip_address((request.remote or "").partition("%")[0])
        except ValueError:
            return False
        return any(peer in network for network in self._networks if network.version == peer.version)

    def identify(self, request: web.Request, authentication: Authentication) -> Identity:
        """Return the client of a request with files. Raises `Refusal`."""
        if authentication.required and self.open(request):
            return ANYBODY
        return authentication.identify(credential(request.headers), Scope.TRANSCRIBE)
