"""Finds the address that a client meant when its own does not exist: usually its base address is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from aiohttp import web

from myna.server.http.errors import VendorAddresses

_LIKE = 0.8
"""difflib's ratio from which an address counts as a misspelling of another."""
_LONGEST = 200
"""Characters of an address that are compared."""


class Addresses:
    """The addresses of one server. A *tail* is what follows the version: clients append it to their base address."""

    def __init__(self, app: web.Application, vendors: Sequence[VendorAddresses]) -> None:
        self._vendors = vendors
        self._methods: dict[str, set[str]] = {}
        self._named: list[str] = []  # addresses that end in a name, up to the name
        for route in app.router.routes():
            path = "" if route.resource is None else route.resource.canonical
            fixed, _, name = path.partition("{")
            if name:
                self._named.append(fixed)
            else:
                self._methods.setdefault(path, set()).add(route.method)
        self._tails: dict[str, str] = {}
        for path in sorted(self._methods):
            self._tails.setdefault(_tail(path), path)
        self._tails.pop("", None)

    def meant_by(self, path: str) -> str | None:
        """Return the address that a client meant by one that does not exist; None: unknown."""
        parts = [part for part in path[:_LONGEST].split("/") if part]
        for start in range(len(parts)):
            rest = "/".join(parts[start:])
            if f"/{rest}" in self._methods:
                return f"/{rest}"
            if rest in self._tails:
                return self._tails[rest]
            for begin in self._named:
                for head in (begin.removeprefix("/"), _tail(begin)):
                    if rest.startswith(head) and rest != head:
                        return begin + rest.removeprefix(head)
        return next(iter(difflib.get_close_matches("/" + "/".join(parts), self._methods, 1, _LIKE)), None)

    def taking(self, method: str, path: str) -> str | None:
        """Return the address with the same tail that takes the method, if there is one."""
        tail = _tail(path)
        return next(
            (other for other, methods in self._methods.items() if method in methods and tail == _tail(other)), None
        )

    def advice(self, path: str) -> str:
        """Return what to tell a client that meant this address."""
        for vendor in self._vendors:
            if vendor.base_address and path.startswith(vendor.prefixes):
                return f"The address is {path}: {vendor.base_address}."
        return f"The address is {path}."


ADDRESSES = web.AppKey("addresses", Addresses)
"""The key under which an application carries them."""


def _tail(path: str) -> str:
    version, _, tail = path.removeprefix("/").partition("/")
    return tail if version in ("v1", "v2") else ""
