"""Log lines are bounded, and repeats are dropped."""

from __future__ import annotations

import contextlib

import pytest
import structlog

from myna.server.log import LONGEST_TRACE, LONGEST_VALUE, REPEATED_S, Repeats, bounded, configure


@pytest.fixture(autouse=True)
def afterwards():
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("form", ["json", "console"])
def test_every_logged_value_is_bounded(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", form)
    huge = "x" * 10_000_000
    log = structlog.get_logger()
    with structlog.contextvars.bound_contextvars(stream=huge):
        log.warning("stream refused", code="c", message=huge, listed=[huge], nested={huge: huge}, raw=huge.encode())
    log.warning(huge)
    try:
        raise ValueError(huge)
    except ValueError:
        log.exception("failed")
    written = "".join(capsys.readouterr())
    assert len(written) < 50_000
    assert "(10000000 characters)" in written
    assert "ValueError" in written


def test_short_values_are_unchanged() -> None:
    line = {"event": "e" * LONGEST_VALUE, "number": 10**9, "none": None, "names": ["a", "b"], "share": 0.5, "yes": True}
    assert bounded(None, "info", dict(line)) == line


def test_a_trace_keeps_its_beginning_and_its_end() -> None:
    cut = bounded(None, "error", {"exception": "begin" + "x" * 100_000 + "end"})["exception"]
    assert len(cut) < LONGEST_TRACE + 100
    assert cut.startswith("begin")
    assert cut.endswith("end")


def test_a_repeated_line_is_written_once_per_interval_with_a_count() -> None:
    now = [100.0]
    repeats = Repeats(lambda: now[0])
    written = []
    for _ in range(1000):
        now[0] += REPEATED_S / 500
        with contextlib.suppress(structlog.DropEvent):
            written.append(repeats(None, "warning", {"event": "again", "reason": "r"}))
    assert len(written) in (2, 3)
    assert written[1]["repeated"] > 400


def test_only_the_last_thousand_lines_are_remembered() -> None:
    repeats = Repeats(lambda: 100.0)
    for number in range(2000):
        assert repeats(None, "info", {"event": "stream connected", "stream": number})
    assert repeats(None, "info", {"event": "stream connected", "stream": 0})
    with pytest.raises(structlog.DropEvent):
        repeats(None, "info", {"event": "stream connected", "stream": 1999})
