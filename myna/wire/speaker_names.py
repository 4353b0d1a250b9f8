"""Names speakers for readers."""

from __future__ import annotations


def speaker_name(number: int) -> str:
    """Return the name of a speaker: messages count speakers from 0, readers from 1."""
    return f"Speaker {number + 1}"
