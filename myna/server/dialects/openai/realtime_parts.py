"""The parts of a Realtime session that a client may set: pydantic models check them, and fields unknown here are kept.

Every function takes the part as it is now, what the client has sent, and the name of the parameter, and raises `Refusal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from myna.server.dialects.openai.errors import refused
from myna.server.dialects.options import LONGEST_KEYTERM, MOST_KEYTERMS
from myna.streaming.audio.raw import AudioError, Encoding, RawFormat
from myna.wire.quoting import quoted

RATE = 24_000
"""Samples per second of audio/pcm, unless the client names another."""
G711 = {"audio/pcmu": Encoding.MULAW, "audio/pcma": Encoding.ALAW}
SERVER_VAD = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
_SEMANTIC_VAD = {"eagerness": "auto"}
Part = Mapping[str, Any] | None
_Texts = Annotated[list[Annotated[str, Field(max_length=LONGEST_KEYTERM)]], Field(max_length=MOST_KEYTERMS)]
_Milliseconds = Annotated[int, Field(ge=0, le=60_000)]


_Model = TypeVar("_Model", bound=BaseModel)


class _StrictModel(BaseModel):
    model_config = ConfigDict(strict=True)


class _Format(_StrictModel):
    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int = RATE

    @field_validator("rate")
    @classmethod
    def _check_rate(cls, rate: int) -> int:
        try:
            return RawFormat(Encoding.LINEAR16, rate).sample_rate
        except AudioError as error:
            raise ValueError(str(error)) from error


class _Transcription(_StrictModel):
    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    delay: str | None = None
    languages: _Texts | None = None
    keywords: _Texts | None = None
    smart_format: bool | None = None
    numerals: bool | None = None
    profanity_filter: bool | None = None
    redact: list[Literal["numbers", "aggressive_numbers", "pci", "ssn"]] | None = None


class _TurnDetection(_StrictModel):
    type: Literal["server_vad", "semantic_vad"]


class _ServerVad(_StrictModel):
    threshold: Annotated[float, Field(ge=0, le=1)]
    prefix_padding_ms: _Milliseconds
    silence_duration_ms: _Milliseconds


class _SemanticVad(_StrictModel):
    eagerness: Literal["low", "medium", "high", "auto"]


def audio_format(now: Part, given: object, where: str) -> Part:
    """Return the audio format; null leaves it as it is, and a field that is absent gets its default."""
    if given is None:
        return now
    wanted = object_in(given, where)
    kind = wanted.get("type")
    if isinstance(kind, str) and kind in G711:
        return {"type": kind}  # G.711 has one rate
    checked = _check(_Format, wanted, where)
    return {"type": checked.type, "rate": checked.rate}


def transcription(now: Part, given: object, where: str) -> Part:
    """Return the transcription options; null turns transcription off."""
    if given is None:
        return None
    wanted = object_in(given, where)
    _check(_Transcription, wanted, where)
    return {**(now or {}), **wanted}


def turn_detection(now: Part, given: object, where: str) -> Part:
    """Return the turn detection; null turns it off. A change of its type sets every other field to its default."""
    if given is None:
        return None
    now, wanted = now or {}, object_in(given, where)
    kind = wanted.get("type", now.get("type", "server_vad"))
    _check(_TurnDetection, {"type": kind}, where)
    defaults: Mapping[str, Any] = SERVER_VAD if kind == "server_vad" else _SEMANTIC_VAD
    base = now if now.get("type") == kind else defaults
    merged = {**base, **{name: value for name, value in wanted.items() if value is not None}, "type": kind}
    _check(_ServerVad if kind == "server_vad" else _SemanticVad, merged, where)
    return merged


def noise_reduction(now: Part, given: object, where: str) -> Part:
    """Return the noise reduction, which the server only repeats to the client; null turns it off."""
    return None if given is None else {**(now or {}), **object_in(given, where)}


def object_in(given: object, where: str) -> Mapping[str, Any]:
    """Return an object. Raises `Refusal`."""
    if not isinstance(given, dict):
        raise refused(f"{where} must be an object, not {quoted(given)}.", where)
    return given


def _check(model: type[_Model], given: Mapping[str, Any], where: str) -> _Model:
    """Return what the client has sent as a model; a refusal names the first field that is wrong."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = f"{where}.{first['loc'][0]}"
        reason = first["msg"].removeprefix("Value error, ")
        kind = reason.removeprefix("Input should be ")
        message = f"{param}: {reason}." if kind == reason else f"{param} must be {kind}, not {quoted(first['input'])}."
        raise refused(message, param) from error
