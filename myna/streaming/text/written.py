"""Writes numbers as 21, $21.50, 50%, 3:30 PM or 555-1212, and spoken mail and web addresses as addresses. Pure.

These are the rules of English; those of other languages are in `conventions`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from myna.streaming.events import Word
from myna.streaming.text.conventions import CONVENTIONS, ENGLISH, Conventions, figure, grouped
from myna.streaming.text.numerals import Number

_CURRENCIES = {
    "dollar": "$", "dollars": "$", "euro": "€", "euros": "€", "pound": "£", "pounds": "£", "yen": "¥",
    "rupee": "₹", "rupees": "₹",
}  # fmt: skip
_CENTS = {"cent", "cents", "pence"}
_UNITS = {
    name: unit
    for unit, names in {
        "mm": "millimeter", "cm": "centimeter", "m": "meter", "km": "kilometer", "in": "inch inches", "ft": "foot feet",
        "yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram", "kg": "kilogram", "oz": "ounce", "lb": "pound",
        "ml": "milliliter", "l": "liter", "gal": "gallon", "s": "second", "min": "minute", "h": "hour", "Hz": "hertz",
        "kHz": "kilohertz", "MHz": "megahertz", "kB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "W": "watt",
        "kW": "kilowatt",
    }.items()
    for stem in names.split()
    for name in (stem, f"{stem}s", stem.replace("meter", "metre"), stem.replace("meter", "metre") + "s")
}  # fmt: skip
_HALVES = {"am": "AM", "a.m": "AM", "pm": "PM", "p.m": "PM"}
_HALF_ENDS = ("AM", "PM")
_DOMAINS = {
    "com",
    "org",
    "net",
    "edu",
    "gov",
    "io",
    "ai",
    "dev",
    "app",
    "co",
    "uk",
    "de",
    "fr",
    "eu",
    "info",
    "us",
    "tv",
    "me",
}
_NAME = re.compile(r"[\w+-]+")


def written(
    words: Sequence[Word], found: Sequence[Number], language: str, *, smart: bool, measurements: bool = False
) -> list[Word]:
    """Return the words with these numbers in digits.

    `smart` also formats money, percentages and times of day by the rules of the language, and in English telephone numbers
    and addresses. `measurements` (English only) abbreviates units after a number.
    """
    rules = CONVENTIONS.get(language) if smart else None
    if measurements and language == "en":
        words = _with_units(words, found)
    at = {number.start: number for number in found}
    result: list[Word] = []
    index = 0
    while index < len(words):
        end, text = _piece(words, at, index, rules)
        if text is None:
            result.append(words[index])
            end = index + 1
        else:
            piece = list(words[index:end])
            if piece[0].bare != text and result and result[-1].bare == "a" and _is_round(at.get(index)):
                piece.insert(0, result.pop())  # "a hundred" becomes "100"
            if text.endswith(_HALF_ENDS) and not _ends_sentence(words, end):
                piece[-1] = replace(piece[-1], text=piece[-1].text.rstrip("."))  # the dot of "p.m."
            result.append(Word.joined(piece, text))
        index = end
    return result


def _with_units(words: Sequence[Word], found: Sequence[Number]) -> list[Word]:
    """Return the words with the units after numbers abbreviated; their number does not change."""
    behind = {number.end for number in found if not number.ordinal}
    return [
        Word.joined([word], _UNITS[word.bare])
        if i in behind and word.bare in _UNITS and not _closes(words, i)
        else word
        for i, word in enumerate(words)
    ]


def _ends_sentence(words: Sequence[Word], index: int) -> bool:
    return index >= len(words) or words[index].text[:1].isupper()


def _is_round(number: Number | None) -> bool:
    return number is not None and number.text[:1] == "1" and number.digits > 2 and not number.text.strip("10")


def _piece(
    words: Sequence[Word], at: dict[int, Number], index: int, rules: Conventions | None
) -> tuple[int, str | None]:
    """Return the end and the text of the number or address that begins at this word; text None: the word stays as it is."""
    number = at.get(index)
    if number is None:
        return _address(words, index) if rules is ENGLISH else (index, None)
    if rules is None:
        return number.end, None if number.is_small else number.text
    if rules is not ENGLISH:
        end, text = figure(words, at, number, rules)
        return (number.end, _plain(number, rules)) if text is None else (end, text)
    for kind in (_money, _percentage, _time_of_day):
        end, text = kind(words, at, number)
        if text is not None:
            return end, text
    return number.end, _plain(number, rules)


def _bare(words: Sequence[Word], index: int) -> str:
    return words[index].bare if index < len(words) else ""


def _closes(words: Sequence[Word], index: int) -> bool:
    """Return whether the word before `index` ends a clause, so that the next word does not belong to it."""
    return words[index - 1].text[-1:] in ".?!,;:"


def _money(words: Sequence[Word], at: dict[int, Number], number: Number) -> tuple[int, str | None]:
    sign = _CURRENCIES.get(_bare(words, number.end))
    if number.ordinal or sign is None or _closes(words, number.end):
        return number.end, None
    end, amount = number.end + 1, grouped(number.text, ENGLISH)
    rest = at.get(end + 1) if _bare(words, end) == "and" else at.get(end)
    if rest and rest.digits <= 2 and _bare(words, rest.end) in _CENTS and not _closes(words, end):
        return rest.end + 1, f"{sign}{amount}.{rest.text.zfill(2)}"
    return end, sign + amount


def _percentage(words: Sequence[Word], at: dict[int, Number], number: Number) -> tuple[int, str | None]:
    del at
    if number.ordinal or _bare(words, number.end) != "percent" or _closes(words, number.end):
        return number.end, None
    return number.end + 1, number.text + "%"


def _time_of_day(words: Sequence[Word], at: dict[int, Number], number: Number) -> tuple[int, str | None]:
    if number.ordinal or not number.text.isdecimal() or not 1 <= int(number.text) <= 12:
        return number.end, None
    minutes = at.get(number.end)
    if minutes and minutes.digits == 2 and minutes.text.isdecimal() and int(minutes.text) < 60:
        if half := _HALVES.get(_bare(words, minutes.end)):
            return minutes.end + 1, f"{int(number.text)}:{minutes.text} {half}"
        return number.end, None
    if half := _HALVES.get(_bare(words, number.end)):
        return number.end + 1, f"{int(number.text)} {half}"
    return number.end, None


def _plain(number: Number, rules: Conventions) -> str | None:
    if number.is_small:
        return None
    if rules is ENGLISH and number.spelled and number.digits in (7, 10, 11):
        digits = number.text
        area = [digits[:-10], digits[-10:-7], digits[-7:-4], digits[-4:]]
        return "-".join(part for part in area if part)
    return number.text if number.spelled or number.ordinal else grouped(number.text, rules)


def _address(words: Sequence[Word], index: int) -> tuple[int, str | None]:
    """Return the end and the text of NAME [dot NAME]… [at NAME] dot DOMAIN [dot DOMAIN]…, or None as text."""
    parts, position = [_bare(words, index)], index + 1
    while _NAME.fullmatch(parts[-1]) and _bare(words, position) in ("dot", "at") and _bare(words, position + 1):
        if _closes(words, position) or _closes(words, position + 1):
            break
        parts += ["." if words[position].bare == "dot" else "@", _bare(words, position + 1)]
        position += 2
    while len(parts) > 2 and not (parts[-2] == "." and parts[-1] in _DOMAINS):
        parts, position = parts[:-2], position - 2
    if len(parts) < 3 or parts.count("@") > 1:
        return index, None
    return position, "".join(parts)
