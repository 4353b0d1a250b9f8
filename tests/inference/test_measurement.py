"""Measurements of a model's cost."""

from __future__ import annotations

from myna.inference.workers.measurement import Measurement
from myna.streaming.session.jobs import EngineInfo, JobError, Transcript

ENGINE = EngineInfo("e", ("en",), 15.0, 100)


async def test_a_failed_measurement_gives_no_cost() -> None:
    for outcome, cost in ((Transcript((), 0.0), 0.5), (JobError("out of memory"), 0.0)):
        measurement = Measurement(ENGINE, 1, 0.0)
        measurement.step_done(2.0, 1.0)
        measurement.on_result(measurement.jobs[0].id, outcome)
        assert measurement.cost == cost
