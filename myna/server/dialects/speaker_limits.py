"""How many speakers a client asks for: `num_speakers`, `min_speakers` and `max_speakers`, the same in every dialect."""

from __future__ import annotations

from typing import Any

from myna.server.dialects.parameters import Parameters, whole
from myna.streaming.speakers.labelling import SpeakerLimits
from myna.wire.quoting import quoted

LIMITS = ("num_speakers", "min_speakers", "max_speakers")
MOST_SPEAKERS = SpeakerLimits().highest
SPEAKER_COUNT: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": MOST_SPEAKERS}
"""The OpenAPI schema of a limit."""


def limits_of(given: Parameters, *, wanted: bool, asking: str) -> SpeakerLimits | None:
    """Return the limits of a request, or None if it does not want speakers.

    `asking` is the parameter that asks for speakers. Raises `Refusal`.
    """
    values = {name: _number(given, name) for name in LIMITS}
    named = [name for name, value in values.items() if value is not None]
    if not wanted:
        if named:
            raise given.refusal(named[0], f"{named[0]} requires {asking}")
        return None
    number, low, high = values.values()
    if low is not None and high is not None and low > high:
        raise given.refusal("min_speakers", f"min_speakers must be at most max_speakers, {high}, not {low}")
    if number is not None and low is not None and number < low:
        raise given.refusal("num_speakers", f"num_speakers must be at least min_speakers, {low}, not {number}")
    if number is not None and high is not None and number > high:
        raise given.refusal("num_speakers", f"num_speakers must be at most max_speakers, {high}, not {number}")
    lowest, highest = low or 1, high or MOST_SPEAKERS
    return SpeakerLimits(lowest, highest, number or (lowest if lowest == highest else None))


def _number(given: Parameters, name: str) -> int | None:
    text = given.text(name)
    if text is None:
        return None
    must = f"{name} must be a whole number from 1 to {MOST_SPEAKERS}, not {quoted(text)}"
    number = whole(text.removeprefix("-"))
    if number is None:
        raise given.refusal(name, must)
    if text.startswith("-") or not 1 <= number <= MOST_SPEAKERS:
        raise given.refusal(name, must)
    return number
