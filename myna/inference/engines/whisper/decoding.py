"""One utterance through the model: features, encoder, language, tokens, alignment. CTranslate2 is called step by step.

faster-whisper's `transcribe` is not used. It decodes a file in a loop, conditions on the previous text and decodes again at
higher temperatures, which takes a multiple of the time where live speech has none to spare; and it encodes an utterance a
second time to detect its language. Its words split at apostrophes and hyphens ("d" and "'avoir"). Its features, its tokenizer
and its list of suppressed tokens are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import ctranslate2
import numpy as np
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_ctranslate2_storage, get_suppressed_tokens

from myna.inference.engines.whisper.folder import iso_code
from myna.inference.engines.whisper.weights import SharedWeights
from myna.inference.engines.whisper.words import token_starts, word_groups
from myna.streaming.events import SAMPLE_RATE, Word

LONGEST_S = 30.0
"""The audio that the encoder has positions for."""
HOP = 160
"""Samples between two feature frames."""
_FULL = 3000
"""Feature frames of `LONGEST_S`."""
_PADDING = 500
_SHORTEST = 1000
"""Silent feature frames after the audio, and the fewest frames that are encoded in a narrow window."""
_QUIETEST = 2.0
"""The range of the features: eight decades of power, of which four make one (faster-whisper's `FeatureExtractor`)."""
_MOST_PROMPT = 223
"""Limit on the tokens of the prompt: half of the decoder's positions, less one (OpenAI's `decoding.py`)."""
_MOST_TOKENS = 224
"""Limit on the tokens of a transcript: half of the decoder's positions."""
_TOKENS, _TOKENS_PER_S = 16, 20
"""Limit on the tokens of short audio. On noise the model may repeat itself until a limit; the densest scripts need less."""
BEAM = 5
ENCODED_FRAME_S = 0.02
"""Length of an encoded frame, in seconds: two feature frames."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The decode of an utterance. Without text, `words` is empty.

    `log_probability` is the mean over the tokens and the end; `no_speech` is the probability of the no-speech token; `ended`
    is false if only the limit on tokens ended the text.
    """

    words: tuple[Word, ...]
    text: str
    log_probability: float
    no_speech: float
    ended: bool


class Utterance:
    """The encoded audio of one utterance: float32 samples at `SAMPLE_RATE`.

    The model was trained on windows of 30 s. A narrow window ends a few seconds after the audio; its encoding takes a sixth
    of the time for short audio.
    """

    def __init__(self, weights: SharedWeights, audio: np.ndarray, *, narrow: bool) -> None:
        self._whisper = weights.whisper
        self.duration_s = len(audio) / SAMPLE_RATE
        self._frames = len(audio) // HOP
        features = self._whisper.feature_extractor(audio)[:, : self._frames]
        encoded = min(_FULL, max(_SHORTEST, self._frames + _PADDING)) if narrow else _FULL
        self.full = encoded == _FULL
        silence = float(features.max()) - _QUIETEST
        features = np.pad(features, ((0, 0), (0, encoded - self._frames)), constant_values=silence)
        self._encoded: ctranslate2.StorageView = self._whisper.model.encode(get_ctranslate2_storage(features[None]))

    def languages(self, among: Sequence[str] = ()) -> dict[str, float]:
        """Return ISO 639-1 code → probability, the most probable first; `among` excludes all other languages."""
        (found,) = self._whisper.model.detect_language(self._encoded)
        probabilities = {iso_code(token[2:-2]): float(probability) for token, probability in found}
        if among:
            probabilities = {code: p for code, p in probabilities.items() if code in among}
        total = sum(probabilities.values())
        return {code: p / total for code, p in probabilities.items()} if total else probabilities

    def decode(self, tokenizer: Tokenizer, prompt: Sequence[int], beam: int) -> Decoded:
        """Return the words. `prompt` is the tokens that precede the transcript."""
        start = [*prompt, *tokenizer.sot_sequence, tokenizer.no_timestamps]
        most = min(_MOST_TOKENS, _TOKENS + round(_TOKENS_PER_S * self.duration_s))
        (result,) = self._whisper.model.generate(
            self._encoded,
            [start],
            beam_size=beam,
            max_length=max(2 * most, len(start) + most),  # CTranslate2 generates at most half of it
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=_suppressed(tokenizer),
        )
        said = result.sequences_ids[0]
        tokens = [token for token in said if token < tokenizer.eot]
        text = tokenizer.decode(tokens).strip()
        words = self._aligned(tokenizer, tokens) if text else ()
        log_probability = result.scores[0] * len(said) / (len(said) + 1)
        return Decoded(words, text, log_probability, result.no_speech_prob, len(said) < most)

    def _aligned(self, tokenizer: Tokenizer, tokens: list[int]) -> tuple[Word, ...]:
        """Return the words with their times from the cross-attention, in order and within the audio."""
        (found,) = self._whisper.model.align(self._encoded, tokenizer.sot_sequence, [tokens], self._frames)
        starts = token_starts(found.alignments, len(tokens))
        words = list[Word]()
        for group in word_groups(tokenizer, tokens):
            start, end = (ENCODED_FRAME_S * starts[token] for token in (group.first, group.last + 1))
            confidence = float(np.mean(found.text_token_probs[group.first : group.last + 1]))
            words.append(Word(group.text, min(start, self.duration_s), min(end, self.duration_s), confidence))
        return tuple(words)


def prompt_tokens(tokenizer: Tokenizer, prompt: str, keyterms: Sequence[str]) -> list[int]:
    """Return the tokens that precede a transcript: the keyterms and the prompt, as if they had been said before."""
    told = [text.strip() for text in (", ".join(keyterms), prompt) if text.strip()]
    if not told:
        return []
    pieces: list[int] = []
    for text in told:
        pieces += tokenizer.encode(" " + text)
    return [tokenizer.sot_prev, *pieces[-_MOST_PROMPT:]]


@lru_cache(maxsize=256)
def _suppressed(tokenizer: Tokenizer) -> tuple[int, ...]:
    return tuple(get_suppressed_tokens(tokenizer, [-1]) or ())
