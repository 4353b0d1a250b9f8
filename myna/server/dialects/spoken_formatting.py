"""How words are written in the language that is spoken, for every dialect."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from myna.runtime.errors import Refusal
from myna.server.language_tags import primary
from myna.streaming.policy import MULTIPLE
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.text.formatting import Formatting
from myna.streaming.text.numerals import LANGUAGES as NUMBER_LANGUAGES
from myna.streaming.text.redaction import Redaction
from myna.wire.quoting import quoted

FLAGS = ("smart_format", "numerals", "profanity_filter")
"""The parameters that are true or false; `redact` is another, with several values."""
AS_HEARD = Formatting(fillers=True)
"""Words as the engine writes them."""


def asked(
    *, smart_format: bool, numerals: bool, profanity_filter: bool, redact: Collection[str], language: str = "en"
) -> Formatting:
    """Return the formatting that a client of a dialect without formatting of its own asks for by Deepgram's parameters."""
    return Formatting(
        language=language,
        fillers=True,
        smart=smart_format,
        numerals=numerals,
        profanity=not profanity_filter,
        redactions=frozenset(map(Redaction, redact)),
    )


def spoken(formatting: Formatting, language: str | None, engine: EngineInfo) -> Formatting:
    """Return the formatting for the spoken language: the client's, or the engine's if it has only one.

    The language stays unknown if the engine finds it in each decode. Fillers stay unless the language is known to be English:
    "um" is a word in German and Portuguese. Raises `Refusal` if numbers are to be redacted and the language is unknown, or is
    one whose spoken numbers are not recognised.
    """
    certain = engine.languages[0] if language is None and len(engine.languages) == 1 else language
    code = None if certain in (None, MULTIPLE) else primary(certain)
    if formatting.redactions and code not in NUMBER_LANGUAGES:
        spoken_in = f"in {quoted(code)}" if code else f"by {engine.name} unless one language is named"
        raise Refusal(
            400,
            "unsupported_feature",
            f"redact is not supported {spoken_in}: spoken numbers are only recognised in {', '.join(NUMBER_LANGUAGES)}.",
            param="redact",
        )
    found = code is None and engine.detects_language
    fillers = formatting.fillers or not (found or code == "en")
    return replace(formatting, language="" if found else code or formatting.language, fillers=fillers)
