"""Reflector's requests: which ones are theirs at an address shared with OpenAI's clients, and their parameters.

Reflector's live client sends requests to `/v1/audio/transcriptions` through OpenAI's SDK for `verbose_json` and joins the
words without a separator. Only the host tells such a request from others of the SDK: Reflector's own compose file calls the
service `transcription` (github.com/GreyhavenHQ/reflector, docker-compose.selfhosted.yml, `TRANSCRIPT_URL`).

Types are converted as Reflector's server converts them (FastAPI with pydantic): `batch=yes` and `"timestamp_offset": "10"`
are accepted. Other fields are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from myna.server.dialects.speaker_limits import LIMITS
from myna.server.dialects.spoken_formatting import FLAGS

PREFIX = "/reflector"
"""Begins the addresses that are Reflector's alone. `TRANSCRIPT_URL` may end in it, since its clients append to it."""
_ANY = "*"
_LARGEST_OFFSET_S = 1_000_000_000
"""Seconds, about thirty years: offsets since 1970 are refused, and every time stays exact to a microsecond."""
_Offset = Annotated[float, Field(ge=-_LARGEST_OFFSET_S, le=_LARGEST_OFFSET_S, allow_inf_nan=False)]
_Text = Annotated[str, Field(max_length=1000)]
_Address = Annotated[str, Field(min_length=1)]


class FormFields(BaseModel):
    """The fields of a form with files."""

    model: _Text = ""
    language: _Text = "en"
    batch: bool = False


class TranscribeFields(BaseModel):
    """The fields of a form for `/transcribe`. `source_language` is an older name of `language`."""

    language: _Text = ""
    source_language: _Text = ""
    timestamp: _Offset = 0.0


class FromUrlBody(BaseModel):
    """The body of a request for the file at an address."""

    audio_file_url: _Address
    model: _Text = ""
    language: _Text = "en"
    timestamp_offset: _Offset = 0.0


class DiarizeQuery(BaseModel):
    """The query of a request for the speakers in the file at an address."""

    audio_file_url: _Address
    timestamp: _Offset = 0.0


class PadBody(BaseModel):
    """The body of a request for silence before a track."""

    track_url: str
    output_url: str
    start_time_seconds: Annotated[float, Field(allow_inf_nan=False)]
    track_index: int


def is_theirs(path: str, host: str, names: Sequence[str]) -> bool:
    """Return whether a request is Reflector's: at an address of its own, or sent to this server by one of these names.

    `host` is the header of that name.
    """
    if path.startswith(f"{PREFIX}/") or _ANY in names:
        return True
    return host.lower().partition(":")[0] in {name.lower() for name in names}


def without_empty(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a form's fields, or a query, by name: the last value of each. Empty values count as absent, as in FastAPI."""
    return {name: value for name, value in fields if value}


def extensions(given: Mapping[str, object], *more: str) -> list[tuple[str, str]]:
    """Return the fields that this server understands beyond Reflector's: speakers, formatting, and `more`."""
    names = ("diarize", *LIMITS, *FLAGS, *more)
    fields = [(name, str(given[name]).lower()) for name in names if given.get(name) is not None]
    redactions = given.get("redact") or []
    return fields + [("redact", str(kind)) for kind in (redactions if isinstance(redactions, list) else [redactions])]
