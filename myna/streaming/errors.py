"""Errors that more than one room raises."""

from __future__ import annotations


class EngineUnavailableError(Exception):
    """An engine cannot be loaded; the message tells a person what is missing and how to get it."""
