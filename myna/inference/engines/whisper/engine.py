"""Whisper on CTranslate2: 99 languages, their detection, translation into English. One utterance per call.

Each lane is a thread; all lanes share the weights (see `weights`). A decode that the model's own measures mark as a
hallucination has no words. There is no second attempt here: the core repeats the decode of sure speech in another window.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from faster_whisper.tokenizer import Tokenizer

from myna.inference.engines.port import ModelOptions
from myna.inference.engines.whisper.decoding import BEAM, LONGEST_S, Decoded, Utterance, prompt_tokens
from myna.inference.engines.whisper.folder import whisper_code
from myna.inference.engines.whisper.weights import shared_weights
from myna.runtime.memory import keep_steady
from myna.streaming.events import samples, seconds
from myna.streaming.policy import Options, PlausibilityGate
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Outcome, Transcript

SHORTEST_S = 0.1
"""Shorter audio holds no word and is not decoded."""
SURE = 0.8
"""Probability from which a language other than the expected one is heard."""
NO_SPEECH, DOUBTFUL = 0.6, -0.5
"""Words are silence's if the no-speech token is more probable than this and their mean log-probability is lower than that.
Measured with tiny.en and base: recorded speech has at most 0.4, synthesised speech 0.54; of silence, noise, tones and music
nine clips in ten have 0.6 or more, and -0.7 or less. OpenAI's `transcribe.py` has 0.6 and -1.0, which let through a "you" for
silence."""
DOUBTFUL_SPEECH = -1.1
"""A decode in a narrow window that is less probable than this is repeated in the full one."""
UNLIKELY = -1.5
"""Lower mean log-probability than this is never told. Right words of short or hard speech, and of translations, have down to
-1.3; silence is known by the no-speech token, and not by this limit."""
MOST_REPETITIVE = 2.4
"""Text longer than this, as a multiple of its compressed length, repeats itself: OpenAI's limit (`transcribe.py`)."""
ECHO = -2.3
"""Mean logarithm of the confidences of words that the model copied from the prompt: -4 seen, and -0.1 to -1 for words that
were heard."""


class WhisperEngine:
    """The engine of one lane. One thread builds and calls it."""

    def __init__(self, options: ModelOptions) -> None:
        self._weights = shared_weights(options)
        folder = self._weights.folder
        self._multilingual = bool(self._weights.whisper.model.is_multilingual)
        self._languages = options.languages or folder.languages
        self._tokenizers: dict[tuple[str, bool], Tokenizer] = {}
        self.info = EngineInfo(
            name=options.name or folder.path.name,
            languages=self._languages,
            longest_segment_s=LONGEST_S,
            smallest_endpoint_ms=100,
            keyterms=True,
            detects_language=self._multilingual,
            translates=self._multilingual,
            prompts=True,
            gpu=self._weights.whisper.model.device == "cuda",
            gate=PlausibilityGate(hopeless=UNLIKELY),
            uuid=folder.uuid,
        )

    def warm_up(self) -> None:
        """Decode a job of the greatest length."""
        keep_steady()
        longest = bytes(2 * samples(LONGEST_S))
        self.transcribe([InferenceJob("warm-up", "warm-up", JobKind.FILE, longest, 0.0)])

    def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        """Decode each job by itself."""
        return [self._transcribe(job) for job in jobs]

    def release(self, source: str) -> None:
        """Do nothing: the engine follows no utterances."""

    def _transcribe(self, job: InferenceJob) -> Outcome:
        if job.length < samples(SHORTEST_S):
            return Transcript((), 0.0)
        if job.length > samples(LONGEST_S):
            return JobError(
                f"{seconds(job.length):.1f} s of audio exceed the {LONGEST_S:g} s that {self.info.name} decodes at once"
            )
        asked = job.options
        if asked.language and asked.language not in self._languages:
            return JobError(f"{self.info.name} does not know the language {asked.language!r}")
        if asked.translate and not self._multilingual:
            return JobError(f"{self.info.name} does not translate: it knows English only")
        audio = np.frombuffer(job.pcm, np.int16).astype(np.float32) / 32768.0
        utterance = Utterance(self._weights, audio, narrow=True)
        language, probability = self._language(utterance, asked)
        tokenizer = self._tokenizer(language, translate=asked.translate)
        prompt = prompt_tokens(tokenizer, asked.prompt, asked.keyterms)
        beam = 1 if job.kind is JobKind.INTERIM else BEAM
        decoded = utterance.decode(tokenizer, prompt, beam)
        if not utterance.full and job.kind is not JobKind.INTERIM and is_doubtful(decoded):
            utterance = Utterance(self._weights, audio, narrow=False)
            decoded = utterance.decode(tokenizer, prompt, beam)
        if prompt and echoes_prompt(decoded):
            decoded = utterance.decode(tokenizer, (), beam)
        words = () if is_silence(decoded) or is_loop(decoded) else decoded.words
        return Transcript(words, decoded.log_probability, language, probability)

    def _language(self, utterance: Utterance, asked: Options) -> tuple[str, float]:
        """Return the language to decode in and its probability: 1 if the model or the job leaves no choice."""
        if not self._multilingual:
            return "en", 1.0
        if asked.language:
            return asked.language, 1.0
        among = [code for code in asked.hints if code in self._languages]
        probabilities = utterance.languages(among or self._languages)
        best = next(iter(probabilities))
        if asked.expected in probabilities and probabilities[best] < SURE:
            best = asked.expected
        return best, probabilities[best]

    def _tokenizer(self, language: str, *, translate: bool) -> Tokenizer:
        key = (language, translate)
        if key not in self._tokenizers:
            task = "translate" if translate else "transcribe"
            self._tokenizers[key] = Tokenizer(
                self._weights.whisper.hf_tokenizer, self._multilingual, task=task, language=whisper_code(language)
            )
        return self._tokenizers[key]


def is_silence(decoded: Decoded) -> bool:
    """Return whether the model marks a decode as words for audio without speech."""
    return decoded.no_speech > NO_SPEECH and decoded.log_probability < DOUBTFUL


def is_loop(decoded: Decoded) -> bool:
    """Return whether a decode repeats itself until its limit. Speech that repeats itself has an end."""
    return not decoded.ended and is_repetitive(decoded)


def is_doubtful(decoded: Decoded) -> bool:
    """Return whether a decode in a narrow window may have gone astray: it is improbable, or tells a phrase twice."""
    if is_silence(decoded):
        return False
    return decoded.log_probability < DOUBTFUL_SPEECH or is_repetitive(decoded) or repeats_a_phrase(decoded)


def is_repetitive(decoded: Decoded) -> bool:
    """Return whether the text compresses as only repetitions do."""
    text = decoded.text.encode()
    return len(text) > MOST_REPETITIVE * len(zlib.compress(text))


def repeats_a_phrase(decoded: Decoded) -> bool:
    """Return whether a phrase of two words or more stands twice in a row."""
    said = [word.bare for word in decoded.words]
    return any(
        said[start : start + length] == said[start + length : start + 2 * length]
        for length in range(2, len(said) // 2 + 1)
        for start in range(len(said) - 2 * length + 1)
    )


def echoes_prompt(decoded: Decoded) -> bool:
    """Return whether the words come from the prompt: without it, which is how they are aligned, they are improbable."""
    logs = [math.log(max(word.confidence, 1e-9)) for word in decoded.words]
    return bool(logs) and sum(logs) / len(logs) < ECHO
