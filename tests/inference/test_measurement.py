"""What a second of audio costs, measured again."""

from __future__ import annotations

from myna.inference.workers.measurement import Measurement
from myna.streaming.session.jobs import EngineInfo, JobError, Transcript

ENGINE = EngineInfo("e", ("en",), 15.0, 100)


async def test_an_engine_that_fails_is_not_taken_for_a_fast_one() -> None:
    for outcome, cost in ((Transcript((), 0.0), 0.5), (JobError("out of memory"), 0.0)):
        measurement = Measurement(ENGINE, 1, 0.0)
        measurement.step_done(2.0, 1.0)
        measurement.on_result(measurement.jobs[0].id, outcome)
        assert measurement.cost == cost
