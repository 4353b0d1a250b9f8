"""Client events of OpenAI's Realtime API: parsed, their audio decoded from base64. Every function raises `Refusal`."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any

from myna.server.dialects.base import LONGEST_CONTROL
from myna.server.dialects.openai.errors import refused
from myna.wire import strictjson

LONGEST_APPEND = 15 << 20
"""Bytes of audio in one append: OpenAI's own limit."""
LONGEST_EVENT_ID = 512
"""Characters of an event's id: OpenAI's own limit. An error does not repeat a longer one."""
_SLICE = 131_072
"""Characters of base64 decoded at a time: half a millisecond of the event loop. A multiple of 4."""
_AUDIO = re.compile(r'"audio"\s*:\s*"')


def event_in(frame: str | bytes) -> Mapping[str, Any]:
    """Return the event in a frame."""
    if isinstance(frame, bytes):
        raise refused("Events are text frames; audio belongs in input_audio_buffer.append.")
    try:
        event = strictjson.loads(frame)
    except (ValueError, RecursionError) as error:
        raise refused("The event is not valid JSON.", code="invalid_json") from error
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise refused('An event is a JSON object with a "type".', "type")
    return event


def large_append_in(frame: str) -> tuple[Mapping[str, Any], str]:
    """Return a large event without its audio, and the audio; only an append may be large."""
    found = _AUDIO.search(frame, 0, LONGEST_CONTROL)
    begin = found.end() if found else 0
    end = max(begin, frame.find('"', begin))
    if len(frame) - (end - begin) > LONGEST_CONTROL:
        raise refused(
            f"An event without audio has at most {LONGEST_CONTROL} characters; this one has {len(frame)}.",
            code="event_too_large",
        )
    event = event_in(frame[:begin] + frame[end:])
    if event["type"] != "input_audio_buffer.append" or event.get("audio") != "":
        raise refused("Only the audio of input_audio_buffer.append may make an event this large.", "type")
    return event, frame[begin:end]


def event_id_of(event: Mapping[str, Any]) -> str | None:
    """Return the id that an error about the event repeats."""
    given = event.get("event_id")
    return given if isinstance(given, str) and len(given) <= LONGEST_EVENT_ID else None


def decoded(audio: object) -> bytes:
    """Return the bytes of an append's audio."""
    if not isinstance(audio, str):
        raise refused("audio must be a base64 string.", "audio")
    return _decoded(audio, last=True)


def decoded_slices(audio: str) -> Iterator[bytes]:
    """Yield the bytes of a large append's audio; each slice takes the event loop half a millisecond."""
    if 3 * len(audio) // 4 > LONGEST_APPEND:
        raise refused(f"audio must be at most {LONGEST_APPEND} bytes, not {3 * len(audio) // 4}.", "audio")
    if "\\" in audio:
        audio = audio.replace("\\/", "/")  # some JSON encoders escape slashes
    for start in range(0, len(audio), _SLICE):
        yield _decoded(audio[start : start + _SLICE], last=start + _SLICE >= len(audio))


def _decoded(audio: str, *, last: bool) -> bytes:
    """Return the bytes of a slice of base64; only the `last` may be padded."""
    try:
        data = base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(f"audio is not valid base64: {error}.", "audio") from error
    if not last and "=" in audio:
        raise refused("audio is not valid base64: it has padding in its middle.", "audio")
    return data
