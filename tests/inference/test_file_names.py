"""The names of model files, in the scheme of Deepgram's self-hosted servers."""

from __future__ import annotations

from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myna.inference.engines.file_names import parsed, same


@pytest.mark.parametrize(
    ("stem", "told"),
    [
        ("nova-2-general.en.formatted.streaming.a12b345", ("nova-2-general", ("en",), True, "streaming", "a12b345")),
        ("nova-2-general.en.non-formatted.batch.27177ae8", ("nova-2-general", ("en",), False, "batch", "27177ae8")),
        ("2-general-nova.en-US.a12b345", ("2-general-nova", ("en",), True, "all", "a12b345")),
        ("nova-3.en-es.all.0123456789abcdef", ("nova-3", ("en", "es"), True, "all", "0123456789abcdef")),
        ("nova-3.multi.streaming.12345678", ("nova-3", (), True, "streaming", "12345678")),
        ("parakeet-tdt-0.6b.zh-Hans.batch.12ab34", ("parakeet-tdt-0.6b", ("zh",), True, "batch", "12ab34")),
        ("enhanced.1a2b3c", ("enhanced", (), True, "all", "1a2b3c")),
        ("parakeet-tdt-0.6b-v2", None),
        ("whisper-base", None),
        ("model.en.streaming", None),
        ("model.facade", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_files_name_tells_model_languages_formatting_mode_and_hash(
    stem: str, told: tuple[object, ...] | None
) -> None:
    found = parsed(stem)
    assert (found and astuple(found)) == told


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("2-general-nova", "nova-2-general", True),
        ("general-nova", "nova-general", True),
        ("nova-2-general", "nova-2-general", True),
        ("nova-2", "nova-2-general", False),
        ("nova", "nova", True),
        ("phonecall-enhanced", "enhanced-phonecall", True),
        ("mine-2", "2-mine", False),
    ],
)
def test_both_orders_of_deepgrams_names_are_the_same(one: str, other: str, equal: bool) -> None:
    assert same(one, other) is same(other, one) is equal


@given(st.text(max_size=80))
def test_every_name_is_read_or_taken_whole(stem: str) -> None:
    told = parsed(stem)
    assert told is None or (stem.startswith(told.called) and stem.endswith(told.hash))
