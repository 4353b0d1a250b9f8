"""Parameters of Deepgram's `/v2/listen`, in the address and in `Configure`: honoured, refused with a reason, or ignored."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from myna.server.dialects.deepgram.listen_request import MOST_GIVEN, audio_of, checked_keyterms
from myna.server.dialects.parameters import LONGEST, MOST_VALUES, Parameters, refused
from myna.streaming.audio.raw import Coded, RawFormat
from myna.streaming.policy import MULTIPLE, TurnPolicy
from myna.streaming.text.formatting import Formatting
from myna.streaming.text.redaction import Redaction
from myna.wire.quoting import quoted, shortened

_EAGER = (0.3, 0.9)
_END = (0.5, 1.0)
_TIMEOUT_MS = (500, 60_000)
MULTILINGUAL = "flux-general-multi"
"""The model whose messages name languages."""
ENGLISH = "en"
"""The language of the other models."""
_REDACTIONS = {"numbers": Redaction.NUMBERS, "aggressive_numbers": Redaction.AGGRESSIVE_NUMBERS}


@dataclass(frozen=True, slots=True)
class FluxRequest:
    """What a client asks for."""

    model: str | None
    audio: RawFormat | Coded
    turns: TurnPolicy
    keyterms: tuple[str, ...]
    language_hints: tuple[str, ...]
    formatting: Formatting

    @property
    def language(self) -> str:
        """The language tag of the stream; `MULTIPLE`: its language may change."""
        hints = self.language_hints
        return ENGLISH if self.model != MULTILINGUAL else hints[0] if len(hints) == 1 else MULTIPLE


def parse(query: Collection[tuple[str, str]]) -> FluxRequest:
    """Read the parameters. Raises `Refusal`."""
    given = Parameters(query)
    turns = TurnPolicy()
    try:
        turns = TurnPolicy(
            given.fraction("eot_threshold", *_END) or turns.end,
            given.fraction("eager_eot_threshold", *_EAGER),
            given.number("eot_timeout_ms", *_TIMEOUT_MS) or turns.timeout_ms,
        )
    except ValueError as error:
        raise refused(f"eager_eot_threshold and eot_threshold: {error}.") from error
    redactions = [kind for kind in given.texts("redact") if kind != "false"]
    for kind in redactions:
        if kind not in _REDACTIONS:
            raise refused(
                f"redact={shortened(kind)} is not supported. Supported values: {', '.join(_REDACTIONS)}.",
                "unsupported_feature",
            )
    model = given.text("model")
    if given.given("language_hint") and model == MULTILINGUAL and not given.texts("language_hint"):
        raise refused("language_hint must not be empty.")
    return FluxRequest(
        model=model,
        audio=audio_of(given),
        turns=turns,
        keyterms=checked_keyterms(given.texts("keyterm", most=MOST_GIVEN)),
        language_hints=given.texts("language_hint") if model == MULTILINGUAL else (),
        formatting=Formatting(
            language="en",
            punctuate=True,
            fillers=True,
            numerals=given.flag("numerals"),
            profanity=not given.flag("profanity_filter"),
            redactions=frozenset(_REDACTIONS[kind] for kind in redactions),
        ),
    )


def thresholds_of(given: object, now: TurnPolicy) -> TurnPolicy:
    """Return the thresholds after a `Configure` message; absent ones do not change. Raises `Refusal`."""
    if not isinstance(given, dict):
        raise refused(f"thresholds must be an object, not {quoted(given)}.", "invalid_thresholds")
    values: dict[str, float] = {}
    bounds = {"eager_eot_threshold": _EAGER, "eot_threshold": _END, "eot_timeout_ms": _TIMEOUT_MS}
    for name, (low, high) in bounds.items():
        value = given.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise refused(f"{name} must be from {low:g} to {high:g}, not {quoted(value)}.", "invalid_thresholds")
        values[name] = value
    try:
        return TurnPolicy(
            float(values.get("eot_threshold", now.end)),
            values.get("eager_eot_threshold", now.eager),
            int(values.get("eot_timeout_ms", now.timeout_ms)),
        )
    except ValueError as error:
        raise refused(f"eager_eot_threshold and eot_threshold: {error}.", "invalid_thresholds") from error


def texts_of(name: str, given: object) -> tuple[str, ...]:
    """Return a list of strings in a message. Raises `Refusal`."""
    if not (isinstance(given, list) and all(isinstance(text, str) and text for text in given)):
        raise refused(f"{name} must be a list of strings, not {quoted(given)}.", f"invalid_{name}")
    if len(given) > MOST_VALUES:
        raise refused(f"{name} must have at most {MOST_VALUES} values, not {len(given)}.", f"invalid_{name}")
    if (longest := max(map(len, given), default=0)) > LONGEST:
        raise refused(f"{name} must have strings of at most {LONGEST} characters, not {longest}.", f"invalid_{name}")
    return tuple(given)
