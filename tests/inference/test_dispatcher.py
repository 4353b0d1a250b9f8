from __future__ import annotations

from typing import Any

import pytest

from myna.inference.scheduling.dispatcher import BLAME, KILLED_BLAME, Dispatcher
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobKind


def dispatcher_of(workers: int = 1, lanes: int = 1, **info: Any) -> Dispatcher:
    dispatcher = Dispatcher(EngineInfo("e", ("en",), 15.0, 100, **info))
    for worker in range(workers):
        dispatcher.up(worker, lanes)
    return dispatcher


def job(
    name: str, kind: JobKind = JobKind.FINAL, due: float = 0.0, source: str | None = None, utterance: int = 0
) -> InferenceJob:
    return InferenceJob(name, source or name, kind, b"", due, utterance=utterance)


def given(dispatcher: Dispatcher) -> list[tuple[int, int, list[str]]]:
    return [(a.worker, a.lane, [job.id for job in a.jobs]) for a in dispatcher.assign()]


def test_any_free_lane_takes_the_most_urgent_job() -> None:
    dispatcher = dispatcher_of(workers=2)
    for number, due in enumerate((3.0, 1.0, 2.0)):
        dispatcher.submit(job(f"{number}", due=due))
    assert given(dispatcher) == [(0, 0, ["1"]), (1, 0, ["2"])]
    assert given(dispatcher) == []
    dispatcher.done(1, "2")
    assert given(dispatcher) == [(1, 0, ["0"])]


def test_only_the_running_jobs_of_a_dead_worker_move_to_another() -> None:
    dispatcher = dispatcher_of(workers=2)
    for name in "abc":
        dispatcher.submit(job(name))
    given(dispatcher)
    assert dispatcher.down(0, BLAME).failed == []
    dispatcher.done(1, "b")
    assert given(dispatcher) == [(1, 0, ["c"])]
    dispatcher.done(1, "c")
    assert given(dispatcher) == [(1, 0, ["a"])]


def test_jobs_wait_while_there_is_no_worker() -> None:
    dispatcher = dispatcher_of(workers=0)
    dispatcher.submit(job("a"))
    assert given(dispatcher) == []
    dispatcher.up(3, 1)
    assert given(dispatcher) == [(3, 0, ["a"])]


def test_a_job_running_at_two_deaths_runs_alone_and_fails_at_the_third() -> None:
    dispatcher = dispatcher_of(lanes=2)
    dispatcher.submit(job("killer", due=0))
    dispatcher.submit(job("innocent", due=1))
    for _ in range(2):
        assert given(dispatcher) == [(0, 0, ["killer"]), (0, 1, ["innocent"])]
        assert dispatcher.down(0, BLAME).failed == []
        dispatcher.up(0, 2)
    dispatcher.submit(job("new", due=2))
    assert given(dispatcher) == [(0, 0, ["killer"])]
    assert [failed.id for failed in dispatcher.down(0, BLAME).failed] == ["killer"]
    dispatcher.up(0, 2)
    assert given(dispatcher) == [(0, 0, ["innocent"])]
    dispatcher.done(0, "innocent")
    assert given(dispatcher) == [(0, 0, ["new"])]


def test_a_suspect_waits_for_an_idle_worker_while_other_workers_go_on() -> None:
    dispatcher = dispatcher_of(workers=1, lanes=2)
    dispatcher.submit(job("suspect"))
    for _ in range(2):
        assert given(dispatcher) == [(0, 0, ["suspect"])]
        dispatcher.down(0, BLAME)
        dispatcher.up(0, 2)
    dispatcher.up(1, 2)
    for name in "abc":
        dispatcher.submit(job(name))
    assert given(dispatcher) == [(0, 0, ["suspect"]), (1, 0, ["a"]), (1, 1, ["b"])]
    dispatcher.done(1, "a")
    assert given(dispatcher) == [(1, 0, ["c"])]
    dispatcher.submit(job("d"))
    assert given(dispatcher) == []
    dispatcher.done(0, "suspect")
    assert given(dispatcher) == [(0, 0, ["d"])]


def test_a_worker_killed_from_outside_puts_little_blame_on_its_job() -> None:
    dispatcher = dispatcher_of()
    dispatcher.submit(job("a"))
    deaths = 0
    while True:
        assert given(dispatcher) == [(0, 0, ["a"])]
        deaths += 1
        if dispatcher.down(0, KILLED_BLAME).failed:
            break
        dispatcher.up(0, 1)
    assert deaths == 15


