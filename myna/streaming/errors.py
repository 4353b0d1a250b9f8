"""Errors that several packages raise."""

from __future__ import annotations


class EngineUnavailableError(Exception):
    """An engine cannot be loaded. The message says what is missing and how to install it."""
