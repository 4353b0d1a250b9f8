"""What a draft proposes to Moonshine's decoder."""

from __future__ import annotations

from myna.inference.engines.moonshine.drafts import AHEAD, Draft

TOKENS = (10, 11, 12, 13, 14, 15, 16, 17, 18, 19)


def test_a_decode_begins_with_what_the_draft_begins_with() -> None:
    assert Draft(TOKENS).after([]) == TOKENS[:AHEAD]


def test_no_draft_proposes_nothing() -> None:
    assert Draft(()).after([]) == ()
    assert Draft(()).after([10, 11]) == ()


def test_a_decode_goes_on_with_what_is_behind_its_last_two_tokens() -> None:
    draft = Draft((10, 5, 20, 21, 11, 5, 30, 31))
    assert draft.after([1, 11, 5]) == (30, 31)
    assert draft.after([1, 10, 5])[:2] == (20, 21)


def test_two_other_tokens_before_the_last_one_leave_the_first_place_of_the_last_one() -> None:
    assert Draft((10, 5, 20, 21, 11, 5, 30, 31)).after([1, 99, 5])[:2] == (20, 21)


def test_a_token_that_the_draft_lacks_is_followed_by_no_proposal() -> None:
    assert Draft(TOKENS).after([10, 99]) == ()


def test_nothing_is_behind_the_end_of_a_draft() -> None:
    assert Draft(TOKENS).after([18, 19]) == ()
