from __future__ import annotations

import numpy as np
import pytest

from myna.inference.workers.ipc import (
    LARGEST,
    Batch,
    Hello,
    Message,
    Release,
    Status,
    Unavailable,
    Unpacker,
    encode,
    result,
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
    result("a/0/1", Missing(800), 0.05),
    result("a/0/1", Transcript((Word("hé", 0.1, 0.2, 0.9),), -0.3), 0.05),
    result("a/0/1", JobError("broken"), 0.05),
    Status((0.0, 1.5)),
    Hello(EngineInfo("m", ("en", "fr"), 15.0, 100, 4, uuid="u", incremental=True), 2, 1 << 30, 0.02),
    Unavailable("no model"),
]


def test_messages_survive_any_chunking_of_their_bytes() -> None:
    data = b"".join(encode(message) for message in MESSAGES)
    for size in (1, 7, 1000, len(data)):
        unpacker = Unpacker()
        got = [m for start in range(0, len(data), size) for m in unpacker.feed(data[start : start + size])]
        assert got == MESSAGES


def test_a_message_longer_than_the_limit_is_refused_before_its_bytes_arrive() -> None:
    with pytest.raises(ValueError, match=str(LARGEST)):
        list(Unpacker().feed(b"\xff\xff\xff\xff"))


MALFORMED = {
    "no message": b"\x07",
    "nothing": b"",
    "an unknown type": b"\x92\xa5other\xa1a",
    "a field of another type": b"\x92\xa7release\x01",
    "a field too few": b"\x91\xa7release",
    "a job without its fields": b"\x93\xa5batch\x00\x91\x81\xa2id\xa1a",
    "text that is not UTF-8": b"\x92\xa7release\xa1\xff",
    "deeply nested arrays": b"\x93\xa7release\xa1a" + b"\x91" * 100_000,
    "bytes after the message": b"\x92\xa7release\xa1a\x00",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_message_is_refused(case: str) -> None:
    body = MALFORMED[case]
    with pytest.raises(ValueError, match="malformed"):
        list(Unpacker().feed(len(body).to_bytes(4, "little") + body))


def test_an_engine_may_answer_with_numbers_of_numpy() -> None:
    words = (Word("a", np.float64(0.25), np.float64(0.5), np.float64(0.75)),)
    data = encode(result("a/0/1", Transcript(words, np.float64(-0.5)), 0.05))
    assert list(Unpacker().feed(data)) == [result("a/0/1", Transcript((Word("a", 0.25, 0.5, 0.75),), -0.5), 0.05)]
