"""Log lines: bounded, and not the same one again and again."""

from __future__ import annotations

import contextlib

import pytest
import structlog

from myna.server.log import LONGEST_TRACE, LONGEST_VALUE, REPEATED_S, Repeats, bounded, configure


@pytest.fixture(autouse=True)
def afterwards():
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_value_fills_the_log_whatever_it_is(form: str, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_what_is_short_is_left_as_it_is() -> None:
    line = {"event": "e" * LONGEST_VALUE, "number": 10**9, "none": None, "names": ["a", "b"], "share": 0.5, "yes": True}
    assert bounded(None, "info", dict(line)) == line


def test_a_trace_keeps_its_beginning_and_its_end() -> None:
    cut = bounded(None, "error", {"exception": "begin" + "x" * 100_000 + "end"})["exception"]
    assert len(cut) < LONGEST_TRACE + 100
    assert cut.startswith("begin")
    assert cut.endswith("end")


def test_a_line_that_repeats_is_written_once_in_a_while_and_counted() -> None:
    now = [100.0]
    repeats = Repeats(lambda: now[0])
    written = []
    for _ in range(1000):
        now[0] += REPEATED_S / 500
        with contextlib.suppress(structlog.DropEvent):
            written.append(repeats(None, "warning", {"event": "again", "reason": "r"}))
    assert len(written) in (2, 3)
    assert written[1]["repeated"] > 400
    for number in range(5000):
        assert repeats(None, "info", {"event": "stream connected", "stream": number})
    assert len(repeats._lines) <= 1000
