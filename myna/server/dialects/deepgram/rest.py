"""Deepgram's pre-recorded API: parses a query into a request, writes a transcript as its response."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from myna.batch.callback import Callback
from myna.batch.transcript import UTTERANCE_GAP_S, Channel, FileTranscript, paragraphs, speaker_of, utterances
from myna.inference.engines.kind import Model
from myna.server.dialects.deepgram.listen_request import (
    UNSERVED,
    audio_of,
    callback_of,
    diarizer_of,
    formatting_of,
    keyterms_of,
    options_of,
    searches_of,
    speakers_of,
)
from myna.server.dialects.deepgram.models import PUBLIC_MODELS, model_metadata, models_used
from myna.server.dialects.deepgram.results import confidence_of, now, search_results, word_of
from myna.server.dialects.parameters import Parameters, decimal, refused
from myna.server.dialects.spoken_formatting import spoken
from myna.server.serving import ModelWanted
from myna.streaming.audio.raw import Coded, RawFormat
from myna.streaming.events import SpokenLanguage, Word
from myna.streaming.policy import MULTIPLE, Options
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.speakers.labelling import SpeakerLimits
from myna.streaming.text.formatting import Formatting, formatted, text_of
from myna.streaming.text.joining import joined
from myna.streaming.text.languages import languages_of, main_language
from myna.wire.quoting import quoted

_TEXT_MODELS = ("summarize", "topics", "intents", "sentiment")


@dataclass(frozen=True, slots=True)
class FileRequest:
    """What a client asks for."""

    model: ModelWanted
    language: str | None
    detect_language: bool
    detectable: tuple[str, ...]
    """The languages among which to detect; empty: all."""
    audio: RawFormat | Coded
    multichannel: bool
    formatting: Formatting
    paragraphs: bool
    utterances: bool
    utterance_gap_s: float
    search: tuple[str, ...]
    keyterms: tuple[str, ...]
    tags: tuple[str, ...]
    callback: Callback | None
    diarizer: str | None
    """The version of the diarizer that the client asks for; None: it wants no speakers."""
    speakers: SpeakerLimits | None
    """How many speakers to tell apart; None: none."""

    def options(self, engine: EngineInfo) -> Options:
        """Return the engine's options. Raises `Refusal` for options that the engine lacks."""
        if self.detect_language and len(engine.languages) != 1 and not engine.detects_language:
            raise refused(
                f"detect_language is not supported: {engine.name} does not report which of its languages was spoken.",
                "unsupported_feature",
            )
        spoken(self.formatting, self.named_language, engine)  # raises if the request's redactions are not possible
        return options_of(engine, self.named_language, self.detectable, self.keyterms)

    @property
    def named_language(self) -> str | None:
        """The language that the engine need not find."""
        return None if self.detect_language else self.language


def parse(query: Collection[tuple[str, str]]) -> FileRequest:
    """Parse the parameters. Raises `Refusal`."""
    given = Parameters(query)
    for name, reason in UNSERVED.items():
        if given.flag(name):
            raise refused(f"{name} is not supported: {reason}.", "unsupported_feature")
    for name in _TEXT_MODELS:
        if (given.text(name) or "false").lower() not in ("false", "0"):
            raise refused(
                f"{name} is not supported: this server has no model that analyses text.", "unsupported_feature"
            )
    language = given.text("language")
    formatting = formatting_of(given, language)
    diarizer = diarizer_of(given)
    detect = any(value.lower() not in ("false", "0") for value in given.texts("detect_language"))
    return FileRequest(
        model=ModelWanted.of(given.text("model"), PUBLIC_MODELS, None if detect else language),
        language=language,
        detect_language=detect,
        detectable=tuple(v for v in given.texts("detect_language") if v.lower() not in ("true", "false", "1", "0")),
        audio=audio_of(given),
        multichannel=given.flag("multichannel"),
        formatting=replace(formatting, measurements=given.flag("measurements")),
        paragraphs=given.flag("paragraphs") or formatting.smart,
        utterances=given.flag("utterances"),
        utterance_gap_s=_seconds(given, "utt_split", UTTERANCE_GAP_S),
        search=searches_of(given),
        keyterms=keyterms_of(given),
        tags=given.texts("tag"),
        callback=callback_of(given),
        diarizer=diarizer,
        speakers=speakers_of(given, diarizer),
    )


