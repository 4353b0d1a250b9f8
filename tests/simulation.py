"""Many streams in virtual time: real sessions, dispatcher and capacity, and engines that only take simulated time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from drive import amplitude_voice

from myna.inference.engines.fake.engine import FakeEngine, silence, spoken
from myna.inference.engines.port import Engine
from myna.inference.scheduling.capacity import Capacity
from myna.inference.scheduling.claims import Claim
from myna.inference.scheduling.dispatcher import BLAME, KILLED_BLAME, Assignment, Dispatcher
from myna.streaming.events import SAMPLE_RATE, Cause, Ended, Event, Failed, Final, Interim, seconds
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import InferenceJob, JobError, JobKind, Outcome
from myna.streaming.session.requests import Cancel, Detect, ReleaseUtterance, Submit
from myna.streaming.session.session import Session

FRAME_S = 0.2
Cost = Callable[[Assignment], float]


def per_second(cost: float) -> Cost:
    """Return the cost of a step in proportion to its audio: `cost` seconds per second."""
    return lambda assignment: cost * sum(seconds(job.length) for job in assignment.jobs)


@dataclass
class Speaker:
    """One stream: `codes` are its spoken words, `events` its events with the times at which they arrived."""

    name: str
    session: Session
    audio: np.ndarray
    codes: list[int]
    began: float
    owner: str = "anybody"
    claim: Claim | None = None
    events: list[tuple[float, Event]] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        return [word.text for _, event in self.events if isinstance(event, Final) for word in event.words]

    @property
    def said(self) -> list[str]:
        return [f"w{code}" for code in self.codes]

    @property
    def final_delays(self) -> list[float]:
        """The delay of each final at an endpoint, from the end of its span."""
        return [
            at - self.began - seconds(event.span.end)
            for at, event in self.events
            if isinstance(event, Final) and event.cause is Cause.ENDPOINT and event.words
        ]

    @property
    def interims(self) -> int:
        return sum(isinstance(event, Interim) for _, event in self.events)

    @property
    def failures(self) -> int:
        return sum(isinstance(event, Failed) for _, event in self.events)

    @property
    def over(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1][1], Ended)


class Simulation:
    def __init__(
        self,
        cost: Cost,
        *,
        workers: int = 1,
        lanes: int = 2,
        engine: Engine | None = None,
        seed: int = 0,
        silence_costs: float = 0.0,
    ) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.engine = engine or FakeEngine()
        self.dispatcher = Dispatcher(self.engine.info)
        self.capacity = Capacity(workers * lanes, silence_costs)
        self.speakers: list[Speaker] = []
        self.files: list[Speaker] = []
        self.restart_s = 1.0
        self.deaths = 0
        self.poison: set[int] = set()
        """Words that crash a worker."""
        self.on_assignment: Callable[[Assignment], None] = lambda _: None
        self.on_result: Callable[[InferenceJob], None] = lambda _: None
        self.slowness = 1.0
        """The factor by which every step takes longer, as if other programs used the cores."""
        self._cost = cost
        self._silence_costs = silence_costs
        self._lanes = lanes
        self._lives = dict.fromkeys(range(workers), 0)
        self._alive = set(range(workers))
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._owners: dict[str, Speaker] = {}
        self._asked: dict[str, float] = {}
        for worker in range(workers):
            self.dispatcher.up(worker, lanes)

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def run(self, until: float = float("inf")) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def admits(self, target_s: float, owner: str = "anybody") -> bool:
        """Return whether another stream would be admitted now, by the rule of myna/server/operations/admission.py."""
        if self._keeps(target_s, owner):
            return True
        if self.capacity.p95(self.now) is None:
            self.capacity.measured(self.now, self.slowness * self._silence_costs)
        return self._keeps(target_s, owner)

    def open_silently(self, owner: str = "anybody") -> Claim:
        """Begin a stream now that never sends audio."""
        return self.capacity.claims.join(f"silent{next(self._order)}", owner, 1, self.now)

    def speak(
        self,
        began: float,
        phrases: list[list[int]],
        pause_s: float = 0.7,
        policy: Policy | None = None,
        owner: str = "anybody",
    ) -> Speaker:
        """Begin a stream at this time, with phrases of these words and pauses between them."""
        speaker = self._speaker(began, phrases, pause_s, policy or Policy())
        speaker.owner = owner
        self.speakers.append(speaker)
        if began <= self.now:
            self._join(speaker)
        else:
            self.at(began, lambda: self._join(speaker))
        size = round(FRAME_S * SAMPLE_RATE)
        for number, start in enumerate(range(0, len(speaker.audio), size), start=1):
            part = speaker.audio[start : start + size]
            self.at(began + number * FRAME_S, lambda part=part: self._push(speaker, part))
        self.at(began + len(speaker.audio) / SAMPLE_RATE + FRAME_S, lambda: self._end(speaker))
        return speaker

    def send_file(self, when: float, phrases: list[list[int]]) -> Speaker:
        """Submit a whole file at once."""
        policy = Policy(live=False, endpoint_ms=None, interim_every_s=None)
        speaker = self._speaker(when, phrases, 0.7, policy)
        self.files.append(speaker)
        self.at(when, lambda: (self._push(speaker, speaker.audio), self._end(speaker)))
        return speaker

    def kill(self, worker: int, blame: float = KILLED_BLAME) -> None:
        """Crash a worker now, and start another one `restart_s` later."""
        if worker not in self._alive:
            return
        self.deaths += 1
        self._alive.remove(worker)
        self._lives[worker] += 1
        death = self.dispatcher.down(worker, blame)
        for job in death.superseded:
            del self._owners[job.id]
        for job in death.failed:
            self._deliver(job, JobError("it kills"))
        self.at(self.now + self.restart_s, lambda: self._restart(worker))
        self._assign()

    def final_delays(self, after: float = 0.0) -> list[float]:
        return sorted(d for speaker in self.speakers if speaker.began >= after for d in speaker.final_delays)

    def _keeps(self, target_s: float, owner: str) -> bool:
        alone = self.capacity.claims.weight(self.now, owner) < 1
        return alone or self.capacity.predicted_p95(self.now, 1, owner) <= target_s

    def _speaker(self, began: float, phrases: list[list[int]], pause_s: float, policy: Policy) -> Speaker:
        name = f"s{len(self.speakers) + len(self.files)}"
        parts = [part for phrase in phrases for part in (*map(spoken, phrase), silence(pause_s))]
        codes = [code for phrase in phrases for code in phrase]
        session = Session(f"{name}/0", policy, Options(), self.engine.info)
        return Speaker(name, session, np.concatenate([silence(0.2), *parts]), codes, began)

    def _push(self, speaker: Speaker, part: np.ndarray) -> None:
        if speaker.claim is not None:
            self.capacity.heard(self.now, speaker.claim, len(part) / SAMPLE_RATE)
        speaker.session.push(part.tobytes(), self.now)
        self._pump(speaker)

    def _end(self, speaker: Speaker) -> None:
        speaker.session.end()
        self._pump(speaker)
        if speaker.claim is not None:
            self.capacity.claims.leave(speaker.claim)

    def _join(self, speaker: Speaker) -> None:
        speaker.claim = self.capacity.claims.join(speaker.name, speaker.owner, 1, self.now)

    def _pump(self, speaker: Speaker) -> None:
        while True:
            requests, events = speaker.session.take()
            speaker.events += [(self.now, event) for event in events]
            if not requests:
                return self._assign()
            for request in requests:
                match request:
                    case Detect(channel, start, pcm):
                        speaker.session.on_vad(start, amplitude_voice(channel, pcm))
                    case Submit(job):
                        self.capacity.claims.asked(job.source, self.now)
                        self._owners[job.id] = speaker
                        self._asked[job.id] = self.now
                        if replaced := self.dispatcher.submit(job):
                            del self._owners[replaced.id]
                    case Cancel(job_id):
                        self._owners.pop(job_id, None)
                        self.dispatcher.cancel(job_id)
                    case ReleaseUtterance(source):
                        self.dispatcher.release(source)

    def _assign(self) -> None:
        for assignment in self.dispatcher.assign():
            life = self._lives[assignment.worker]
            took_s = self.slowness * self._cost(assignment)
            self.at(self.now + took_s, lambda a=assignment, n=life, s=took_s: self._finish(a, n, s))
            self.on_assignment(assignment)

    def _finish(self, assignment: Assignment, life: int, took_s: float) -> None:
        if self._lives[assignment.worker] != life:
            return  # the worker has crashed since
        if any(self._kills(job) for job in assignment.jobs):
            self.kill(assignment.worker, BLAME)
            return
        audio_s = sum(seconds(job.length) for job in assignment.jobs)
        ahead_s = min(job.due for job in assignment.jobs) - self.now
        self.capacity.step_done(self.now, assignment.jobs[0].kind, audio_s, took_s, ahead_s)
        for job, outcome in zip(assignment.jobs, self.engine.transcribe(assignment.jobs), strict=True):
            self.dispatcher.done(assignment.worker, job.id)
            if job.kind is JobKind.FINAL and job.id in self._owners:
                self.capacity.final_out(self.now, self.now - job.due, job.due - self._asked.pop(job.id, job.due))
            self._deliver(job, outcome)
            self.on_result(job)
        self._assign()

    def _kills(self, job: InferenceJob) -> bool:
        return any(bytes(spoken(code)[:100]) in job.pcm for code in self.poison)

    def _deliver(self, job: InferenceJob, outcome: Outcome) -> None:
        if speaker := self._owners.pop(job.id, None):
            speaker.session.on_result(job.id, outcome)
            self._pump(speaker)

    def _restart(self, worker: int) -> None:
        self._alive.add(worker)
        self.dispatcher.up(worker, self._lanes)
        self._assign()


def phrases(random: random.Random, count: int) -> list[list[int]]:
    """Return `count` phrases of 3 to 20 words (1 to 6 s), numbered so that neighbouring words differ."""
    codes = itertools.count(random.randrange(1000))
    return [[next(codes) % 1400 for _ in range(random.randint(3, 20))] for _ in range(count)]


def p95(values: list[float]) -> float:
    return float(np.quantile(values, 0.95)) if values else 0.0


def assert_nothing_lost(simulation: Simulation) -> None:
    for speaker in [*simulation.speakers, *simulation.files]:
        assert speaker.words == speaker.said
        assert speaker.over
    assert simulation.dispatcher.waiting == 0
    assert simulation.dispatcher.under_way == 0