def test_workers_killed_at_random_fail_no_job() -> None:
    dispatcher = dispatcher_of(workers=2)
    dispatcher.submit(job("unlucky"))
    for _ in range(30):
        ((worker, _, names),) = given(dispatcher)
        assert names == ["unlucky"]
        assert dispatcher.down(worker, KILLED_BLAME).failed == []
        dispatcher.down(1 - worker, KILLED_BLAME)  # the worker without the job
        dispatcher.up(0, 1)
        dispatcher.up(1, 1)
    ((worker, _, _),) = given(dispatcher)
    dispatcher.done(worker, "unlucky")
    assert (dispatcher.waiting, dispatcher.under_way) == (0, 0)


def test_a_cancelled_job_is_not_decoded_again_after_a_death() -> None:
    dispatcher = dispatcher_of()
    dispatcher.submit(job("a"))
    given(dispatcher)
    dispatcher.cancel("a")
    assert dispatcher.down(0, BLAME).failed == []
    dispatcher.up(0, 1)
    assert given(dispatcher) == []
    assert dispatcher.waiting == 0


def test_the_steps_of_a_followed_utterance_stay_with_their_worker_until_it_dies() -> None:
    dispatcher = dispatcher_of(workers=2, incremental=True, largest_batch=4)
    for step in range(3):
        for source in "ab":
            dispatcher.submit(job(f"{source}{step}", JobKind.INTERIM, step, source, utterance=1))
        assert given(dispatcher) == [(0, 0, [f"a{step}"]), (1, 0, [f"b{step}"])]
        dispatcher.done(0, f"a{step}")
        dispatcher.done(1, f"b{step}")
    dispatcher.submit(job("a3", JobKind.INTERIM, 3, "a", utterance=1))
    dispatcher.down(0, BLAME)
    assert given(dispatcher) == [(1, 0, ["a3"])]
    assert dispatcher.release("a") == 1
    assert dispatcher.release("a") is None


def test_steps_of_a_worker_that_does_not_return_move_to_the_next_worker_that_starts() -> None:
    dispatcher = dispatcher_of(incremental=True)
    dispatcher.down(0, BLAME)
    dispatcher.submit(job("a", JobKind.INTERIM, 0, "a", utterance=1))
    dispatcher.up(1, 1)
    assert given(dispatcher) == [(1, 0, ["a"])]


def test_a_final_precedes_the_steps_of_followed_utterances() -> None:
    dispatcher = dispatcher_of(incremental=True)
    dispatcher.submit(job("step", JobKind.INTERIM, 0, "a", utterance=1))
    dispatcher.submit(job("final", due=5))
    assert given(dispatcher) == [(0, 0, ["final"])]


def interim(name: str, utterance: int = 0) -> InferenceJob:
    return job(name, JobKind.INTERIM, source="channel", utterance=utterance)


@pytest.mark.parametrize("utterance", [0, 1])
def test_the_interim_of_a_dead_worker_does_not_replace_a_newer_waiting_one(utterance: int) -> None:
    dispatcher = dispatcher_of(incremental=bool(utterance))
    dispatcher.submit(interim("old", utterance))
    given(dispatcher)
    dispatcher.submit(interim("fresh", utterance))
    assert [job.id for job in dispatcher.down(0, BLAME).superseded] == ["old"]
    dispatcher.up(0, 1)
    assert given(dispatcher) == [(0, 0, ["fresh"])]
    assert dispatcher.waiting == 0


def test_of_two_interims_of_dead_workers_the_newer_is_decoded_again() -> None:
    dispatcher = dispatcher_of(workers=2)
    for name in ("old", "fresh"):
        dispatcher.submit(interim(name))
        given(dispatcher)
    assert dispatcher.down(0, BLAME).superseded == []
    assert [job.id for job in dispatcher.down(1, BLAME).superseded] == ["old"]
    dispatcher.up(0, 1)
    assert given(dispatcher) == [(0, 0, ["fresh"])]


def test_an_interim_inherits_the_blame_of_the_one_it_replaces() -> None:
    dispatcher = dispatcher_of(lanes=2)
    dispatcher.submit(interim("0"))
    for number in range(2):
        assert given(dispatcher) == [(0, 0, [f"{number}"])]
        dispatcher.submit(interim(f"{number + 1}"))
        assert dispatcher.down(0, BLAME).failed == []
        dispatcher.up(0, 2)
    dispatcher.submit(job("another"))
    assert given(dispatcher) == [(0, 0, ["2"])]  # alone
    assert [failed.id for failed in dispatcher.down(0, BLAME).failed] == ["2"]


def test_an_interim_that_waits_to_run_alone_is_replaced_by_a_newer_one() -> None:
    dispatcher = dispatcher_of()
    dispatcher.submit(interim("old"))
    for _ in range(2):
        given(dispatcher)
        dispatcher.down(0, BLAME)
        dispatcher.up(0, 1)
    assert dispatcher.submit(interim("fresh")) == interim("old")
    assert given(dispatcher) == [(0, 0, ["fresh"])]
    assert [failed.id for failed in dispatcher.down(0, BLAME).failed] == ["fresh"]
    assert dispatcher.waiting == 0
