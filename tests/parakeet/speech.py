"""Generates spoken sentences with espeak-ng, for training and testing the small Parakeet models of the tests.

Sentences follow templates over about 170 words; ten voices speak them at varied speed and pitch. The synthesiser reports
where each word starts, so that training can cut audio between words as a live stream does.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr

SAMPLE_RATE = 16_000
VOICES = ("en-us", "en-us+f2", "en-us+m3", "en-gb", "en-gb+f4", "en-gb+m7", "en-gb-x-rp", "en-gb-scotland", "en-029+f3",
          "en-us+f5")  # fmt: skip

_NAMES = ["Anna", "Tom", "Peter", "Maria", "David", "Laura", "Simon", "Emma", "Robert", "Julia"]
_CITIES = ["London", "Paris", "Berlin", "Boston", "Chicago", "Dublin", "Madrid", "Vienna"]
_PLACES = ["office", "garden", "kitchen", "station", "market", "library", "hospital", "river", "school", "museum"]
_THINGS = [
    "box", "letter", "book", "table", "window", "door", "car", "bicycle", "camera", "computer", "bottle", "basket",
    "ticket", "paper", "lamp", "chair", "key", "coat", "picture", "dog", "cat", "horse",
]  # fmt: skip
_LIKE = [
    "red", "blue", "green", "yellow", "black", "white", "small", "large", "old", "new", "heavy", "broken", "quiet",
    "beautiful",
]  # fmt: skip
_NUMBERS = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "twenty",
    "thirty",
]  # fmt: skip
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_PARTS = ["morning", "afternoon", "evening"]
_WHEN = ["today", "tomorrow", "tonight", "yesterday", "again", "now"]
_DO = ["send", "bring", "open", "close", "find", "buy", "sell", "carry", "show", "move", "paint", "take"]
_WENT = ["went", "walked", "travelled", "moved"]
_WHERE = ["near", "behind", "under", "beside", "before"]

_WORDS = {
    "name": _NAMES, "other": _NAMES, "city": _CITIES, "place": _PLACES, "thing": _THINGS, "second": _THINGS,
    "like": _LIKE, "unlike": _LIKE, "number": _NUMBERS, "day": _DAYS, "part": _PARTS, "when": _WHEN, "do": _DO,
    "went": _WENT, "where": _WHERE, "a": _NUMBERS[:9], "b": _NUMBERS[:9], "c": _NUMBERS[:9], "d": _NUMBERS[:9],
}  # fmt: skip
_TEMPLATES = (
    "{do} the {like} {thing} to {name}, please.",
    "{name} will {do} the {thing} {when}.",
    "Can you {do} my {thing} on {day}?",
    "The {like} {thing} is {where} the {place}.",
    "{name} and {other} {went} to {city} on {day} {part}.",
    "We need {number} more for the {place}, and a {thing}.",
    "Please {do} the {thing} {where} the {unlike} {second}.",
    "They were in {city} {when}, but {name} was not.",
    "Is the {thing} in the {place} or {where} the {second}?",
    "The number of my {thing} is {a} {b} {c} {d}.",
    "I saw a {like} {thing} in the {place} this {part}.",
    "{name} said that the {unlike} {thing} was in {city}.",
)


def sentences(seed: int) -> Iterator[str]:
    """Yield sentences without end, the same for the same seed."""
    choose = random.Random(seed)
    while True:
        filled = choose.choice(_TEMPLATES).format(**{slot: choose.choice(words) for slot, words in _WORDS.items()})
        yield filled[0].upper() + filled[1:]


@dataclass(frozen=True, slots=True)
class Speech:
    """A spoken sentence: float32 audio at 16 kHz, its words as written, and the sample at which each word starts.

    A word that the synthesiser joins to the previous one has the start -1.
    """

    audio: np.ndarray
    words: tuple[str, ...]
    starts: tuple[int, ...]
    voice: str

    @property
    def text(self) -> str:
        return " ".join(self.words)


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_SYNCHRONOUS, _UTF8, _END, _WORD, _RATE, _PITCH = 2, 1, 0, 1, 1, 3


class Speaker:
    """The synthesiser. One per process: the library has global state."""

    def __init__(self) -> None:
        found = ctypes.util.find_library("espeak-ng")
        if found is None:
            raise RuntimeError("espeak-ng is not installed: apt-get install espeak-ng")
        self._library = ctypes.CDLL(found)
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, 0)
        self._samples: list[np.ndarray] = []
        self._starts: dict[int, int] = {}
        self._callback = _CALLBACK(self._on_audio)  # referenced here: the library keeps only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str = VOICES[0], words_per_minute: int = 160, pitch: int = 50) -> Speech:
        """Speak; `pitch` runs from 0 to 100."""
        self._samples, self._starts = [], {}
        self._library.espeak_SetVoiceByName(voice.encode())
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        encoded = text.encode() + b"\0"
        self._library.espeak_Synth(encoded, len(encoded), 0, 1, 0, _UTF8, None, None)
        audio = np.concatenate(self._samples).astype(np.float32) / 32768
        words, starts, position = text.split(), [], 0
        for word in words:
            position = text.index(word, position)
            begins = self._starts.get(position + 1, -1)  # the library counts characters from 1
            starts.append(round(begins * SAMPLE_RATE / self._rate) if begins >= 0 else -1)
            position += len(word)
        resampled = soxr.resample(audio, self._rate, SAMPLE_RATE)
        return Speech(resampled, tuple(words), tuple(starts), voice)

    def _on_audio(self, samples: object, count: int, events: object) -> int:
        if count:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _END:
            if events[index].type == _WORD:
                self._starts[events[index].text_position] = events[index].sample
            index += 1
        return 0


def spoken(seed: int, count: int, exclude: frozenset[str] = frozenset()) -> list[Speech]:
    """Return `count` sentences that are not in `exclude`, in random voices, the same for the same seed."""
    choose, speaker, source = random.Random(seed + 1), Speaker(), sentences(seed)
    speeches: list[Speech] = []
    while len(speeches) < count:
        text = next(source)
        if text not in exclude:
            voice, rate, pitch = choose.choice(VOICES), choose.randint(130, 200), choose.randint(30, 70)
            speeches.append(speaker.say(text, voice, rate, pitch))
    return speeches
