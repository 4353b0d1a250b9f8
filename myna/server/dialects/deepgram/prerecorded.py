"""Handles `POST /v1/listen`: a file, or the address of one, transcribed at once or accepted as a job."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from aiohttp import web

from myna.batch.address_gate import AddressGate
from myna.batch.disk import check_free, private_folder
from myna.batch.job_runner import JobRunner
from myna.runtime.errors import Refusal
from myna.server.dialects.deepgram import rest
from myna.server.dialects.deepgram.errors import deepgram_response
from myna.server.dialects.deepgram.jobs import answer_pieces
from myna.server.http.answers import Answer
from myna.server.http.file_requests import LONGEST_JSON, Admitted, FileRequests, temporary_folder, unless_gone
from myna.server.http.file_work import FileWork
from myna.server.http.intake import Intake
from myna.server.http.json_answer import json_answer
from myna.server.http.json_body import json_object
from myna.server.http.request_id import REQUEST_ID


class Prerecorded:
    """The handler of one server."""

    def __init__(
        self,
        requests: FileRequests,
        work: FileWork,
        jobs: JobRunner,
        gate: AddressGate,
        intake: Intake,
    ) -> None:
        self._requests = requests
        self._work = work
        self._jobs = jobs
        self._gate = gate
        self._intake = intake

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_post("/v1/listen", self.listen)

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """Transcribe the body, or the file at an address."""
        return await self._requests.answered(self._listen(request), lambda refusal: deepgram_response(refusal, request))

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        async with self._requests.admit(request) as admitted:
            query = tuple(request.query.items())
            asked = rest.parse(query)
            if asked.callback is not None:
                return await self._accept(request, query, asked.callback.url, admitted)
            async with temporary_folder() as folder:
                receiver = self._requests.receiver(request, folder, admitted)
                if request.content_type == "application/json":
                    url = _url_in(await receiver.text(LONGEST_JSON))
                    work = self._transcribe_address(asked, url, folder, admitted, request[REQUEST_ID])
                else:
                    upload = await receiver.body()
                    work = self._transcribe_file(
                        asked, upload.path, upload.sha256, folder, admitted.share, request[REQUEST_ID]
                    )
                return await (await unless_gone(request, work)).send(request)

    async def _accept(
        self, request: web.Request, query: tuple[tuple[str, str], ...], callback: str, admitted: Admitted
    ) -> web.Response:
        """Keep a request whose result goes to its callback."""
        try:
            self._gate.check(callback)
        except ValueError as error:
            raise Refusal(400, "bad_callback", f"callback: {error}.") from error
        self._intake.check_job(admitted.share)
        await asyncio.to_thread(self._check_room_for_job)
        job_id = request[REQUEST_ID]
        async with temporary_folder(self._jobs.folder) as folder:
            receiver = self._requests.receiver(request, folder, admitted)
            url, upload = None, None
            if request.content_type == "application/json":
                url = _url_in(await receiver.text(LONGEST_JSON))
            else:
                upload = await receiver.body(sync=True)
            self._intake.check_job(admitted.share)  # other jobs may have been accepted meanwhile
            await self._jobs.accept(job_id, admitted.identity.id, admitted.share, query, url, upload)
        return json_answer({"request_id": job_id})

    def _check_room_for_job(self) -> None:
        check_free(private_folder(self._jobs.folder), self._intake.least_free)

    async def _transcribe_address(
        self, asked: rest.FileRequest, url: str, folder: Path, admitted: Admitted, request_id: str
    ) -> Answer:
        fetched = await self._work.fetched(url, folder / "fetched", admitted.grow, admitted.share)
        return await self._transcribe_file(asked, fetched.path, fetched.sha256, folder, admitted.share, request_id)

    async def _transcribe_file(
        self, asked: rest.FileRequest, path: Path, sha256: str, folder: Path, share: str, request_id: str
    ) -> Answer:
        done = await self._work.transcribe(
            path,
            asked.model,
            asked.options,
            asked.audio,
            mix=not asked.multichannel,
            share=share,
            speakers=asked.speakers,
        )
        return await self._work.answers.made(partial(answer_pieces, done, asked, request_id, sha256), folder)


def _url_in(text: str) -> str:
    """Return the address that a JSON body names. Raises `Refusal`."""
    url = json_object(text).get("url")
    if not isinstance(url, str) or not url:
        raise Refusal(400, "bad_request", 'The JSON payload must be {"url": "https://…"}.')
    return url
