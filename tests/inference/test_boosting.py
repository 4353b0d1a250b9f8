"""Keyterms: the tree that all engines boost with, and Moonshine's choice of tokens, which may go back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from myna.inference.engines.boosting import BoostingTree, BoostingTrees
from myna.inference.engines.moonshine.decoding import END
from myna.inference.engines.moonshine.engine import installed_weights, read_tokenizer
from myna.inference.engines.moonshine.keyterms import MOST_LOST, MOST_OPENED, Terms

PIECES = read_tokenizer(installed_weights() / "tokenizer.bin")
TERMS = Terms(PIECES)
UNHEARD = -30.0

phrases = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5), min_size=1, max_size=6)


def earned(tree: BoostingTree, walk: Sequence[int], pieces: int = 10) -> float:
    """Return the sum of the bonuses of a walk from the root."""
    node, total = BoostingTree.ROOT, 0.0
    for token in walk:
        bonuses = tree.bonuses(node)
        total += float(bonuses.added_to(np.zeros(pieces, np.float32))[token])
        node = bonuses.next.get(token, BoostingTree.ROOT)
    return total


@given(phrases, st.data())
def test_a_phrase_that_is_left_before_its_end_takes_back_what_it_earned(
    some: list[list[int]], data: st.DataObject
) -> None:
    phrase = data.draw(st.sampled_from(some))
    begun = phrase[: data.draw(st.integers(0, len(phrase) - 1))]
    if not any(begun[at : at + len(p)] == p for p in some for at in range(len(begun))):
        assert earned(BoostingTree(some), [*begun, 9]) == pytest.approx(0.0, abs=1e-5)


@given(phrases, st.data())
def test_a_completed_phrase_keeps_what_it_earned(some: list[list[int]], data: st.DataObject) -> None:
    phrase, tree = data.draw(st.sampled_from(some)), BoostingTree(some)
    assume(not any(other[0] in phrase[1:] for other in some))
    assert earned(tree, [*phrase, 9]) == pytest.approx(earned(tree, phrase), abs=1e-5)
    assert earned(tree, phrase) >= len(phrase)


@given(phrases, st.data())
def test_a_phrase_whose_tokens_are_nearly_the_best_is_decoded_to_its_end(
    some: list[list[int]], data: st.DataObject
) -> None:
    phrase, tree, node = data.draw(st.sampled_from(some)), BoostingTree(some), BoostingTree.ROOT
    for token in phrase:
        scores = np.full(10, UNHEARD, np.float32)
        scores[9], scores[token] = 0.0, -0.9
        assert int(tree.bonuses(node).added_to(scores).argmax()) == token
        node = tree.bonuses(node).next[token]
    assert tree.bonuses(node).ends


def test_a_phrase_that_begins_inside_another_is_found_there() -> None:
    tree = BoostingTree([[1, 2, 3], [2, 4, 5]])
    node = BoostingTree.ROOT
    for token in (1, 2, 4, 5):
        node = tree.bonuses(node).next[token]
    assert tree.bonuses(node).ends
    assert earned(tree, [1, 2, 4, 5]) == pytest.approx(earned(tree, [2, 4, 5]))


def test_phrases_without_tokens_boost_nothing() -> None:
    assert not BoostingTree([[], []]).bonuses(BoostingTree.ROOT).next


def test_the_least_recently_used_tree_is_built_again() -> None:
    built = list[tuple[str, ...]]()

    def build(terms: tuple[str, ...]) -> BoostingTree:
        built.append(terms)
        return BoostingTree([])

    trees = BoostingTrees(build, most=2)
    for name in "abacab":
        trees.of((name,))
    assert built == [("a",), ("b",), ("c",), ("b",)]


Heard = tuple[str | list[int], dict[int, float]]
"""A text or its tokens, and how much less likely than the model's preference the tokens at some places are, in nats."""


def decoded(terms: tuple[str, ...], *heard: Heard, most: int = 60, budget: int = 60) -> tuple[str, int]:
    """Decode greedily what a model has heard, the text that it prefers first; return the text and the number of steps."""
    choice = TERMS.choice(terms, budget)
    hypotheses = [([*(TERMS.tokens(text) if isinstance(text, str) else text), END], costs) for text, costs in heard]
    tokens, steps = list[int](), 0
    while True:
        scores = np.full(len(PIECES), UNHEARD, np.float32)
        at = len(tokens)
        for ids, costs in hypotheses:
            if ids[:at] == tokens and at < len(ids):
                scores[ids[at]] = max(scores[ids[at]], -costs.get(at, 0.0))
        chosen = choice.choose(scores, int(scores.argmax()), at, last=at >= most)
        if chosen is None:
            del tokens[choice.go_back(at) :]
            continue
        if chosen == END or at >= most:
            return b"".join(PIECES[token] for token in tokens).decode().replace("▁", " ").strip(), steps
        tokens.append(chosen)
        steps += 1


def test_a_term_that_is_nearly_preferred_is_chosen_and_the_words_around_it_stay() -> None:
    heard = (("We met Mr. Torton today.", {}), ("We met Mr. Thornton today.", {4: 2.0, 5: 2.0}))
    assert decoded(("Thornton",), *heard)[0] == "We met Mr. Thornton today."
    assert decoded(("Helstone",), *heard)[0] == "We met Mr. Torton today."


