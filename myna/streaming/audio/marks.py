"""The marks that containers begin with, so long that nothing else looks like them, wherever in a stream they stand."""

from __future__ import annotations

import re

_FIRST = rb"RIFF[\s\S]{4}WAVE|RF64[\s\S]{4}WAVE|FORM[\s\S]{4}AIF[FC]|#!AMR\n|#!AMR-WB\n"
_MATROSKA = rb"\x1a\x45\xdf\xa3[\s\S]{1,64}?\x42\x82[\s\S]{1,8}?(?:webm|matroska)"
_MP4 = rb"\x00\x00\x00[\x10-\x7f]ftyp[ -~]{4}"
_OGG = rb"OggS\x00\x02"
_FLAC = rb"fLaC\x00\x00\x00\x22|fLaC\x80\x00\x00\x22"

BEGINS = re.compile(b"|".join((_FIRST, _MATROSKA, _MP4, _OGG, _FLAC)))
"""Another container begins."""
BEGINS_IN_MATROSKA = re.compile(b"|".join((_FIRST, _MATROSKA, _MP4, _OGG)))
"""The same where FLAC's own head may stand inside."""
BEGINS_IN_OGG = re.compile(b"|".join((_FIRST, _MATROSKA, _MP4, _FLAC)))
"""The same where Ogg pages are told by themselves."""

_LONGEST = 96
_BEGUN = re.compile(
    rb"(?:R(?:I(?:F(?:F[\s\S]{0,7})?)?|F(?:6(?:4[\s\S]{0,7})?)?)?|F(?:O(?:R(?:M[\s\S]{0,7})?)?)?|#(?:!(?:A(?:M(?:R[\s\S]{0,3})?)?)?)?"
    rb"|\x1a(?:\x45(?:\xdf(?:\xa3[\s\S]{0,80})?)?)?|\x00(?:\x00(?:\x00(?:[\x10-\x7f](?:f(?:t(?:y(?:p[ -~]{0,3})?)?)?)?)?)?)?"
    rb"|O(?:g(?:g(?:S\x00?)?)?)?|f(?:L(?:a(?:C[\x00\x80]?\x00{0,2})?)?)?)\Z"
)
"""Last bytes that may become a mark."""


def unfinished(data: bytes) -> int:
    """Return where, in the last bytes, a mark may begin whose rest has not come; else the length."""
    begun = _BEGUN.search(data, max(0, len(data) - _LONGEST))
    return begun.start() if begun else len(data)
