"""The marks with which containers begin, long enough to be recognised anywhere in a stream."""

from __future__ import annotations

import re

_FIRST = rb"RIFF[\s\S]{4}WAVE|RF64[\s\S]{4}WAVE|FORM[\s\S]{4}AIF[FC]|#!AMR\n|#!AMR-WB\n"
_MATROSKA = rb"\x1a\x45\xdf\xa3[\s\S]{1,64}?\x42\x82[\s\S]{1,8}?(?:webm|matroska)"
_MP4 = rb"\x00\x00\x00[\x10-\x7f]ftyp[ -~]{4}"
_OGG = rb"OggS\x00\x02"
_FLAC = rb"fLaC\x00\x00\x00\x22|fLaC\x80\x00\x00\x22"

BEGINS = re.compile(b"|".join((_FIRST, _MATROSKA, _MP4, _OGG, _FLAC)))
"""The beginning of another container."""
BEGINS_IN_MATROSKA = re.compile(b"|".join((_FIRST, _MATROSKA, _MP4, _OGG)))
"""The same inside Matroska, which may contain FLAC's own head."""
BEGINS_IN_OGG = re.compile(b"|".join((_FIRST, _MATROSKA, _MP4, _FLAC)))
"""The same inside Ogg, whose own pages are recognised separately."""

_LONGEST = 96
_BEGUN = re.compile(
    rb"(?:R(?:I(?:F(?:F[\s\S]{0,7})?)?|F(?:6(?:4[\s\S]{0,7})?)?)?|F(?:O(?:R(?:M[\s\S]{0,7})?)?)?|#(?:!(?:A(?:M(?:R[\s\S]{0,3})?)?)?)?"
    rb"|\x1a(?:\x45(?:\xdf(?:\xa3[\s\S]{0,80})?)?)?|\x00(?:\x00(?:\x00(?:[\x10-\x7f](?:f(?:t(?:y(?:p[ -~]{0,3})?)?)?)?)?)?)?"
    rb"|O(?:g(?:g(?:S\x00?)?)?)?|f(?:L(?:a(?:C[\x00\x80]?\x00{0,2})?)?)?)\Z"
)
"""The last bytes of a chunk if they may be the beginning of a mark."""


def unfinished(data: bytes) -> int:
    """Return the index at which an incomplete mark may begin in the last bytes; otherwise the length."""
    begun = _BEGUN.search(data, max(0, len(data) - _LONGEST))
    return begun.start() if begun else len(data)