def test_a_term_that_is_opened_and_not_completed_has_no_effect() -> None:
    heard = (("We met them today.", {}), ("We met Thorough today.", {2: 1.0}))
    assert TERMS.tokens("Thornton")[0] == TERMS.tokens("Thorough")[0]
    assert decoded(("Thornton",), *heard)[0] == "We met them today."


def test_a_term_of_which_a_longer_word_was_said_has_no_effect() -> None:
    longer = [*TERMS.tokens("the Newberg"), PIECES.index(b"er"), *TERMS.tokens("house")]
    heard = (("the blue house", {}), (longer, {1: 1.0}))
    assert decoded(("Newberg",), *heard)[0] == "the blue house"
    assert decoded(("Newberg",), heard[0], ("the Newberg house", {1: 1.0}))[0] == "the Newberg house"


def test_a_term_that_begins_another_is_chosen_where_the_other_is_not_completed() -> None:
    heard = (("in Buff now", {}), ("in Zau al Makan now", {1: 2.0}))
    assert decoded(("Zau al Makan", "Zau al"), *heard)[0] == "in Zau al Makan now"
    short = (("in Buff now", {}), ("in Zau al now", {1: 2.0}))
    assert decoded(("Zau al Makan", "Zau al"), *short)[0] == "in Zau al now"
    assert decoded(("Zau al Makan",), *short)[0] == "in Buff now"


def test_a_term_much_less_likely_than_the_preference_is_not_chosen() -> None:
    tokens = TERMS.tokens("and Nuzhat said")
    assert len(tokens) == 5
    for each, text in ((MOST_LOST / 3 - 0.1, "and Nuzhat said"), (MOST_LOST / 3 + 0.1, "and Ali said")):
        turns = [([*tokens[:at], *TERMS.tokens("said")], dict.fromkeys(range(1, at), each)) for at in (2, 3)]
        heard = (("and Ali said", {}), ("and Nuzhat said", {1: each, 2: each, 3: each}))
        assert decoded(("Nuzhat",), *heard, *turns)[0] == text


def test_a_term_at_the_limit_on_tokens_is_complete_or_absent() -> None:
    heard = (("met Mr. Torton and then", {}), ("met Mr. Thornton and then", {3: 2.0}))
    for most in range(2, 9):
        text, _ = decoded(("Thornton",), *heard, most=most)
        assert "met Mr. Thornton and then".startswith(text) or "met Mr. Torton and then".startswith(text)
        assert "Thor" not in text or "Thornton" in text


def test_where_the_model_repeats_itself_a_term_is_boosted_a_few_times_only() -> None:
    loops = [" ".join(["a sherry of"] * often + ["a bit of"] * (6 - often)) for often in range(7)]
    text, _ = decoded(("sherry",), *((loop, _at_each(loop, "sherry", 1.0)) for loop in loops))
    assert text.count("sherry") == MOST_OPENED
    assert text.count("bit") == 6 - MOST_OPENED


def _at_each(text: str, word: str, cost: float) -> dict[int, float]:
    """Return the costs of a text in which the first token of `word` costs this much each time."""
    first = TERMS.tokens(word)[0]
    return {at: cost for at, token in enumerate(TERMS.tokens(text)) if token == first}


def test_terms_that_are_opened_in_vain_are_dropped_after_as_many_tokens_as_the_budget() -> None:
    plain = "one two three four five six seven eight nine ten"
    words = plain.split()
    assert len(TERMS.tokens(plain)) == len(words)
    opened = [(" ".join([*words[:at], "Thorough"]), {at: 1.0}) for at in range(len(words))]
    steps_of = {budget: decoded(("Thornton",), (plain, {}), *opened, budget=budget) for budget in (0, 3, 60)}
    assert steps_of == {0: (plain, 10), 3: (plain, 13), 60: (plain, 20)}


def test_a_term_is_capitalised_at_the_start_of_a_sentence_only() -> None:
    assert decoded(("sherry",), ("Cherry, please.", {}), ("Sherry, please.", {0: 2.0}))[0] == "Sherry, please."
    heard = (("No. Cherry, please.", {}), ("No. Sherry, please.", {2: 2.0}))
    assert decoded(("sherry",), *heard)[0] == "No. Sherry, please."
    heard = (("some cherry, please.", {}), ("some Sherry, please.", {1: 2.0}), ("some sherry, please.", {1: 2.5}))
    assert decoded(("sherry",), *heard)[0] == "some sherry, please."


@settings(max_examples=300)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_the_tokens_of_any_text_spell_it(text: str) -> None:
    spelt = b"".join(PIECES[token] for token in TERMS.tokens(text))
    assert spelt.decode().replace("▁", " ").split() == text.replace("▁", " ").split()


@given(st.lists(st.text(max_size=12), max_size=4))
def test_any_terms_leave_speech_without_them_as_it_is(terms: list[str]) -> None:
    assert decoded(tuple(terms), ("We met them today.", {}))[0] == "We met them today."
