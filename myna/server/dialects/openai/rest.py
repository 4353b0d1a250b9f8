"""OpenAI's transcription API: parses a form into a request, writes a transcript in its response formats."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from myna.batch import subtitles
from myna.batch.transcript import FileTranscript, sentences, speaker_of
from myna.server.dialects.openai.chunking import check_chunking
from myna.server.dialects.openai.errors import refused
from myna.server.dialects.openai.known_speakers import display_names, names_of
from myna.server.dialects.openai.language_names import CODES, NAMES
from myna.server.dialects.openai.models import PUBLIC_MODELS
from myna.server.dialects.options import LONGEST_KEYTERM, MOST_KEYTERMS
from myna.server.dialects.parameters import Parameters
from myna.server.dialects.speaker_limits import limits_of
from myna.server.dialects.spoken_formatting import AS_HEARD, asked, spoken
from myna.server.language_tags import primary, spoken_language, unknown_language
from myna.server.serving import ModelWanted
from myna.streaming.events import Word
from myna.streaming.policy import Options
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.speakers.labelling import SpeakerLimits
from myna.streaming.text.formatting import Formatting, formatted
from myna.streaming.text.joining import separator, written_text
from myna.streaming.text.languages import languages_of, main_language
from myna.streaming.text.redaction import Redaction
from myna.wire.quoting import quoted

DIARIZED = "diarized_json"
FORMATS = ("json", "text", "srt", "verbose_json", "vtt", DIARIZED)
GRANULARITIES = ("word", "segment")
LONGEST_PROMPT = 1 << 20
"""Characters of a prompt."""
PROMPT_END = 2000
"""Characters at the end of a prompt that the engine gets: models use no more."""


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """What a client asks for."""

    model: ModelWanted
    language: str | None = None
    languages: tuple[str, ...] = ()
    """The languages among which the model finds the one spoken; empty: all."""
    keywords: tuple[str, ...] = ()
    prompt: str = ""
    translate: bool = False
    """Whether the speech is written in English."""
    response_format: str | None = None
    granularities: frozenset[str] = frozenset()
    stream: bool = False
    logprobs: bool = False
    batch: bool = False
    """An extension: the request has several files, and its answer a list."""
    diarize: bool = False
    """An extension: words have speakers in every format; the texts and subtitles name them."""
    known_names: tuple[str, ...] = ()
    """The names of the speakers of whose voices there are clips."""
    speakers: SpeakerLimits | None = None
    """How many speakers to tell apart; None: none."""
    formatting: Formatting = AS_HEARD
    """An extension: how words are written."""

    def written(self, words: Sequence[Word], engine: EngineInfo) -> tuple[Word, ...]:
        """Return words of the transcript as they are written."""
        return formatted(words, self._spoken(engine))

    def _spoken(self, engine: EngineInfo) -> Formatting:
        only = self.languages[0] if len(self.languages) == 1 else None
        return spoken(self.formatting, self.language or only, engine)

    def options(self, engine: EngineInfo) -> Options:
        """Return the engine's options. Raises `Refusal` for options that the engine lacks."""
        if unknown := unknown_language(engine, (self.language, *self.languages)):
            known = ", ".join(engine.languages)
            raise refused(
                f"The model {engine.name!r} does not support the language {quoted(unknown)}; it supports: {known}.",
                "language",
            )
        if self.translate and not engine.translates:
            raise refused(
                f"The model {engine.name!r} does not translate; /v1/audio/transcriptions transcribes in the language spoken.",
                "model",
                code="unsupported_model",
            )
        if self.keywords and not engine.keyterms:
            raise refused(f"The model {engine.name!r} does not support keywords.", "keywords")
        self._spoken(engine)  # raises if the request's redactions are not possible
        prompt = self.prompt if engine.prompts else ""
        hints = tuple(map(primary, self.languages))
        return Options(spoken_language(self.language), self.keywords, hints, translate=self.translate, prompt=prompt)


