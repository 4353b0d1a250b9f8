"""What a draft proposes to Moonshine's decoder."""

from __future__ import annotations

from myna.inference.engines.moonshine.drafts import AHEAD, Draft

TOKENS = tuple(range(10, 30))


def test_a_decode_begins_with_what_the_draft_begins_with() -> None:
    assert Draft(TOKENS).after([]) == TOKENS[:AHEAD]


def test_no_draft_proposes_nothing() -> None:
    assert Draft(()).after([]) == ()
    assert Draft(()).after([10, 11]) == ()


def test_a_decode_goes_on_with_what_is_behind_its_last_two_tokens() -> None:
    draft = Draft((10, 5, 20, 21, 11, 5, 30, 31))
    assert draft.after([1, 11, 5]) == (30, 31)
    assert draft.after([1, 11, 5, 7, 10, 5])[:2] == (20, 21)


def test_the_first_of_two_equal_places_is_the_newer_decode() -> None:
    assert Draft((10, 11, 12, 10, 11, 13)).after([10, 11])[:1] == (12,)


def test_a_decode_without_some_tokens_of_the_draft_goes_on_behind_them() -> None:
    draft = Draft(TOKENS)
    assert draft.after([]) == TOKENS[:AHEAD]
    assert draft.after([10, 11, 14]) == TOKENS[5 : 5 + AHEAD]


def test_one_token_far_from_the_wrong_one_is_no_place_to_go_on() -> None:
    draft = Draft(TOKENS)
    assert draft.after([]) == TOKENS[:AHEAD]
    assert draft.after([10, 11, 18]) == ()
    assert draft.after([10, 11, 18, 14]) == ()


def test_a_token_that_the_draft_lacks_is_followed_by_no_proposal() -> None:
    draft = Draft(TOKENS)
    assert draft.after([]) == TOKENS[:AHEAD]
    assert draft.after([10, 99]) == ()
    assert draft.after([10, 99, 12]) == ()
    assert draft.after([10, 99, 12, 13]) == TOKENS[4 : 4 + AHEAD]


def test_nothing_is_behind_the_end_of_a_draft() -> None:
    assert Draft(TOKENS).after([28, 29]) == ()
