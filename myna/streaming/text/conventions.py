"""How languages other than English write figures: percentages, money, times of day and thousands. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from myna.streaming.events import Word
from myna.streaming.text.numerals import Number

_SPACE = "\u00a0"
"""A figure and its sign are not parted at the end of a line."""
_GROUPED_FROM = 5
"""The fewest digits in which thousands are separated: four digits may be a year."""


@dataclass(frozen=True, slots=True)
class Conventions:
    """The rules of one language. Currencies and the rest are keyed by spoken words, without punctuation and in lower case."""

    group: str
    """Between thousands."""
    point: str
    """Before decimals, as text2num writes them."""
    percent: tuple[str, ...]
    """The words of "percent"."""
    money: Mapping[str, str]
    """Currency → the amount, `{}`, with its sign."""
    cents: frozenset[str] = frozenset()
    linking: str = ""
    """The word that may stand between units and cents."""
    oclock: str = ""
    """The word between hours and minutes; empty: times of day stay as they are."""
    hour: str = ""
    hour_and_minutes: str = ""


_AFTER = {"€": f"{{}}{_SPACE}€", "$": f"{{}}{_SPACE}$", "£": f"{{}}{_SPACE}£"}
ENGLISH = Conventions(",", ".", ("percent",), {})
CONVENTIONS = {
    "en": ENGLISH,
    "de": Conventions(
        ".", ",", ("prozent",), {"euro": _AFTER["€"], "euros": _AFTER["€"], "dollar": _AFTER["$"], "pfund": _AFTER["£"]},
        frozenset({"cent", "cents"}), "und", "uhr", f"{{}}{_SPACE}Uhr", f"{{}}:{{}}{_SPACE}Uhr",
    ),
    "fr": Conventions(
        _SPACE, ",", ("pour", "cent"),
        {"euro": _AFTER["€"], "euros": _AFTER["€"], "dollar": _AFTER["$"], "dollars": _AFTER["$"], "livres": _AFTER["£"]},
        frozenset({"centime", "centimes"}), "et",
    ),
    "es": Conventions(
        _SPACE, ",", ("por", "ciento"),
        {"euro": _AFTER["€"], "euros": _AFTER["€"], "dólar": _AFTER["$"], "dólares": _AFTER["$"], "libras": _AFTER["£"]},
        frozenset({"céntimo", "céntimos", "centavo", "centavos"}), "con",
    ),
    "it": Conventions(
        ".", ",", ("per", "cento"),
        {"euro": _AFTER["€"], "dollaro": _AFTER["$"], "dollari": _AFTER["$"], "sterline": _AFTER["£"]},
        frozenset({"centesimo", "centesimi"}), "e",
    ),
    "pt": Conventions(
        ".", ",", ("por", "cento"),
        {"euro": _AFTER["€"], "euros": _AFTER["€"], "dólar": _AFTER["$"], "dólares": _AFTER["$"], "reais": f"R${_SPACE}{{}}"},
        frozenset({"cêntimo", "cêntimos", "centavo", "centavos"}), "e",
    ),
    "nl": Conventions(
        ".", ",", ("procent",), {"euro": f"€{_SPACE}{{}}", "dollar": f"${_SPACE}{{}}", "pond": f"£{_SPACE}{{}}"},
        frozenset({"cent"}), "en",
    ),
    "da": Conventions(
        ".", ",", ("procent",),
        {"euro": _AFTER["€"], "dollar": _AFTER["$"], "krone": f"{{}}{_SPACE}kr", "kroner": f"{{}}{_SPACE}kr"},
        frozenset({"øre", "cent"}), "og",
    ),
}  # fmt: skip
"""By ISO 639-1 code: the languages whose spoken numbers text2num finds. Signs and separators are those of the Unicode CLDR; a
space between Spanish thousands is what the Real Academia prescribes."""


def grouped(text: str, rules: Conventions) -> str:
    """Return a number with its thousands separated."""
    whole, point, rest = text.partition(rules.point)
    if not (whole.isdecimal() and len(whole) >= _GROUPED_FROM):
        return text
    return f"{int(whole):,}".replace(",", rules.group) + point + rest


def figure(
    words: Sequence[Word], at: Mapping[int, Number], number: Number, rules: Conventions
) -> tuple[int, str | None]:
    """Return the end and the text of a percentage, an amount of money or a time that begins with this number, or None."""
    end = number.end
    if number.ordinal or end >= len(words) or _closes(words, end):
        return end, None
    if _says(words, end, rules.percent):
        return end + len(rules.percent), f"{number.text}{_SPACE}%"
    unit, following = words[end].bare, at.get(end + 1)
    if unit in rules.money:
        return _amount(words, at, number, rules)
    if unit == rules.oclock and number.text.isdecimal() and int(number.text) <= 24:
        with_minutes = following is not None and _is_minutes(following) and not _closes(words, end + 1)
        if following is not None and with_minutes:
            return following.end, rules.hour_and_minutes.format(number.text, following.text.zfill(2))
        return end + 1, rules.hour.format(number.text)
    return end, None


def _amount(words: Sequence[Word], at: Mapping[int, Number], number: Number, rules: Conventions) -> tuple[int, str]:
    end, amount = number.end + 1, grouped(number.text, rules)
    linked = end < len(words) and words[end].bare == rules.linking
    rest = at.get(end + linked)
    named = rest is not None and rest.end < len(words) and words[rest.end].bare in rules.cents
    if rest is not None and named and rest.digits <= 2 and rules.point not in amount and not _closes(words, end):
        end, amount = rest.end + 1, f"{amount}{rules.point}{rest.text.zfill(2)}"
    return end, rules.money[words[number.end].bare].format(amount)


def _is_minutes(number: Number) -> bool:
    return number.text.isdecimal() and not number.ordinal and len(number.text) <= 2 and int(number.text) < 60


def _says(words: Sequence[Word], index: int, phrase: Sequence[str]) -> bool:
    return tuple(word.bare for word in words[index : index + len(phrase)]) == tuple(phrase)


def _closes(words: Sequence[Word], index: int) -> bool:
    """Return whether the word before `index` ends a clause, so that the next word does not belong to it."""
    return words[index - 1].text[-1:] in ".?!,;:"
