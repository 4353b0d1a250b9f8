"""Limits on keyterms that several vendors' requests have in common."""

from __future__ import annotations

MOST_KEYTERMS = 100
"""Keyterms in one request."""
LONGEST_KEYTERM = 200
"""Characters of one keyterm."""