def answer(
    transcript: FileTranscript, request: FileRequest, model: Model, engine: EngineInfo, request_id: str, sha256: str
) -> dict[str, Any]:
    """Return the response's body. Iterators in it are written as lists."""
    formatting = spoken(request.formatting, request.named_language, engine)
    punctuated = formatting.punctuated
    channels = transcript.written(lambda words: formatted(words, formatting)).channels
    metadata: dict[str, Any] = {
        "transaction_key": "deprecated",
        "request_id": request_id,
        "sha256": sha256,
        "created": now(),
        "duration": round(transcript.duration_s, 3),
        "channels": len(channels),
        **models_used(model_metadata(model, engine)),
    }
    if request.diarizer and transcript.diarizer:
        arch = "v2" if request.diarizer == "latest" else request.diarizer
        metadata["diarize_info"] = {"model_uuid": transcript.diarizer, "arch": arch}
    if request.tags:
        metadata["tags"] = list(request.tags)
    results: dict[str, Any] = {
        "channels": [_channel(channel, request, engine, punctuated=punctuated) for channel in channels]
    }
    if request.utterances:
        said = [
            (number, words)
            for number, channel in enumerate(channels)
            for words in utterances(channel.words, request.utterance_gap_s)
        ]
        said.sort(key=lambda utterance: round(utterance[1][0].start, 3))
        results["utterances"] = (_utterance(number, words, punctuated=punctuated) for number, words in said)
    return {"metadata": metadata, "results": results}


def _channel(channel: Channel, request: FileRequest, engine: EngineInfo, *, punctuated: bool) -> dict[str, Any]:
    words, changing = channel.words, request.language == MULTIPLE and not request.detect_language
    alternative: dict[str, Any] = {
        "transcript": text_of(words, punctuated=punctuated),
        "confidence": confidence_of(words),
        "words": (word_of(word, punctuated=punctuated, with_language=changing) for word in words),
    }
    if changing and (found := languages_of(words)):
        alternative["languages"] = found
    if request.paragraphs:
        alternative["paragraphs"] = _paragraphs(words, punctuated=punctuated)
    described: dict[str, Any] = {"alternatives": [alternative]}
    if request.search:
        described["search"] = search_results(words, request.search)
    if request.detect_language:
        only = SpokenLanguage(engine.languages[0], 1.0) if len(engine.languages) == 1 else None
        if detected := only or main_language(words):  # a file without words has no language
            described["detected_language"] = detected.code
            described["language_confidence"] = round(detected.probability, 4)
    return described


def _paragraphs(words: Sequence[Word], *, punctuated: bool) -> dict[str, Any]:
    found, texts = [], []
    for paragraph in paragraphs(words):
        sentences = [
            {"text": text_of(s, punctuated=punctuated), "start": round(s[0].start, 3), "end": round(s[-1].end, 3)}
            for s in paragraph
        ]
        texts.append(joined(str(sentence["text"]) for sentence in sentences))
        found.append(
            {
                "sentences": sentences,
                "num_words": sum(map(len, paragraph)),
                "start": sentences[0]["start"],
                "end": sentences[-1]["end"],
                **_speaker(chain(*paragraph)),
            }
        )
    return {"transcript": "\n" + "\n\n".join(texts) if texts else "", "paragraphs": found}


def _utterance(channel: int, words: Sequence[Word], *, punctuated: bool) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "start": round(words[0].start, 3),
        "end": round(words[-1].end, 3),
        "confidence": confidence_of(words),
        "channel": channel,
        "transcript": text_of(words, punctuated=punctuated),
        "words": (word_of(word, punctuated=punctuated) for word in words),
        **_speaker(words),
    }


def _speaker(words: Iterable[Word]) -> dict[str, Any]:
    """Return the speaker of the words as Deepgram writes it; nothing if it is not known."""
    known = speaker_of(words)
    return {} if known is None else {"speaker": known}


def _seconds(given: Parameters, name: str, default: float) -> float:
    value = given.text(name)
    if value is None:
        return default
    seconds = decimal(value)
    if seconds is None or not 0 < seconds <= 60:
        raise refused(f"{name} must be a number of seconds above 0 and at most 60, not {quoted(value)}")
    return seconds
