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
        self.message = shortened(message, LONGEST_MESSAGE)
        super().__init__(self.message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        self.param = param


class DialectError(Exception):
    """The stream cannot continue: machine-readable `code`, message for a person. Each dialect maps the code to its own.

    `finals_first`: the server sends the finals of the audio received so far before it ends the stream.
    """

    def __init__(self, code: str, message: str, *, finals_first: bool = False) -> None:
        self.message = shortened(message, LONGEST_MESSAGE)
        super().__init__(self.message)
        self.code = code
        self.finals_first = finals_first
