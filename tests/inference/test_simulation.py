"""Many streams, files and failing workers, in virtual time."""

from __future__ import annotations

import random

import pytest
from simulation import Simulation, assert_nothing_lost, p95, per_second, phrases

from myna.inference.engines.fake.engine import FakeEngine, FakeSettings
from myna.inference.scheduling.dispatcher import BLAME, Assignment
from myna.streaming.events import SAMPLE_RATE
from myna.streaming.session.jobs import InferenceJob, JobKind


def crowd(simulation: Simulation, count: int, seed: int = 0, *, spread_s: float = 2.0, length: int = 4) -> None:
    source = random.Random(seed)
    for number in range(count):
        simulation.speak(spread_s * number / count, phrases(source, length))


@pytest.mark.parametrize("spread_s", [2.0, 0.0], ids=["staggered", "in phase"])
def test_under_load_interims_are_skipped_and_finals_stay_on_time(spread_s: float) -> None:
    alone, full = Simulation(per_second(0.02)), Simulation(per_second(0.02))
    crowd(alone, 1)
    crowd(full, 40, spread_s=spread_s)
    for simulation in (alone, full):
        simulation.run()
        assert_nothing_lost(simulation)
    assert p95(full.final_delays()) < 0.5
    thinned = sum(speaker.interims for speaker in full.speakers) / 40
    assert 0.1 < thinned / alone.speakers[0].interims < 0.9


def test_a_file_waits_for_live_streams_and_still_finishes() -> None:
    simulation, without = Simulation(per_second(0.02)), Simulation(per_second(0.02))
    crowd(simulation, 12, length=8)
    crowd(without, 12, length=8)
    speech = phrases(random.Random(5), 40)
    file = simulation.send_file(1.0, speech)
    simulation.run()
    without.run()
    assert_nothing_lost(simulation)
    assert file.over
    assert p95(simulation.final_delays()) <= p95(without.final_delays()) + 0.3  # a running file job finishes first


def test_a_thousand_streams_get_every_word_and_leave_no_job_behind() -> None:
    simulation = Simulation(per_second(0.0005), lanes=2, engine=FakeEngine(settings=FakeSettings(largest_batch=64)))
    crowd(simulation, 1000, length=2)
    most = 0

    def look(_: Assignment) -> None:
        nonlocal most
        most = max(most, simulation.dispatcher.waiting)

    simulation.on_assignment = look
    simulation.run()
    assert_nothing_lost(simulation)
    assert most <= 2 * 1000  # one final and one interim per stream


@pytest.mark.parametrize(
    "settings",
    [FakeSettings(), FakeSettings(incremental=True), FakeSettings(flushed_finals=True)],
    ids=["whole", "followed", "flushed"],
)
def test_workers_killed_a_hundred_times_lose_and_repeat_no_word(settings: FakeSettings) -> None:
    engine = FakeEngine(settings=settings)
    simulation = Simulation(per_second(0.03), workers=2, lanes=1, engine=engine, seed=1)
    simulation.restart_s = 0.3
    crowd(simulation, 12, length=14)
    for number in range(100):
        when = 0.5 + 0.6 * number
        simulation.at(when, lambda: simulation.kill(simulation.random.randrange(2)))
    simulation.run()
    assert simulation.deaths > 80
    assert_nothing_lost(simulation)


@pytest.mark.parametrize("boundary", ["given", "answered"])
def test_a_worker_may_die_at_every_single_message(boundary: str) -> None:
    def run(at: int) -> tuple[Simulation, int]:
        simulation, seen = Simulation(per_second(0.05)), 0

        def count(what: Assignment | InferenceJob) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                simulation.at(simulation.now, lambda: simulation.kill(0))

        if boundary == "given":
            simulation.on_assignment = count
        else:
            simulation.on_result = count
        crowd(simulation, 3, length=2)
        simulation.run()
        return simulation, seen

    _, messages = run(0)
    assert messages > 30
    for at in range(1, messages + 1):
        simulation, _ = run(at)
        assert simulation.deaths == 1
        assert_nothing_lost(simulation)


def test_a_job_that_kills_every_worker_fails_alone() -> None:
    simulation = Simulation(per_second(0.02), workers=2, lanes=2)
    crowd(simulation, 8, length=4)
    victim = simulation.speakers[3]
    simulation.poison = {victim.codes[len(victim.codes) // 2]}
    simulation.run()
    assert victim.over
    assert victim.failures >= 1
    assert victim.words != victim.said
    for speaker in simulation.speakers:
        if speaker is not victim:
            assert speaker.words == speaker.said
            assert speaker.failures == 0
    assert simulation.dispatcher.waiting == 0


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("burst", [False, True], ids=["one after the other", "all at once"])
def test_at_three_times_the_capacity_the_admitted_streams_keep_the_target_delay(lanes: int, burst: bool) -> None:
    cost, target_s = 0.03, 0.7
    simulation = Simulation(per_second(cost), lanes=lanes, silence_costs=0.6 * cost)
    source = random.Random(2)
    refused = 0

    def ask() -> None:
        nonlocal refused
        if simulation.admits(target_s):
            simulation.speak(simulation.now, phrases(source, 8))
        else:
            refused += 1

    capacity = 14 * lanes  # a stream costs 0.07 lanes, and lasts 34 s
    for number in range(6 * capacity):
        simulation.at(0.0 if burst and number < 3 * capacity else 34 / (3 * capacity) * number, ask)
    simulation.run()
    assert_nothing_lost(simulation)
    assert refused > len(simulation.speakers) / 2
    assert p95(simulation.final_delays()) <= target_s
    busy = sum(len(speaker.audio) for speaker in simulation.speakers) / SAMPLE_RATE / 34 / 2 / capacity
    assert busy > 0.25  # the target is not kept by refusing all streams


def test_the_death_of_one_of_three_lanes_costs_time_but_no_word() -> None:
    simulation = Simulation(per_second(0.03), workers=3, lanes=1)
    simulation.restart_s = 20.0
    crowd(simulation, 12, length=6)
    simulation.at(3.0, lambda: simulation.kill(1, BLAME))
    simulation.run()
    assert_nothing_lost(simulation)
    assert p95(simulation.final_delays()) < 0.7


def test_files_are_decoded_when_no_other_job_waits() -> None:
    simulation = Simulation(per_second(0.02))
    kinds: list[JobKind] = []
    simulation.on_assignment = lambda assignment: kinds.append(assignment.jobs[0].kind)
    file = simulation.send_file(0.0, phrases(random.Random(1), 10))
    simulation.run()
    assert file.words == file.said
    assert set(kinds) == {JobKind.FILE}
