"""Refusals as HTTP responses, in the format that the clients of an address read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from myna.runtime.errors import Refusal
from myna.server.http.json_answer import json_answer

ErrorFormat = Callable[[Refusal, web.Request], web.Response]


@dataclass(frozen=True, slots=True)
class VendorAddresses:
    """The addresses that clients of one vendor use."""

    prefixes: tuple[str, ...]
    error_format: ErrorFormat | None = None
    """How errors at these addresses are written; None: as at an address of no vendor."""
    base_address: str = ""
    """What the base address of these clients must be, told to a client whose address does not exist."""


class ErrorFormats:
    """The error formats of one server, by the beginning of an address: the longest one counts.

    `default` holds for addresses of no vendor.
    """

    def __init__(self, default: ErrorFormat, formats: Mapping[str, ErrorFormat]) -> None:
        self._default = default
        self._formats = sorted(formats.items(), key=lambda item: -len(item[0]))

    def response(self, refusal: Refusal, request: web.Request, path: str) -> web.Response:
        """Return a refusal in the format of this address."""
        found = (made for prefix, made in self._formats if path.startswith(prefix))
        return next(found, self._default)(refusal, request)


ERROR_FORMATS = web.AppKey("error_formats", ErrorFormats)
"""The key under which an application carries its error formats."""


def error_response(refusal: Refusal, request: web.Request, path: str | None = None) -> web.Response:
    """Return a refusal in the format of the request's address, or of another if `path` names one."""
    return request.app[ERROR_FORMATS].response(refusal, request, path or request.path)


def refusal_response(refusal: Refusal, body: object, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a refusal with this body, these headers, and the headers that HTTP itself requires."""
    return json_answer(body, status=refusal.status, headers={**(headers or {}), **_http_headers(refusal)})


def _http_headers(refusal: Refusal) -> dict[str, str]:
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
