from __future__ import annotations

import pytest

from myna.inference.workers.ipc import (
    LARGEST,
    Batch,
    Hello,
    Message,
    Release,
    Result,
    Status,
    Unavailable,
    Unpacker,
    encode,
)
from myna.streaming.events import Word
from myna.streaming.policy import Options
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Missing, Transcript

MESSAGES: list[Message] = [
    Batch(1, (InferenceJob("a/0/1", "a/0", JobKind.INTERIM, b"\x01\x02" * 100, 12.5, Options("en")),)),
    Batch(
        0,
        (
            InferenceJob(
                "a/0/2", "a/0", JobKind.INTERIM, b"", 0.0, Options(None, ("Myna", "a b")), utterance=4, held=800
            ),
            InferenceJob("b/0/2", "b/0", JobKind.INTERIM, b"\x01\x02", 0.0),
        ),
    ),
    Release("a/0"),
    Result("a/0/1", Missing(800), 0.05),
    Result("a/0/1", Transcript((Word("hé", 0.1, 0.2, 0.9),), -0.3), 0.05),
    Result("a/0/1", JobError("broken"), 0.05),
    Status((0.0, 1.5)),
    Hello(EngineInfo("m", ("en", "fr"), 15.0, 100, 4, uuid="u", incremental=True), 2, 1 << 30, 0.02),
    Unavailable("no model"),
]


def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut() -> None:
    data = b"".join(encode(message) for message in MESSAGES)
    for size in (1, 7, 1000, len(data)):
        unpacker = Unpacker()
        got = [m for start in range(0, len(data), size) for m in unpacker.feed(data[start : start + size])]
        assert got == MESSAGES


def test_a_length_beyond_the_limit_is_refused_before_its_bytes_are_awaited() -> None:
    with pytest.raises(ValueError, match=str(LARGEST)):
        list(Unpacker().feed(b"\xff\xff\xff\xff"))


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(ValueError, match="no message"):
        list(Unpacker().feed(b"\x01\x00\x00\x00\x07"))
