"""What is done with a file once it is on the disk, for requests and for jobs: fetched, transcribed in turn, answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from myna.batch.address_gate import AddressGate
from myna.batch.callback import Callback
from myna.batch.fairness import FairTurns
from myna.batch.fetch import Fetched, FetchError, FetchLimits, fetch
from myna.batch.job_store import Job
from myna.batch.json_pieces import json_pieces
from myna.batch.transcriber import DecodeFailedError, Listener, SoundFile, Transcriber
from myna.batch.transcript import FileTranscript
from myna.inference.engines.catalogue import Model
from myna.inference.models import Models
from myna.media.source import DecoderLostError
from myna.runtime.errors import Refusal
from myna.server.dialects.deepgram import rest as deepgram_rest
from myna.server.dialects.deepgram.live import DeepgramEntry
from myna.server.http.answers import Answers
from myna.server.http.intake import RETRY_S, Intake
from myna.server.keys import name_of
from myna.server.serving import ModelWanted, engine_for
from myna.server.settings import Settings
from myna.streaming.audio.raw import AudioError, Coded, RawFormat
from myna.streaming.policy import Options
from myna.streaming.session.jobs import EngineInfo

log = structlog.get_logger()

FETCH_WITHIN_S = 600.0
"""A file at an address must be here within this; it is Deepgram's own limit for a whole request."""
OptionsOf = Callable[[EngineInfo], Options]


@dataclass(frozen=True, slots=True)
class Done:
    """A transcript, and what made it."""

    transcript: FileTranscript
    model: Model
    engine: EngineInfo


class FileWork:
    """One server's. Every method raises `Refusal`."""

    def __init__(
        self, settings: Settings, models: Models, transcriber: Transcriber, gate: AddressGate, intake: Intake
    ) -> None:
        self._settings = settings
        self._models = models
        self._transcriber = transcriber
        self._gate = gate
        self._intake = intake
        self._turns = FairTurns(settings.files_at_once)
        self.answers = Answers()

    async def fetch_job(self, job: Job, path: Path) -> Job:
        """Fetch the audio of a request that was accepted before. Raises `Refusal`."""
        with self._intake.stored(job.share) as grow:
            fetched = await self.fetched(job.url or "", path, grow, job.share)
        return replace(job, sha256=fetched.sha256, size=fetched.size)

    async def run_job(
        self, job: Job, path: Path, listener: Listener, begin: Callable[[], Awaitable[None]]
    ) -> Callable[[], Iterable[bytes]]:
        """Return what makes the answer to a request that was accepted before. Raises `Refusal`."""
        asked = self.deepgram_request(job.query)
        done = await self.transcribe(
            path,
            asked.model,
            asked.options,
            asked.audio,
            mix=not asked.multichannel,
            share=job.share,
            listener=listener,
            begin=begin,
        )
        return deepgram_answer(done, asked, job.id, job.sha256 or "")

    def callback_of(self, job: Job) -> Callback | None:
        """Return where the job's result goes."""
        callback = deepgram_rest.parse(job.query).callback
        return callback and replace(callback, key_name=name_of(job.owner))

    def refused(self, job: Job, refusal: Refusal) -> Mapping[str, object]:
        """Return the answer of a job that cannot be carried out, in Deepgram's words."""
        return DeepgramEntry.shape(refusal, job.id).body

    def deepgram_request(self, query: Collection[tuple[str, str]]) -> deepgram_rest.FileRequest:
        """Return what a query in Deepgram's words asks for. Raises `Refusal`."""
        return deepgram_rest.parse(query, refuse_speakers=self._settings.without_diarizer == "refuse")

    async def fetched(self, url: str, path: Path, grow: Callable[[int], None], share: str) -> Fetched:
        """Fetch the file at an address to `path` for this share; `grow` is told of bytes before they are stored."""
        limits = FetchLimits(self._settings.max_upload_mb << 20, FETCH_WITHIN_S, self._intake.least_free, grow, share)
        try:
            return await fetch(url, path, self._gate, limits)
        except FetchError as error:
            status = 404 if error.status == 404 else 400
            raise Refusal(status, "remote_content", f"The file at the address cannot be had: {error}.") from error

    async def transcribe(
        self,
        path: Path,
        wanted: ModelWanted,
        options_of: OptionsOf,
        audio: RawFormat | Coded,
        *,
        mix: bool,
        share: str,
        listener: Listener = lambda _: None,
        begin: Callable[[], Awaitable[None]] | None = None,
    ) -> Done:
        """Return what the file says, in the turn of whose share it takes; `begin` is awaited when that has come."""
        sound = SoundFile(path, audio, mix, self._settings.max_file_hours * 3600)
        try:
            async with engine_for(self._models, wanted, unknown="model_not_found") as (model, engine):
                options = options_of(engine.info)
                async with self._turns.turn(share) as pause:
                    if begin is not None:
                        await begin()
                    transcript = await self._transcriber.transcribe(sound, engine, options, listener, pause)
                return Done(transcript, model, engine.info)
        except AudioError as error:
            raise Refusal(400, "bad_audio", f"failed to process audio: {error}", param="file") from error
        except DecoderLostError as error:
            log.error("a file has lost its decoder", reason=str(error))
            message = "The process that decodes this audio has ended, or cannot be started."
            raise Refusal(503, "decoder_lost", message, retry_after_s=RETRY_S) from error
        except DecodeFailedError as error:
            log.error("a file could not be decoded", reason=str(error))
            raise Refusal(500, "decode_failed", "The model failed on this file.") from error


def deepgram_answer(
    done: Done, asked: deepgram_rest.FileRequest, request_id: str, sha256: str
) -> Callable[[], Iterable[bytes]]:
    """Return what makes Deepgram's answer in pieces."""
    return lambda: json_pieces(
        deepgram_rest.answer(done.transcript, asked, done.model, done.engine, request_id, sha256)
    )
