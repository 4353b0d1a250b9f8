"""What several vendors' requests have in common: keyterms and their limits, language tags."""

from __future__ import annotations

import re

MOST_KEYTERMS = 100
"""Keyterms in one request."""
LONGEST_KEYTERM = 200
"""Characters of one keyterm."""


def primary(code: str) -> str:
    """Return the language of a tag, without region and script."""
    return re.split("[-_]", code)[0].lower()