def parse(fields: Collection[tuple[str, str]], *, translate: bool = False) -> TranscriptionRequest:
    """Parse a form's fields, of a request to `translate` or to transcribe. Raises `Refusal`."""
    given = Parameters([(name.removesuffix("[]"), value) for name, value in fields], "invalid_value")
    response_format = given.choice("response_format", FORMATS)
    granularities = frozenset(given.texts("timestamp_granularities"))
    if unknown := granularities - set(GRANULARITIES):
        raise refused(
            f"timestamp_granularities must be word or segment, not {quoted(min(unknown))}.", "timestamp_granularities"
        )
    if "word" in granularities and response_format not in ("verbose_json", None):
        raise refused("timestamp_granularities requires response_format=verbose_json.", "timestamp_granularities")
    check_chunking(fields)
    given.fraction("temperature", 0, 1)  # checked only: decoding has no temperature
    languages = _languages(given)
    return TranscriptionRequest(
        model=ModelWanted.of(given.text("model"), PUBLIC_MODELS, languages[0] if len(languages) == 1 else None),
        language=languages[0] if len(languages) == 1 else None,
        languages=languages if len(languages) > 1 else (),
        prompt=(given.text("prompt", longest=LONGEST_PROMPT) or "")[-PROMPT_END:],
        translate=translate,
        keywords=_keywords(given),
        response_format=response_format or ("verbose_json" if granularities else None),
        granularities=granularities,
        stream=given.flag("stream"),
        logprobs="logprobs" in given.texts("include"),
        batch=given.flag("batch"),
        diarize=(diarize := given.flag("diarize")),
        known_names=names_of(fields, diarized=response_format == DIARIZED),
        speakers=limits_of(
            given,
            wanted=diarize or response_format == DIARIZED,
            asking=f"response_format={DIARIZED} or diarize=true",
        ),
        formatting=_formatting(given),
    )


def _formatting(given: Parameters) -> Formatting:
    redactions = [kind for kind in given.texts("redact") if kind != "false"]
    if unknown := set(redactions) - set(Redaction):
        raise refused(f"redact must be one of {', '.join(Redaction)}, not {quoted(min(unknown))}.", "redact")
    return asked(
        smart_format=given.flag("smart_format"),
        numerals=given.flag("numerals"),
        profanity_filter=given.flag("profanity_filter"),
        redact=redactions,
    )


def answer(
    transcript: FileTranscript, request: TranscriptionRequest, engine: EngineInfo, filename: str
) -> dict[str, Any] | str:
    """Return the response: a text, or an object whose iterators are written as lists."""
    transcript = transcript.written(lambda words: request.written(words, engine))
    words = transcript.words
    match request.response_format:
        case "text":
            return subtitles.named_text(words) if request.diarize else transcript.text + "\n"
        case "srt":
            return subtitles.srt(words)
        case "vtt":
            return subtitles.vtt(words)
        case "verbose_json":
            return _verbose(transcript, words, request, engine)
        case "diarized_json":
            return {
                "task": "transcribe",
                "duration": round(transcript.duration_s, 3),
                "text": transcript.text,
                "segments": speaker_segments(transcript, request),
                "usage": _usage(transcript),
            }
    body: dict[str, Any] = {"text": transcript.text, "usage": _usage(transcript), **heard_languages(words)}
    if request.logprobs:
        body["logprobs"] = _logprobs(words)
    if request.response_format is None:  # read by clients of the extensions; OpenAI's ignore it
        body |= {"words": spaced_words(words), "filename": filename}
    return body


def logprobs(words: Sequence[Word], *, first: bool = True) -> list[dict[str, object]]:
    """Return a token for each word, with the logarithm of the model's confidence. `first`: the words begin the transcript."""
    return list(_logprobs(words, first=first))


def _logprobs(words: Sequence[Word], *, first: bool = True) -> Iterator[dict[str, object]]:
    before = "" if first else " "
    for word in words:
        token = separator(before, word.text) + word.text
        before = word.text
        yield {"token": token, "logprob": round(_log(word), 5), "bytes": list(token.encode())}


def heard_languages(words: Iterable[Word]) -> dict[str, object]:
    """Return the languages of the words as OpenAI lists them; nothing if the model does not report languages."""
    found = languages_of(words)
    return {"languages": [{"code": code} for code in found]} if found else {}


def spaced_words(words: Sequence[Word], offset_s: float = 0.0) -> Iterator[dict[str, object]]:
    """Yield words that their reader joins without a separator. No word ends after the next begins."""
    for i, word in enumerate(words):
        end = min(word.end, words[i + 1].start if i + 1 < len(words) else word.end)
        space = separator(word.text, words[i + 1].text) if i + 1 < len(words) else " "
        times = {"start": round(word.start + offset_s, 2), "end": round(end + offset_s, 2)}
        yield {"word": f"{word.text}{space}", **times, **_speaker([word])}


