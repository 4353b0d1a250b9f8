"""The address that a client meant whose own leads nowhere: usually its base address is wrong."""

from __future__ import annotations

import difflib

from aiohttp import web

_LIKE = 0.8
"""Likeness (difflib's ratio) from which an address counts as another, misspelt."""
_LONGEST = 200
"""Characters of an address that are looked at."""


class Addresses:
    """The addresses of one server. A *tail* is what follows the version: clients append it to their base address."""

    def __init__(self, app: web.Application) -> None:
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
        """Return the address that a client meant by one at which there is nothing; None: nobody knows."""
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
        """Return the address of the same tail that takes the method; None: there is none."""
        tail = _tail(path)
        return next(
            (other for other, methods in self._methods.items() if method in methods and tail == _tail(other)), None
        )


ADDRESSES = web.AppKey("addresses", Addresses)
"""Under this an application carries them."""


def advice(path: str) -> str:
    """Return what to tell a client that meant this address."""
    if path.startswith(("/v1/audio/", "/v1/realtime")):
        return f"The address is {path}: the base address of OpenAI's clients ends in /v1."
    if path.startswith(("/v1/listen", "/v2/")):
        return f"The address is {path}: the base address of Deepgram's clients is that of the server, without a path."
    return f"The address is {path}."


def _tail(path: str) -> str:
    version, _, tail = path.removeprefix("/").partition("/")
    return tail if version in ("v1", "v2") else ""
