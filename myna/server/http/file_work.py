"""Fetches and transcribes files, for requests and for jobs; files of different clients take turns."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog
from aiohttp import web

from myna.batch.address_gate import AddressGate
from myna.batch.diarization import Diarization, diarize
from myna.batch.fairness import FairTurns
from myna.batch.fetch import Fetched, FetchError, FetchLimits, fetch
from myna.batch.known_voices import ClipError, voices_of
from myna.batch.padding import StoreError, pad, store
from myna.batch.transcriber import DecodeFailedError, Listener, Progress, SoundFile, Transcriber
from myna.batch.transcript import FileTranscript
from myna.inference.engines.kind import Model
from myna.inference.port import ModelPool, ModelSource
from myna.media.source import DecoderLostError
from myna.runtime.errors import Refusal
from myna.server.http.answers import Answers
from myna.server.http.intake import RETRY_S, Intake
from myna.server.serving import NO_DIARIZER, ModelWanted, diarizer_of, engine_for
from myna.server.settings import Settings
from myna.streaming.audio.raw import AudioError, Coded, RawFormat
from myna.streaming.policy import Options
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.speakers.labelling import SpeakerLimits

log = structlog.get_logger()

FETCH_WITHIN_S = 600.0
"""Seconds a fetch may take; the same as the limit that vendors set for a whole request."""
OptionsOf = Callable[[EngineInfo], Options]


@dataclass(frozen=True, slots=True)
class Done:
    """A transcript, and the model that made it."""

    transcript: FileTranscript
    model: Model
    engine: EngineInfo


class ClipRefusal(Refusal):
    """A clip of a known voice cannot be used. `number` counts clips from 0; `reason` is for the dialect's own message."""

    def __init__(self, error: ClipError) -> None:
        self.number, self.reason = error.number, str(error)
        super().__init__(400, "bad_clip", f"Clip {self.number + 1}: {self.reason}.")


class FileWork:
    """Fetches and transcribes the files of one server. Every method raises `Refusal`."""

    def __init__(
        self, settings: Settings, models: ModelSource, transcriber: Transcriber, gate: AddressGate, intake: Intake
    ) -> None:
        self._settings = settings
        self._models = models
        self._transcriber = transcriber
        self._gate = gate
        self._intake = intake
        self._turns = FairTurns(settings.files_at_once)
        self.answers = Answers()

    def add_to(self, app: web.Application) -> None:
        """Stop when the application does."""
        app.on_cleanup.append(self._close)

    async def _close(self, _app: web.Application) -> None:
        self.answers.close()

    async def fetched(self, url: str, path: Path, grow: Callable[[int], None], share: str) -> Fetched:
        """Fetch the file at an address to `path` for this share; call `grow` before bytes are stored."""
        limits = FetchLimits(self._settings.max_upload_mb << 20, FETCH_WITHIN_S, self._intake.least_free, grow, share)
        try:
            return await fetch(url, path, self._gate, limits)
        except FetchError as error:
            status = 404 if error.status == 404 else 400
            raise Refusal(status, "remote_content", f"The file at this address cannot be fetched: {error}.") from error

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
        progress: Progress = lambda _: None,
        begin: Callable[[], Awaitable[None]] | None = None,
        speakers: SpeakerLimits | None = None,
        needs_speakers: bool = False,
        clips: Sequence[Path] = (),
        accepted: Callable[[EngineInfo], None] = lambda _: None,
    ) -> Done:
        """Return the file's transcript when its share's turn comes; `begin` is awaited at the start of that turn.

        With `speakers`, each word has its speaker. Without a model that tells them apart, the words have none unless
        `needs_speakers`, or the setting `without_diarizer`, refuses such a request. Speakers whose voices are in `clips` are
        known in the transcript; a refusal for a clip is a `ClipRefusal`. `accepted` is called with the engine when nothing
        but the file can be the reason for a refusal.
        """
        sound = SoundFile(path, audio, mix, self._settings.max_file_hours * 3600, speakers)
        with _refusals():
            async with contextlib.AsyncExitStack() as stack:
                model, engine = await stack.enter_async_context(
                    engine_for(self._models, wanted, unknown="model_not_found", serves="batch")
                )
                options = options_of(engine.info)
                diarizer = await self._diarizer(stack, needed=needs_speakers) if speakers else None
                if diarizer and clips:
                    sound = replace(sound, known=await self._known(diarizer, clips))
                accepted(engine.info)
                async with self._turns.turn(share) as pause:
                    if begin is not None:
                        await begin()
                    transcript = await self._transcriber.transcribe(
                        sound, engine, options, listener, progress, pause, diarizer
                    )
                return Done(transcript, model, engine.info)

    async def diarize(self, path: Path, limits: SpeakerLimits | None, *, share: str) -> Diarization:
        """Return who spoke when in a file, when its share's turn comes."""
        sound = SoundFile(path, Coded(), mix=True, longest_s=self._settings.max_file_hours * 3600, speakers=limits)
        with _refusals():
            async with diarizer_of(self._models) as diarizer, self._turns.turn(share) as pause:
                return await diarize(self._transcriber.decoders, sound, diarizer, pause)

    async def pad(
        self, path: Path, pad_ms: int, made: Path, url: str, *, grow: Callable[[int], None], share: str
    ) -> int:
        """Put silence before the sound of a file, write that to `made`, and store it at an address; return its bytes."""
        with _refusals():
            async with self._turns.turn(share):
                size = await pad(self._transcriber.decoders, path, pad_ms, made, grow, self._intake.least_free)
        try:
            await store(url, made, size, self._gate, share)
        except StoreError as error:
            raise Refusal(502, "not_stored", f"The file cannot be stored at this address: {error}.") from error
        return size

    async def _known(self, diarizer: ModelPool, clips: Sequence[Path]) -> tuple[np.ndarray, ...]:
        try:
            return await voices_of(self._transcriber.decoders, diarizer, clips)
        except ClipError as error:
            raise ClipRefusal(error) from error

    async def _diarizer(self, stack: contextlib.AsyncExitStack, *, needed: bool) -> ModelPool | None:
        try:
            return await stack.enter_async_context(diarizer_of(self._models))
        except Refusal as refusal:
            if refusal.code != NO_DIARIZER or needed or self._settings.without_diarizer == "refuse":
                raise
            return None


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn the errors of a file's work into refusals."""
    try:
        yield
    except AudioError as error:
        raise Refusal(400, "bad_audio", f"failed to process audio: {error}", param="file") from error
    except DecoderLostError as error:
        log.error("the process that decodes a file ended", reason=str(error))
        message = "The process that decodes this audio ended or cannot be started."
        raise Refusal(503, "decoder_lost", message, retry_after_s=RETRY_S) from error
    except DecodeFailedError as error:
        log.error("a file could not be decoded", reason=str(error))
        raise Refusal(500, "decode_failed", "The model failed on this file.") from error