def delta(words: Sequence[Word], before: str) -> dict[str, object]:
    """Return the event for the next words, after the word `before`. The pieces concatenate to the transcript."""
    return {"type": "transcript.text.delta", "delta": separator(before, words[0].text) + written_text(words)}


def done(transcript: FileTranscript, request: TranscriptionRequest) -> dict[str, object]:
    """Return the last event of a streamed response, of a written transcript. Iterators in it are written as lists."""
    event: dict[str, object] = {
        "type": "transcript.text.done",
        "text": transcript.text,
        **heard_languages(transcript.words),
    }
    if request.logprobs:
        event["logprobs"] = _logprobs(transcript.words)
    return event


def _verbose(
    transcript: FileTranscript, words: Sequence[Word], request: TranscriptionRequest, engine: EngineInfo
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": "translate" if request.translate else "transcribe",
        "language": _language_name(words, request, engine),
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
    }
    if "word" in request.granularities:
        body["words"] = (
            {"word": w.text, "start": round(w.start, 3), "end": round(w.end, 3), **_speaker([w])} for w in words
        )
    if "segment" in request.granularities or not request.granularities:
        body["segments"] = (_segment(number, part) for number, part in enumerate(sentences(words)))
    return body | {"usage": _usage(transcript)}


def speaker_segments(transcript: FileTranscript, request: TranscriptionRequest) -> Iterator[dict[str, object]]:
    """Yield the sentences of a transcript with their speakers, as OpenAI's events and `diarized_json` have them.

    A sentence whose speaker is not known has the one before.
    """
    number = 0
    for channel in transcript.channels:
        known = {speaker: request.known_names[voice] for speaker, voice in channel.known.items()}
        names = display_names({0} | {turn.speaker for turn in channel.turns}, known, request.known_names)
        speaker = 0
        for words in sentences(channel.words):
            if (found := speaker_of(words)) is not None:
                speaker = found
            yield {
                "type": "transcript.text.segment",
                "id": f"seg_{number}",
                "start": round(words[0].start, 3),
                "end": round(words[-1].end, 3),
                "text": f" {written_text(words)}",
                "speaker": names[speaker],
            }
            number += 1


def _segment(number: int, words: Sequence[Word]) -> dict[str, object]:
    text = written_text(words)
    data = text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": round(words[0].start, 3),
        "end": round(words[-1].end, 3),
        "text": f" {text}",
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(map(_log, words)) / len(words), 5),
        "compression_ratio": round(len(data) / len(zlib.compress(data)), 5),
        "no_speech_prob": 0.0,
        **_speaker(words),
    }


def _speaker(words: Sequence[Word]) -> dict[str, object]:
    """Return the speaker of the words, counted from 0; nothing if it is not known."""
    known = speaker_of(words)
    return {} if known is None else {"speaker": known}


def _usage(transcript: FileTranscript) -> dict[str, object]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration_s)}


def _log(word: Word) -> float:
    return math.log(min(1.0, max(word.confidence, 1e-6)))


def _keywords(given: Parameters) -> tuple[str, ...]:
    keywords = given.texts("keywords", most=MOST_KEYTERMS)
    if (longest := max(map(len, keywords), default=0)) > LONGEST_KEYTERM:
        raise refused(f"keywords must have at most {LONGEST_KEYTERM} characters each, not {longest}.", "keywords")
    return keywords


def _languages(given: Parameters) -> tuple[str, ...]:
    named = given.text("language")
    languages = (named,) if named else given.texts("languages")
    return tuple(CODES.get(language.lower(), language) for language in languages)


def _language_name(words: Sequence[Word], request: TranscriptionRequest, engine: EngineInfo) -> str:
    """Return the name of the language written: English, the client's, the one that was heard, or the engine's only one."""
    heard = main_language(words)
    if request.translate:
        code = "en"
    elif request.language:
        code = primary(request.language)
    elif heard is not None:
        code = heard.code
    else:
        code = engine.languages[0] if len(engine.languages) == 1 else ""
    return NAMES.get(code, code)
