"""What the name of a model's file says, in the scheme of Deepgram's self-hosted servers.

    NAME[.LANGUAGE[-LANGUAGE…]][.formatted|.non-formatted][.batch|.streaming|.all].HASH

NAME is what clients ask for. The suffix of the file has been removed. A name without a hash of hexadecimal digits is not of
the scheme: it is the model's name as a whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Serves = Literal["all", "batch", "streaming"]
"""What a model is for: live streams, files, or both."""
_HASH = re.compile(r"(?=.*[0-9])[0-9a-f]{6,64}")
_LANGUAGES = re.compile(r"[a-z]{2,3}(-[a-z]{2,3}|-[A-Z]{2}|-[A-Z][a-z]{3}|-[0-9]{3})*")
_MULTIPLE = "multi"
_FORMATTED = {"formatted": True, "non-formatted": False}
_SERVES: dict[str, Serves] = {"batch": "batch", "streaming": "streaming", "all": "all"}
FAMILIES = ("nova", "enhanced", "base", "whisper", "flux")
"""The families of Deepgram's models. An older order of their names has the family last: `2-general-nova`."""


@dataclass(frozen=True, slots=True)
class FileName:
    """The parts of a file's name. Empty `languages`: the name does not tell them, or the model is for several (`multi`)."""

    called: str
    languages: tuple[str, ...]
    formatted: bool
    serves: Serves
    hash: str


def parsed(stem: str) -> FileName | None:
    """Return the parts of a name, or None if it is not of the scheme."""
    called, *rest = stem.split(".")
    # The name itself may contain points: the scheme's parts are looked for from the end.
    if not rest or not _HASH.fullmatch(rest[-1]):
        return None
    digest = rest.pop()
    serves: Serves = _SERVES[rest.pop()] if rest and rest[-1] in _SERVES else "all"
    formatted = _FORMATTED[rest.pop()] if rest and rest[-1] in _FORMATTED else True
    languages: tuple[str, ...] = ()
    if rest and rest[-1] == _MULTIPLE:
        rest.pop()
    elif rest and _LANGUAGES.fullmatch(rest[-1]):
        tag = rest.pop().split("-")
        languages = tuple(dict.fromkeys(part for part in tag if part.islower()))
    return FileName(".".join([called, *rest]), languages, formatted, serves, digest)


def same(one: str, other: str) -> bool:
    """Return whether two names are of the same model, in either order of Deepgram's."""
    return _ordered(one) == _ordered(other)


def _ordered(name: str) -> str:
    *others, last = name.split("-")
    return "-".join([last, *others]) if last in FAMILIES else name
