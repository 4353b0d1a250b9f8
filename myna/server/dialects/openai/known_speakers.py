"""`known_speaker_names[]` and `known_speaker_references[]`: speakers with names, each with a clip of its voice."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from myna.batch.disk import Upload, private_file
from myna.runtime.threads import on_thread
from myna.server.dialects.openai.errors import refused
from myna.wire.quoting import quoted, shortened
from myna.wire.strictjson import well_formed

NAMES, REFERENCES = "known_speaker_names", "known_speaker_references"
MOST_KNOWN = 4
"""As many as OpenAI takes."""
LONGEST_NAME = 100
LONGEST_REFERENCE = 12 << 20
"""Bytes of a data URL: ten seconds of stereo in 32 bits at 96 kHz have 10.2 MB in base64."""
_DATA_URL = re.compile(rb"data:[^,]{0,200};base64,", re.IGNORECASE)
_SHOWN = 60
"""Characters of an invalid reference that its refusal repeats."""


def names_of(fields: Collection[tuple[str, str]], *, diarized: bool) -> tuple[str, ...]:
    """Return the names of the known speakers. Raises `Refusal`."""
    names = [well_formed(value).strip() for name, value in fields if name.removesuffix("[]") == NAMES]
    if names and not diarized:
        raise refused(f"{NAMES} requires response_format=diarized_json.", NAMES)
    if len(names) > MOST_KNOWN:
        raise refused(f"{NAMES} must have at most {MOST_KNOWN} values, not {len(names)}.", NAMES)
    for name in names:
        if not 0 < len(name) <= LONGEST_NAME:
            raise refused(f"{NAMES} must have from 1 to {LONGEST_NAME} characters each, not {len(name)}.", NAMES)
        if names.count(name) > 1:
            raise refused(
                f"{NAMES} must be different names; {quoted(name)} was given {names.count(name)} times.", NAMES
            )
    return tuple(names)


async def clips_of(names: Sequence[str], references: Sequence[Upload], *, diarized: bool) -> list[Path]:
    """Return the clips of the known speakers, as files, decoded out of the data URLs that were received. Raises `Refusal`."""
    if references and not diarized:
        raise refused(f"{REFERENCES} requires response_format=diarized_json.", REFERENCES)
    if len(references) > MOST_KNOWN:
        raise refused(f"{REFERENCES} must have at most {MOST_KNOWN} values, not {len(references)}.", REFERENCES)
    if len(names) != len(references):
        raise refused(
            f"{NAMES} and {REFERENCES} must have the same number of values, not {len(names)} and {len(references)}.",
            REFERENCES if len(names) > len(references) else NAMES,
        )
    return [await on_thread(partial(_clip, number, upload.path)) for number, upload in enumerate(references)]


def unusable(number: int, reason: str) -> str:
    """Return the message about the reference with this number, from 0."""
    return f"{REFERENCES}[{number}]: {reason}."


def display_names(speakers: Collection[int], known: dict[int, str], given: Collection[str]) -> dict[int, str]:
    """Return the name of each speaker: its own if it is `known`, else the next of A to Z, AA … that is not a `given` name."""
    free = (name for name in _letters() if name not in given)
    return {speaker: known[speaker] if speaker in known else next(free) for speaker in sorted(speakers)}


def _letters() -> Iterator[str]:
    number = 0
    while True:
        yield letters(number)
        number += 1


def letters(number: int) -> str:
    """Return the name of a speaker: A to Z, then AA."""
    name = ""
    while number >= 0:
        number, letter = divmod(number, 26)
        name, number = chr(ord("A") + letter) + name, number - 1
    return name


def _clip(number: int, path: Path) -> Path:
    """Replace a file with a data URL by the data; return its path."""
    data = path.read_bytes()
    head = _DATA_URL.match(data)
    if head is None:
        shown = quoted(shortened(data[:_SHOWN].decode(errors="replace"), _SHOWN))
        message = unusable(number, f"it must be a data URL with base64 (data:audio/wav;base64,…), not {shown}")
        raise refused(message, REFERENCES)
    try:
        audio = base64.b64decode(data[head.end() :], validate=True)
    except binascii.Error as error:
        raise refused(unusable(number, f"its base64 is invalid: {error}"), REFERENCES) from error
    if not audio:
        raise refused(unusable(number, "it is empty"), REFERENCES)
    with private_file(path) as file:
        file.write(audio)
    return path
