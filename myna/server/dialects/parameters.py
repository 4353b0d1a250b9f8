"""Query parameters of a request, read by name. A refusal names the parameter, its value and the accepted values."""

from __future__ import annotations

import re
from collections.abc import Collection

from myna.runtime.errors import Refusal
from myna.wire.quoting import quoted
from myna.wire.strictjson import well_formed

LONGEST = 1000
"""Characters of one value."""
MOST_VALUES = 100
"""Values of one repeated parameter."""
_TRUE, _FALSE = {"true", "1"}, {"false", "0", ""}
_WHOLE = re.compile(r"0|[1-9][0-9]{0,14}")
_DECIMAL = re.compile(r"((0|[1-9][0-9]{0,14})(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,2})?")
"""Python's `int` and `float` also parse leading zeros, underscores, digits of other scripts, spaces, ``nan``, ``inf`` and
``1e400``; these are refused."""


def whole(text: str) -> int | None:
    """Return a whole number of at most 15 digits without sign or leading zeros, or None."""
    return int(text) if _WHOLE.fullmatch(text) else None


def decimal(text: str) -> float | None:
    """Return a finite number without sign or leading zeros, or None."""
    return float(text) if _DECIMAL.fullmatch(text) else None


class Parameters:
    """A query, or the fields of a form. Every method raises `Refusal` (400, with this code) for an invalid value."""

    def __init__(self, query: Collection[tuple[str, str]], code: str = "bad_request") -> None:
        self._code = code
        self._values: dict[str, list[str]] = {}
        for name, value in query:
            self._values.setdefault(name, []).append(well_formed(value))

    def text(self, name: str, *, longest: int = LONGEST) -> str | None:
        """Return a parameter that may be given once. An empty value counts as absent."""
        values = set(self._values.get(name, ()))
        if len(values) > 1:
            count = len(self._values[name])
            raise self.refusal(name, f"{name} was given {count} times with different values; one value is allowed")
        value = next(iter(values), "")
        if len(value) > longest:
            raise self.refusal(name, f"{name} must have at most {longest} characters, not {len(value)}")
        return value or None

    def texts(self, name: str, *, most: int = MOST_VALUES) -> tuple[str, ...]:
        """Return a parameter that may be repeated, without duplicates."""
        values = tuple(dict.fromkeys(value for value in self._values.get(name, ()) if value))
        if len(values) > most:
            raise self.refusal(name, f"{name} must have at most {most} values, not {len(values)}")
        for value in values:
            if len(value) > LONGEST:
                raise self.refusal(name, f"{name} must have at most {LONGEST} characters, not {len(value)}")
        return values

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a parameter that is true or false."""
        value = self.text(name)
        if value is None:
            return default
        if value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
        raise self.refusal(name, f"{name} must be true or false, not {quoted(value)}")

    def number(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number between two bounds."""
        value = self.text(name)
        if value is None:
            return None
        number = whole(value)
        if number is None or not low <= number <= high:
            raise self.refusal(name, f"{name} must be a whole number from {low} to {high}, not {quoted(value)}")
        return number

    def fraction(self, name: str, low: float, high: float) -> float | None:
        """Return a number between two bounds."""
        value = self.text(name)
        if value is None:
            return None
        number = decimal(value)
        if number is None or not low <= number <= high:
            raise self.refusal(name, f"{name} must be a number from {low:g} to {high:g}, not {quoted(value)}")
        return number

    def given(self, name: str) -> bool:
        """Return whether the parameter is present, even if empty."""
        return name in self._values

    def choice(self, name: str, choices: Collection[str]) -> str | None:
        """Return one of these choices."""
        value = self.text(name)
        if value is not None and value not in choices:
            raise self.refusal(name, f"{name} must be one of {', '.join(choices)}, not {quoted(value)}")
        return value

    def refusal(self, name: str, message: str) -> Refusal:
        """Return the refusal of a parameter."""
        return Refusal(400, self._code, message, param=name)


def refused(message: str, code: str = "bad_request") -> Refusal:
    """Return the refusal of an invalid request."""
    return Refusal(400, code, message)
