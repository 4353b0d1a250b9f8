"""Policies swept over the pauses of turns, and the pauses of real recordings."""

from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sounds import recording
from typer.testing import CliRunner

from myna.bench.accuracy import AccuracyError
from myna.bench.pauses import Pause, pauses
from myna.bench.turn_sweep import at_threshold, by_silence, fewest_cutoffs, operating_points, shortest_latency, swept
from myna.cli import app
from myna.inference.engines.moonshine.engine import MoonshineEngine
from myna.streaming.speech.silero import SileroVad


def pause(length_s: float, rises_at: float, *, ends: bool = False, confidence: float = 0.8) -> Pause:
    """Return a pause whose confidence rises from 0 at this silence."""
    told = tuple(
        (step / 10, confidence if step / 10 >= rises_at else 0.0) for step in range(1, round(10 * length_s) + 1)
    )
    return Pause("a", ends, length_s, told)


KNOWN = [pause(0.5, 0.9), pause(1.2, 1.1), pause(0.8, 0.4), pause(4, 0.3, ends=True), pause(4, 0.7, ends=True)]


def test_a_policy_cuts_off_the_holds_during_which_it_fires_and_waits_at_the_ends() -> None:
    outcomes = {(one.threshold, one.least_s, one.timeout_s): one for one in swept(KNOWN)}
    assert (outcomes[0.5, 0.2, 3.5].cutoffs, outcomes[0.5, 0.2, 3.5].latency_s) == pytest.approx((2 / 3, 0.5))
    assert (outcomes[0.5, 1.0, 3.5].cutoffs, outcomes[0.5, 1.0, 3.5].latency_s) == pytest.approx((1 / 3, 1.0))
    assert (outcomes[0.5, 1.0, 1.0].cutoffs, outcomes[0.8, 0.2, 1.5].cutoffs) == pytest.approx((1 / 3, 0))
    assert outcomes[0.8, 0.2, 1.5].latency_s == 1.5


def test_silence_alone_cuts_off_the_holds_that_are_longer() -> None:
    outcomes = {one.timeout_s: one for one in by_silence(KNOWN)}
    assert [outcomes[silence].cutoffs for silence in (0.4, 0.5, 1.0, 1.2)] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert outcomes[1.2].latency_s == outcomes[1.2].latency_p90_s == pytest.approx(1.2)


def test_operating_points_are_the_best_policies_within_each_budget() -> None:
    points = operating_points(by_silence(KNOWN))
    assert list(points) == [
        "cutoffs_within_300_ms", "cutoffs_within_600_ms", "latency_within_5_percent", "latency_within_10_percent",
    ]  # fmt: skip
    six, five = points["cutoffs_within_600_ms"], points["latency_within_5_percent"]
    assert six is not None
    assert five is not None
    assert (six.cutoffs, five.latency_s) == pytest.approx((2 / 3, 1.2))
    assert fewest_cutoffs(by_silence(KNOWN), 0.1) is None
    assert shortest_latency(by_silence([*KNOWN, pause(5, 9)]), 0.05) is None
    best = operating_points(swept(KNOWN))["latency_within_5_percent"]
    assert best is not None
    assert best.latency_s == pytest.approx(1.2, abs=0.31)


def test_a_threshold_has_false_ends_by_turn_and_delays_from_the_last_word() -> None:
    found = [pause(0.8, 0.4), pause(1.2, 0.5), pause(0.5, 0.9), *(pause(4, 0.3, ends=True) for _ in range(3))]
    found.append(replace(pause(4, 0.7, ends=True), audio="b", late_s=0.1))
    figures = at_threshold(found, 0.7)
    assert (figures.false_ends, figures.cutoffs) == pytest.approx((1 / 4, 2 / 3))
    assert (figures.delay_median_s, figures.delay_p90_s) == pytest.approx((0.3, 0.65))
    assert at_threshold(found, 0.9).delay_median_s == pytest.approx(4)


def test_a_sweep_without_pauses_inside_turns_is_refused() -> None:
    with pytest.raises(AccuracyError, match="pauses inside turns"):
        swept(KNOWN[-2:])


def test_the_last_pause_of_a_recording_is_its_end_and_confidence_grows_in_it() -> None:
    speech = recording("two_cities")[: 16_000 * 9]
    found = pauses("two_cities", speech, 8.5, SileroVad(), MoonshineEngine())
    assert [one.ends for one in found] == [False] * (len(found) - 1) + [True]
    assert len(found) > 2
    assert all(0.2 <= one.length_s <= 5 for one in found)
    silences = [silence for silence, _ in found[-1].confidences]
    assert silences == pytest.approx([0.032 * step for step in range(1, len(silences) + 1)])
    early, late = found[-1].confidences[2][1], found[-1].confidences[-1][1]
    assert early == 0 < late <= 1


def test_the_command_prints_operating_points_and_pauses_as_json(tmp_path: Path) -> None:
    lines = []
    for name, seconds in (("two_cities", 9), ("beckett", 7)):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.ascontiguousarray(recording(name)[: 16_000 * seconds]).tobytes())
        lines.append(json.dumps({"audio": f"{name}.wav", "text": "", "group": "wheel"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    result = CliRunner().invoke(app, ["bench", "turns", "--manifest", str(tmp_path / "manifest.jsonl"), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert set(told["points"]) == {"confidence", "silence alone"}
    assert sum(one["ends"] for one in told["pauses"]) == 2
    assert [one["threshold"] for one in told["thresholds"]] == [0.5, 0.7, 0.85]
    refused = CliRunner().invoke(app, ["bench", "turns", "--manifest", "m", "--eager", "0.4"])
    assert refused.exit_code != 0
    assert "--eager needs --live" in refused.output
