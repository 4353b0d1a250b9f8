from __future__ import annotations

from typing import Any

from myna.inference.scheduling.scheduler import Scheduler
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobKind


def scheduler_of(**info: Any) -> Scheduler:
    return Scheduler(EngineInfo("e", ("en",), 15.0, 100, **info))


def job(name: str, kind: JobKind = JobKind.FINAL, due: float = 0.0, source: str | None = None) -> InferenceJob:
    return InferenceJob(name, source or name, kind, b"", due)


def order(scheduler: Scheduler) -> list[str]:
    names = []
    while batch := scheduler.schedule():
        names += [j.id for j in batch]
    return names


def test_finals_precede_interims_and_interims_files_and_the_earliest_due_goes_first() -> None:
    scheduler = scheduler_of()
    for added in (
        job("file", JobKind.FILE),
        job("interim", JobKind.INTERIM),
        job("late", due=2),
        job("early", due=1),
    ):
        scheduler.add(added)
    assert order(scheduler) == ["early", "late", "interim", "file"]


def test_jobs_due_at_the_same_time_keep_their_order() -> None:
    scheduler = scheduler_of()
    for name in "cab":
        scheduler.add(job(name))
    assert order(scheduler) == ["c", "a", "b"]


def test_a_newer_interim_replaces_the_waiting_one_of_its_channel() -> None:
    scheduler = scheduler_of()
    old = job("old", JobKind.INTERIM, source="x")
    assert scheduler.add(old) is None
    scheduler.add(job("other", JobKind.INTERIM, source="y"))
    assert scheduler.add(job("new", JobKind.INTERIM, due=1, source="x")) is old
    assert order(scheduler) == ["other", "new"]


def test_a_running_interim_is_not_replaced() -> None:
    scheduler = scheduler_of()
    scheduler.add(job("old", JobKind.INTERIM, source="x"))
    scheduler.schedule()
    assert scheduler.add(job("new", JobKind.INTERIM, source="x")) is None


def test_a_cancelled_job_never_runs() -> None:
    scheduler = scheduler_of()
    scheduler.add(job("a"))
    scheduler.add(job("b"))
    assert scheduler.cancel("a")
    assert not scheduler.cancel("a")
    assert order(scheduler) == ["b"]


def test_a_batch_holds_jobs_of_one_kind_up_to_the_engines_limit() -> None:
    scheduler = scheduler_of(largest_batch=2)
    for added in (job("a"), job("b"), job("c"), job("i", JobKind.INTERIM)):
        scheduler.add(added)
    batches = []
    while batch := scheduler.schedule():
        batches.append([j.id for j in batch])
    assert batches == [["a", "b"], ["c"], ["i"]]


def test_cancelled_jobs_leave_no_memory_behind() -> None:
    scheduler = scheduler_of()
    scheduler.add(job("stays", due=-1))
    for number in range(10_000):
        scheduler.add(job(str(number)))
        scheduler.cancel(str(number))
    assert len(scheduler) == 1
    assert len(scheduler._order) < 200


def long(name: str, samples: int, kind: JobKind = JobKind.FINAL, due: float = 0.0, held: int = 0) -> InferenceJob:
    return InferenceJob(name, name, kind, bytes(2 * samples), due, utterance=1, held=held)


def batches_of(scheduler: Scheduler) -> list[list[InferenceJob]]:
    batches = []
    while batch := scheduler.schedule():
        batches.append(batch)
    return batches


def test_only_jobs_of_similar_length_share_a_batch_and_padding_stays_below_the_engines_limit() -> None:
    scheduler = scheduler_of(largest_batch=8, most_padding=0.2)
    lengths = [(37 * n) % 1000 + 10 for n in range(200)]
    for number, length in enumerate(lengths):
        scheduler.add(long(str(number), length))
    batches = batches_of(scheduler)
    for batch in batches:
        padded = len(batch) * max(job.length for job in batch)
        assert 1 - sum(job.length for job in batch) / padded <= 0.2
    assert sorted(job.length for batch in batches for job in batch) == sorted(lengths)
    assert len(batches) <= 40


def test_the_most_urgent_job_is_in_the_next_batch_whatever_its_length() -> None:
    scheduler = scheduler_of(largest_batch=4, most_padding=0.1)
    for number in range(20):
        scheduler.add(long(str(number), 100, due=1.0))
    scheduler.add(long("odd", 5000, due=0.5))
    first, second = scheduler.schedule(), scheduler.schedule()
    assert [job.id for job in first] == ["odd"]
    assert [job.id for job in second] == ["0", "1", "2", "3"]


def test_the_length_of_an_interim_counts_up_to_the_engines_window() -> None:
    scheduler = scheduler_of(largest_batch=4, most_padding=0.0, interim_window_s=0.01)
    scheduler.add(long("short", 160, JobKind.INTERIM))
    scheduler.add(long("long", 160, JobKind.INTERIM, held=160_000))
    assert len(scheduler.schedule()) == 2


def test_a_newer_interim_takes_the_place_in_the_queue_of_the_one_it_replaces() -> None:
    scheduler = scheduler_of()
    scheduler.add(job("a1", JobKind.INTERIM, due=1, source="a"))
    scheduler.add(job("b1", JobKind.INTERIM, due=2, source="b"))
    for number in (2, 3):
        replaced = scheduler.add(job(f"a{number}", JobKind.INTERIM, due=2 + number, source="a"))
        assert replaced is not None
        assert replaced.id == f"a{number - 1}"
    assert len(scheduler) == 2
    assert order(scheduler) == ["a3", "b1"]
    scheduler.add(job("a4", JobKind.INTERIM, due=9, source="a"))
    scheduler.add(job("b2", JobKind.INTERIM, due=8, source="b"))
    assert order(scheduler) == ["b2", "a4"]


def test_superseded_jobs_leave_nothing_behind() -> None:
    scheduler = scheduler_of()
    for number in range(1000):
        scheduler.add(job(f"{number}", JobKind.INTERIM, due=number, source="a"))
    assert len(scheduler) == 1
    assert len(scheduler._order) < 100
    assert order(scheduler) == ["999"]
    assert not scheduler._ranks
