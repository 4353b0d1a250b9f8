"""What requests with files ask for: forms and JSON bodies, read and checked."""

from __future__ import annotations

from typing import Any

from myna.batch.disk import Upload
from myna.runtime.errors import Refusal
from myna.server.dialects.openai import rest as openai_rest
from myna.server.http.uploads import Form
from myna.wire import strictjson
from myna.wire.quoting import quoted

LARGEST_OFFSET_S = 1_000_000_000
"""Seconds, some thirty years: times of day since 1970 count as wrong, and all times stay exact to a microsecond."""


def files_of(form: Form, asked: openai_rest.TranscriptionRequest) -> list[Upload]:
    """Return the files of a form that are to be transcribed. Raises `Refusal`."""
    single = [upload for name, upload in form.files if name == "file"]
    several = [upload for name, upload in form.files if name.removesuffix("[]") == "files"]
    if asked.batch and not several:
        raise openai_rest.refused("Batch transcription requires 'files'", "files")
    uploads = single or several
    if not uploads:
        raise openai_rest.refused("Either 'file' or 'files' parameter is required", "file")
    if len(single) > 1:
        raise openai_rest.refused("'file' was given more than once: several files go into 'files'.", "file")
    return uploads


def is_several(form: Form, asked: openai_rest.TranscriptionRequest) -> bool:
    """Return whether the answer is one of several files."""
    return len(form.files) > 1 or asked.batch


def json_object(text: str) -> dict[str, Any]:
    """Return a JSON object. Raises `Refusal`."""
    try:
        body = strictjson.loads(text)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        message = "Content-type was application/json, but we could not process the JSON payload."
        raise Refusal(400, "invalid_json", message)
    return body


def url_in(text: str) -> str:
    """Return the address that Deepgram's JSON body names. Raises `Refusal`."""
    url = json_object(text).get("url")
    if not isinstance(url, str) or not url:
        raise Refusal(400, "bad_request", 'The JSON payload must be {"url": "https://…"}.')
    return url


def reflector_request(body: dict[str, Any]) -> tuple[openai_rest.TranscriptionRequest, str, float]:
    """Return what Reflector's body asks for, the address, and the offset of its times in seconds. Raises `Refusal`."""
    url, offset = body.get("audio_file_url"), body.get("timestamp_offset", 0.0)
    if not isinstance(url, str) or not url:
        raise Refusal(422, "missing_field", "audio_file_url is required, and is a text.", param="audio_file_url")
    if not isinstance(offset, int | float) or isinstance(offset, bool):
        raise Refusal(422, "wrong_type", "timestamp_offset is a number of seconds.", param="timestamp_offset")
    if not abs(offset) <= LARGEST_OFFSET_S:  # also true of NaN, which a caller may have parsed
        message = (
            f"timestamp_offset must be from -{LARGEST_OFFSET_S} to {LARGEST_OFFSET_S} seconds, not {quoted(offset)}."
        )
        raise Refusal(400, "invalid_value", message, param="timestamp_offset")
    # response_format is ours: Reflector's clients do not ask for one.
    names = ("model", "language", "response_format")
    fields = [(name, value) for name in names if isinstance(value := body.get(name), str)]
    asked = openai_rest.parse(fields, spaced=True)
    if offset and asked.response_format is not None:
        message = f"timestamp_offset must be 0 with response_format={asked.response_format}: its times are not shifted."
        raise Refusal(400, "invalid_value", message, param="timestamp_offset")
    return asked, url, float(offset)
