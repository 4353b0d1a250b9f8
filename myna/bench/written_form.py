"""How live finals are written, compared with the text of the whole file from the same engine: case and marks count. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import jiwer

from myna.streaming.text.marks import ends_sentence


@dataclass(frozen=True, slots=True)
class WrittenForm:
    """Counts of one recording or, added up, of several."""

    words: int = 0
    """Words of the whole-file text; 0: there is none to compare with."""
    errors: int = 0
    """Substituted, deleted and inserted words in written form: "Sea." differs from "sea"."""
    shared: int = 0
    """Words that both texts have, whatever their case and marks."""
    unlike: int = 0
    """Shared words whose case or marks differ."""
    joints: int = 0
    """Finals with words that follow another one with words."""
    lower: int = 0
    """Those of them that begin in lower case after a sentence mark."""

    def __add__(self, other: WrittenForm) -> WrittenForm:
        return WrittenForm(
            self.words + other.words,
            self.errors + other.errors,
            self.shared + other.shared,
            self.unlike + other.unlike,
            self.joints + other.joints,
            self.lower + other.lower,
        )

    def figures(self) -> dict[str, float]:
        """Return the rates in percent; none for what was not compared."""
        rates = {
            "written_error_percent": (self.errors, self.words),
            "written_unlike_percent": (self.unlike, self.shared),
            "lower_after_mark_percent": (self.lower, self.joints),
        }
        return {name: round(100 * count / total, 2) for name, (count, total) in rates.items() if total}


def written_form(finals: Sequence[str], whole: str | None) -> WrittenForm:
    """Compare the texts of a stream's finals, in order, with the whole-file text; None: there is no such text."""
    texts = [text for text in (final.strip() for final in finals) if text]
    lower = sum(ends_sentence(before) and _in_lower_case(after) for before, after in pairwise(texts))
    joints = max(0, len(texts) - 1)
    if not whole or not whole.split():
        return WrittenForm(joints=joints, lower=lower)
    expected, told = whole.split(), " ".join(texts).split()
    errors = jiwer.process_words(" ".join(expected), " ".join(told))
    pairs = _shared(expected, told)
    return WrittenForm(
        words=len(expected),
        errors=errors.substitutions + errors.deletions + errors.insertions,
        shared=len(pairs),
        unlike=sum(one != other for one, other in pairs),
        joints=joints,
        lower=lower,
    )


def _in_lower_case(text: str) -> bool:
    """Return whether the first letter or digit is a letter in lower case."""
    return next((c.islower() for c in text if c.isalnum()), False)


def _shared(expected: Sequence[str], told: Sequence[str]) -> list[tuple[str, str]]:
    """Return the words that both have, in pairs, from the alignment of the words without case and marks."""
    if not told:
        return []
    aligned = jiwer.process_words(_bare(expected), _bare(told))
    return [
        pair
        for chunk in aligned.alignments[0]
        if chunk.type == "equal"
        for pair in zip(
            expected[chunk.ref_start_idx : chunk.ref_end_idx],
            told[chunk.hyp_start_idx : chunk.hyp_end_idx],
            strict=True,
        )
    ]


def _bare(words: Iterable[str]) -> str:
    """Return words for the alignment; a word of marks only stays, so that the numbers of words are equal."""
    return " ".join("".join(c for c in word.lower() if c.isalnum()) or word for word in words)
