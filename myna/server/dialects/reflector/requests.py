"""Reflector's requests: which ones are theirs at an address shared with OpenAI's clients, and what their JSON body asks for.

Reflector's live client sends requests to `/v1/audio/transcriptions` through OpenAI's SDK for `verbose_json` and joins the
words without a separator. Only the host tells such a request from others of the SDK: Reflector's own compose file calls the
service `transcription` (github.com/GreyhavenHQ/reflector, docker-compose.selfhosted.yml, `TRANSCRIPT_URL`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from myna.runtime.errors import Refusal
from myna.server.dialects.openai import rest
from myna.server.dialects.speaker_limits import LIMITS
from myna.server.dialects.spoken_formatting import FLAGS
from myna.wire.quoting import quoted

PREFIX = "/reflector"
"""Begins the addresses that are Reflector's alone. `TRANSCRIPT_URL` may end in it, since its clients append to it."""
LARGEST_OFFSET_S = 1_000_000_000
"""Seconds, about thirty years: offsets since 1970 are refused, and every time stays exact to a microsecond."""
_ANY = "*"


def is_theirs(path: str, host: str, names: Sequence[str]) -> bool:
    """Return whether a request is Reflector's: at an address of its own, or sent to this server by one of these names.

    `host` is the header of that name.
    """
    if path.startswith(f"{PREFIX}/") or _ANY in names:
        return True
    return host.lower().partition(":")[0] in {name.lower() for name in names}


def parse(body: dict[str, Any]) -> tuple[rest.TranscriptionRequest, str, float]:
    """Return what a body asks for, the file's address, and the offset of its times in seconds. Raises `Refusal`."""
    url, offset = body.get("audio_file_url"), body.get("timestamp_offset", 0.0)
    if not isinstance(url, str) or not url:
        raise Refusal(422, "missing_field", "audio_file_url is required and must be a string.", param="audio_file_url")
    if not isinstance(offset, int | float) or isinstance(offset, bool):
        raise Refusal(422, "wrong_type", "timestamp_offset must be a number of seconds.", param="timestamp_offset")
    if not abs(offset) <= LARGEST_OFFSET_S:  # also refuses NaN
        message = (
            f"timestamp_offset must be from -{LARGEST_OFFSET_S} to {LARGEST_OFFSET_S} seconds, not {quoted(offset)}."
        )
        raise Refusal(400, "invalid_value", message, param="timestamp_offset")
    # response_format and what concerns speakers and formatting are extensions: Reflector's clients do not send them.
    names = ("model", "language", "response_format")
    fields = [(name, value) for name in names if isinstance(value := body.get(name), str)]
    fields += [(name, str(body[name]).lower()) for name in ("diarize", *LIMITS, *FLAGS) if body.get(name) is not None]
    redactions = body.get("redact") or []
    if not (isinstance(redactions, list) and all(isinstance(kind, str) for kind in redactions)):
        raise Refusal(422, "wrong_type", "redact must be a list of texts.", param="redact")
    asked = rest.parse([*fields, *(("redact", kind) for kind in redactions)], spaced=True)
    if offset and asked.response_format is not None:
        message = f"timestamp_offset must be 0 with response_format={asked.response_format}: its times are not shifted."
        raise Refusal(400, "invalid_value", message, param="timestamp_offset")
    return asked, url, float(offset)
