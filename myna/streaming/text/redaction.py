"""Redacts sensitive numbers: spoken or written, whole or cut in two by a pause. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from myna.streaming.events import Word
from myna.streaming.text.numerals import Number, numbers, runs_of_digits

REDACTED = "[REDACTED]"
"""Replaces the digits of a number, however many there are."""
_SERIES = 3
"""The fewest digits of a series of numerals."""
_CARD = (12, 19)
"""The fewest and the most digits of a payment card number (ISO/IEC 7812 allows 8 to 19; cards in use have at least 12)."""
_SOCIAL_SECURITY = 9
_CARD_WORDS = {
    "card",
    "visa",
    "mastercard",
    "amex",
    "cvv",
    "cvc",
    "security",
    "expiry",
    "expiration",
    "expires",
    "expire",
    "code",
}
_CARD_REACH = 6
"""Digits within this many words after a word of `_CARD_WORDS` are redacted."""


class Redaction(StrEnum):
    """A kind of number to redact."""

    NUMBERS = "numbers"
    """Series of at least three digits."""
    AGGRESSIVE_NUMBERS = "aggressive_numbers"
    """Every number."""
    PCI = "pci"
    """Payment cards: number, expiry date, security code."""
    SSN = "ssn"
    """US social security numbers."""


def redacted(
    words: Sequence[Word], wanted: frozenset[Redaction], language: str, *, open_ended: bool = False
) -> list[Word]:
    """Return the words with each sensitive run of digits replaced by one word.

    A pause may have cut a long number in two, so fewer digits suffice at the edges of the words. `open_ended` (an interim):
    the last number may still grow, so it is redacted whatever its length.
    """
    result = list(words)
    found = numbers(words, language)
    known = {index for number in found for index in range(number.start, number.end)}
    for index, word in enumerate(words):  # "4th", "B747": a word with digits that is not a number
        if index not in known and any(c.isdigit() for c in word.bare):
            found.append(Number(index, index + 1, word.bare))
    for start, end, digits in reversed(runs_of_digits(sorted(found, key=lambda number: number.start))):
        edge = start == 0 or end == len(words)
        unfinished = open_ended and end == len(words)
        if any(_is_sensitive(one, words, start, digits, edge=edge, unfinished=unfinished) for one in wanted):
            result[start:end] = [Word.joined(words[start:end], REDACTED)]
    return result


def _is_sensitive(
    wanted: Redaction, words: Sequence[Word], start: int, digits: int, *, edge: bool, unfinished: bool
) -> bool:
    if unfinished or wanted is Redaction.AGGRESSIVE_NUMBERS:
        return True
    if wanted is Redaction.NUMBERS:
        return digits >= _SERIES
    if wanted is Redaction.SSN:
        return digits == _SOCIAL_SECURITY or (edge and 2 <= digits < _SOCIAL_SECURITY)
    if _CARD[0] <= digits <= _CARD[1] or (edge and digits >= _SERIES):
        return True
    return any(word.bare in _CARD_WORDS for word in words[max(0, start - _CARD_REACH) : start])
