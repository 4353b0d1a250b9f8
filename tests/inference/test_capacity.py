"""The estimate of a model's capacity, in virtual time: it recovers from anything that distorts it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from simulation import Simulation, assert_nothing_lost, p95, per_second, phrases

from myna.inference.scheduling.capacity import WINDOW_S, Capacity
from myna.inference.scheduling.claims import QUIET_S, Claim
from myna.streaming.session.jobs import JobKind

TARGET_S = 0.7
COST = 0.018
"""Cost of a second of silence, in seconds."""
UTTERANCE_S, DECODED_S = 3.0, 6.0
"""Interval of finals, in seconds; each decodes its context again."""
lanes = pytest.mark.parametrize("lanes", [1, 2, 8])


def join(capacity: Capacity, now: float, count: int, owner: str = "anybody") -> list[Claim]:
    return [capacity.claims.join(f"{owner} {now} {number}", owner, 1, now) for number in range(count)]


def serve(
    capacity: Capacity,
    now: float,
    length_s: float,
    streams: int,
    *,
    slower: float = 1.0,
    late_s: float = 0.1,
    silent: Sequence[Claim] = (),
) -> float:
    """Simulate `count` speaking streams for a while; return the time at which they end."""
    claims = join(capacity, now, streams)
    for second in range(round(length_s)):
        at = now + second
        for claim in silent:
            capacity.heard(at, claim, 1.0)
        for number, claim in enumerate(claims):
            capacity.heard(at, claim, 1.0)
            capacity.claims.asked(f"{claim.name}/0", at)
            if (second + number) % UTTERANCE_S == 0:
                capacity.step_done(at, JobKind.FINAL, DECODED_S, slower * 1.6 * COST * DECODED_S)
                capacity.final_out(at, late_s, 0.2)
    for claim in claims:
        capacity.claims.leave(claim)
    return now + length_s


def ask(capacity: Capacity, now: float, cost: float = COST) -> int:
    """Return the room as admission does: an idle model is measured first."""
    if capacity.p95(now) is None:
        capacity.measured(now, cost)
    return capacity.room(now, TARGET_S)


@lanes
def test_a_machine_that_was_slow_admits_as_many_streams_as_a_new_one_once_it_is_idle(lanes: int) -> None:
    capacity, fresh = Capacity(lanes, COST), Capacity(lanes, COST)
    now = serve(capacity, 0.0, 60.0, 2, slower=40.0, late_s=4.0)
    assert capacity.room(now, TARGET_S) == 0
    now += WINDOW_S + 1.0
    join(capacity, now, 1)  # it is silent
    assert ask(capacity, now) >= fresh.room(0.0, TARGET_S) - 1 > 2


@lanes
def test_a_model_loaded_on_a_busy_machine_is_judged_by_its_later_cost(lanes: int) -> None:
    capacity, fresh = Capacity(lanes, 15 * COST), Capacity(lanes, COST)
    assert capacity.room(0.0, TARGET_S) == 0
    assert ask(capacity, 1.0) == fresh.room(0.0, TARGET_S)


def test_a_machine_that_stays_slow_counts_as_slow_after_some_measurements() -> None:
    capacity = Capacity(2, COST)
    assert ask(capacity, 10.0, 15 * COST) > 0  # other programs may have used the cores
    for now in (20.0, 30.0):
        ask(capacity, now, 15 * COST)
    assert capacity.room(30.0, TARGET_S) == 0


@lanes
def test_an_idle_machine_admits_as_many_streams_as_it_served_when_busy(lanes: int) -> None:
    capacity = Capacity(lanes, COST)
    many = 2 * capacity.room(0.0, TARGET_S)
    now = serve(capacity, 0.0, 90.0, many)
    assert ask(capacity, now + 3600.0) >= 0.95 * many


def test_a_served_load_no_longer_counts_once_the_same_load_had_late_finals() -> None:
    capacity, fresh = Capacity(2, COST), Capacity(2, COST)
    now = serve(capacity, 0.0, 90.0, 30)
    assert ask(capacity, now + 60.0) >= 28
    now = serve(capacity, now + 60.0, 90.0, 29, slower=2.0, late_s=3.0)
    assert ask(capacity, now + 60.0) == fresh.room(0.0, TARGET_S) < 28


def test_no_served_load_counts_while_finals_are_late() -> None:
    capacity = Capacity(2, COST)
    now = serve(capacity, 0.0, 90.0, 30) + 60.0
    for second in range(3):
        capacity.step_done(now + second, JobKind.FINAL, DECODED_S, 2.0)
        capacity.final_out(now + second, 2.5, 0.2)
    assert capacity.room(now + 3.0, TARGET_S) == 0


def test_silent_streams_leave_most_of_the_room_to_others() -> None:
    capacity = Capacity(8, COST)
    empty = capacity.room(0.0, TARGET_S)
    join(capacity, 0.0, 23, "silent")
    assert capacity.room(1.0, TARGET_S) == empty - 23  # they have just joined
    assert capacity.room(QUIET_S, TARGET_S) >= empty - 2


def test_one_owner_cannot_occupy_the_model_with_silent_streams() -> None:
    capacity, now, opened = Capacity(8, COST), 0.0, 0
    empty = capacity.room(0.0, TARGET_S)
    while capacity.predicted_p95(now, 1, "silent") <= TARGET_S:
        join(capacity, now, 1, "silent")
        now += QUIET_S
        opened += 1
    assert empty < opened <= 4 * (empty + 1)
    assert capacity.room(now, TARGET_S) >= 3 / 4 * empty


def test_a_quiet_channel_counts_in_full_as_soon_as_it_speaks_again() -> None:
    capacity = Capacity(8, COST)
    empty = capacity.room(0.0, TARGET_S)
    claim = capacity.claims.join("a", "anybody", 20, 0.0)
    assert capacity.room(0.0, TARGET_S) == empty - 20
    assert capacity.room(QUIET_S, TARGET_S) == empty - 1
    for channel in (1, 3, 20):  # channel 20 does not exist
        capacity.claims.asked(f"a/{channel}", QUIET_S)
    assert claim.speaking(QUIET_S) == 2
    assert capacity.room(QUIET_S, TARGET_S) == empty - 3


def test_a_disconnected_stream_weighs_no_more_than_a_quiet_one() -> None:
    capacity = Capacity(8, COST)
    empty = capacity.room(0.0, TARGET_S)
    claims = join(capacity, 0.0, 10)
    for claim in claims:
        claim.away = True
    assert capacity.room(0.0, TARGET_S) == empty - 1
    for claim in claims:
        claim.back(0.0)
    assert capacity.room(0.0, TARGET_S) == empty - 10


def test_silence_does_not_lower_the_estimated_cost_of_speech() -> None:
    talk, mixed = Capacity(8, COST), Capacity(8, COST)
    silent = join(mixed, -QUIET_S, 200, "silent")
    serve(talk, 0.0, 60.0, 8)
    now = serve(mixed, 0.0, 60.0, 8, silent=silent)
    for claim in silent:
        mixed.claims.leave(claim)
    assert mixed.room(now, TARGET_S) == talk.room(now, TARGET_S)


def test_the_effect_of_one_extremely_slow_step_ends_within_30_s() -> None:
    capacity, spared = Capacity(2, COST), Capacity(2, COST)
    capacity.step_done(9.0, JobKind.FINAL, DECODED_S, 300.0)
    capacity.final_out(9.0, 300.0, 0.2)
    for one in (capacity, spared):
        serve(one, 10.0, 60.0, 4)
    assert capacity.room(70.0, TARGET_S) == spared.room(70.0, TARGET_S)
    assert capacity.cost < 2 * spared.cost


@pytest.mark.parametrize("cost", [math.nan, math.inf, -1.0, 0.0])
def test_a_measurement_that_is_not_a_number_is_ignored(cost: float) -> None:
    capacity = Capacity(2, cost)
    capacity.step_done(0.0, JobKind.FINAL, DECODED_S, cost)
    capacity.measured(1.0, cost)
    assert ask(capacity, 2.0) == Capacity(2, COST).room(0.0, TARGET_S)


def test_no_stream_is_admitted_while_no_worker_is_up() -> None:
    capacity = Capacity(2, COST)
    capacity.lanes = 0
    assert capacity.room(0.0, TARGET_S) == 0
    capacity.lanes = 2
    assert capacity.room(0.0, TARGET_S) > 0


def test_a_stream_that_ends_leaves_no_claim_behind() -> None:
    capacity = Capacity(2, COST)
    claim = capacity.claims.join("a", "anybody", 1, 0.0)
    claim.resize(20, 0.0)
    assert capacity.streams == 20
    claim.resize(2, 0.0)
    assert capacity.streams == 2
    for _ in range(2):
        capacity.claims.leave(claim)
    assert capacity.streams == capacity.claims.weight(0.0) == 0


@pytest.mark.parametrize("lanes", [1, 2])
def test_streams_admitted_in_a_burst_after_a_slow_phase_keep_the_target_delay(lanes: int) -> None:
    simulation, source = Simulation(per_second(0.03), lanes=lanes, silence_costs=COST), random.Random(3)

    def ask() -> None:
        if simulation.admits(TARGET_S):
            simulation.speak(simulation.now, phrases(source, 6))

    def speed(slowness: float) -> None:
        simulation.slowness = slowness

    for number in range(12 * lanes):  # fast, under load
        simulation.at(2.0 * number / lanes, ask)
    simulation.at(60.0, lambda: speed(12.0))  # other programs use the cores
    for number in range(4):
        simulation.at(62.0 + 4 * number, ask)
    simulation.run()
    before, idle = len(simulation.speakers), simulation.now + 60.0
    simulation.at(idle - QUIET_S, lambda: simulation.open_silently())
    simulation.at(idle, lambda: speed(1.0))
    for _ in range(28 * lanes):
        simulation.at(idle, ask)
    simulation.run()
    assert_nothing_lost(simulation)
    crowd = simulation.speakers[before:]
    assert len(crowd) >= 4 * lanes
    assert p95([delay for speaker in crowd for delay in speaker.final_delays]) <= TARGET_S
