"""Requests that are answered at a callback: how the job runner carries them out, and `GET /v1/jobs/{id}`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from myna.batch.callback import Callback
from myna.batch.job import Job
from myna.batch.job_runner import JobRunner
from myna.batch.json_pieces import json_pieces
from myna.batch.transcriber import Progress
from myna.runtime.errors import Refusal
from myna.server.dialects.deepgram import rest
from myna.server.dialects.deepgram.errors import deepgram_response, error_body
from myna.server.http.answers import Answer
from myna.server.http.file_requests import FileRequests
from myna.server.http.file_work import Done, FileWork
from myna.server.http.intake import Intake
from myna.server.keys import name_of


@with_config(ConfigDict(title="Job"))
class JobAnswer(TypedDict):
    """How far a job is. `result` is the transcript, or the error in Deepgram's format, once there is one.

    `heard_seconds` is how much of the file has been heard for words and, if they are wanted, for speakers.
    """

    id: str
    status: Literal["queued", "running", "delivering", "delivered", "undelivered", "failed"]
    created: float
    finished: float | None
    heard_seconds: float
    deliveries: int
    error: str | None
    result: dict[str, Any] | None


class DeepgramJobs:
    """Carries out the jobs of one server for its `JobRunner`."""

    def __init__(self, work: FileWork, intake: Intake) -> None:
        self._work = work
        self._intake = intake

    async def fetch_job(self, job: Job, path: Path) -> Job:
        """Fetch the job's audio; return the job with its hash and size. Raises `Refusal`."""
        with self._intake.stored(job.share) as grow:
            fetched = await self._work.fetched(job.url or "", path, grow, job.share)
        return replace(job, sha256=fetched.sha256, size=fetched.size)

    async def run_job(
        self, job: Job, path: Path, progress: Progress, begin: Callable[[], Awaitable[None]]
    ) -> Callable[[], Iterable[bytes]]:
        """Transcribe the job's audio; return what makes its answer in pieces. Raises `Refusal`."""
        asked = rest.parse(job.query)
        done = await self._work.transcribe(
            path,
            asked.model,
            asked.options,
            asked.audio,
            mix=not asked.multichannel,
            share=job.share,
            progress=progress,
            begin=begin,
            speakers=asked.speakers,
        )
        return partial(answer_pieces, done, asked, job.id, job.sha256 or "")

    def callback_of(self, job: Job) -> Callback | None:
        """Return where the job's result goes."""
        callback = rest.parse(job.query).callback
        return callback and replace(callback, key_name=name_of(job.owner))

    def refused(self, job: Job, refusal: Refusal) -> Mapping[str, object]:
        """Return the answer of a job that failed."""
        return error_body(refusal, job.id)


class JobStatus:
    """Answers how far a job is."""

    def __init__(self, requests: FileRequests, jobs: JobRunner) -> None:
        self._requests = requests
        self._jobs = jobs

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_get("/v1/jobs/{id}", self.job)

    async def job(self, request: web.Request) -> web.StreamResponse:
        """Return how far a job is, and its result if there is one."""
        return await self._requests.answered(self._job(request), lambda refusal: deepgram_response(refusal, request))

    async def _job(self, request: web.Request) -> web.StreamResponse:
        identity = self._requests.identify(request)
        found = await self._jobs.get(request.match_info["id"])
        if found is None or found[0].owner != identity.id:
            raise Refusal(404, "job_not_found", "No such job. Results are deleted after seven days.")
        job, heard_s, result = found
        described = {
            "id": job.id,
            "status": job.state.value,
            "created": job.created,
            "finished": job.finished,
            "heard_seconds": round(heard_s, 3),
            "deliveries": job.deliveries,
            "error": job.error,
        }
        start = json.dumps(described)[:-1] + ', "result": '
        if not job.finished or not result.exists():
            return web.Response(text=start + "null}", content_type="application/json")
        return await Answer("application/json", start.encode(), result, b"}").send(request)


def answer_pieces(done: Done, asked: rest.FileRequest, request_id: str, sha256: str) -> Iterable[bytes]:
    """Yield the answer to a request in pieces."""
    return json_pieces(rest.answer(done.transcript, asked, done.model, done.engine, request_id, sha256))
