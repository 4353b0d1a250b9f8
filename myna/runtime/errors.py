"""Errors in a request or in the configuration."""

from __future__ import annotations

from myna.wire.quoting import shortened

LONGEST_MESSAGE = 1000
"""Limit on a message's characters: it may quote what a client has sent."""


class ConfigurationError(Exception):
    """The settings are invalid. The message names the setting, its value and the valid values."""


class Refusal(Exception):  # noqa: N818 - an answer, not an internal error
    """A request is refused before any work starts: HTTP status, machine-readable `code`, message for a person."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after_s: int | None = None, param: str | None = None
    ) -> None:
        super().__init__(shortened(message, LONGEST_MESSAGE))
        self.status = status
        self.code = code
        self.message = shortened(message, LONGEST_MESSAGE)
        self.retry_after_s = retry_after_s
        self.param = param


class DialectError(Exception):
    """The stream cannot go on: a machine's `code`, a message for a person. Each dialect has its own words for the codes.

    `finals_first`: what was heard so far is made final and sent before.
    """

    def __init__(self, code: str, message: str, *, finals_first: bool = False) -> None:
        super().__init__(shortened(message, LONGEST_MESSAGE))
        self.code = code
        self.message = shortened(message, LONGEST_MESSAGE)
        self.finals_first = finals_first
