"""Language tags of clients: the language in a tag, and whether an engine supports it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from myna.streaming.policy import MULTIPLE
from myna.streaming.session.jobs import EngineInfo


def primary(code: str) -> str:
    """Return the language of a tag, without region and script."""
    return re.split("[-_]", code)[0].lower()


def unknown_language(engine: EngineInfo, codes: Iterable[str | None]) -> str | None:
    """Return the first of the language tags that the engine does not support; None if there is none, or if its languages are
    not known."""
    named = (code for code in codes if code not in (None, MULTIPLE))
    return next((code for code in named if engine.languages and primary(code or "") not in engine.languages), None)


def spoken_language(code: str | None) -> str | None:
    """Return the language of `Options` for a client's language tag."""
    return code if code in (None, MULTIPLE) else primary(code or "")
