"""Compose conversations with known speakers from recordings of single speakers, or read recorded ones with their RTTM.

Turns of 2 to 10 s are cut from aligned recordings at word ends, if possible before a pause. No piece of speech is used twice
in one conversation. One turn in six begins 0.3 to 1.2 s before the last one has ended; in one in eight another speaker says
one or two words. The pauses last 0.05 to 1.2 s, a few 2 to 4 s. Speakers differ by up to 6 dB.
"""

from __future__ import annotations

import json
import random
import re
import wave
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import signal

from myna.bench.accuracy import AccuracyError, Recording
from myna.bench.diarization_error import SpokenTurn, SpokenWord
from myna.clients import files

RATE = files.RATE
KINDS: dict[str, tuple[float, tuple[int, ...]]] = {
    "mono": (100, (1,)),
    "two": (150, (1, 1)),
    "interview": (150, (3, 1)),
    "three": (200, (1, 1, 1)),
    "four": (260, (1, 1, 1, 1)),
    "host": (220, (1, 4, 4, 1)),
    "eight": (480, (1,) * 8),
}
"""Seconds of each kind of conversation, and how often each speaker speaks."""
CONDITIONS = ("clean", "room", "phone")
"""As recorded; in one room with noise at 15 dB; 300 to 3400 Hz in 8-bit mu-law at 8 kHz with noise at 20 dB."""
LEAST_SPEECH_S = 20.0
"""Speech that a speaker must have in the recordings. For more voices than have as much, the ones with the most are taken."""
_JOINED_S = 0.3
"""A pause inside a turn of the reference."""
_SHORTEST_S, _LONGEST_S = 2.0, 10.0
_AUDIO = ("*.wav", "*.flac", "*.mp3", "*.ogg", "*.opus", "*.m4a")
_SPEAKER = re.compile(r"[A-Za-z]+|\d+")


@dataclass(frozen=True, slots=True)
class Conversation:
    """An audio file with who spoke when and, if they are known, the words."""

    name: str
    audio: Path
    turns: tuple[SpokenTurn, ...]
    words: tuple[SpokenWord, ...]
    condition: str

    @property
    def speakers(self) -> int:
        """The number of speakers."""
        return len({turn.speaker for turn in self.turns})


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of one speaker: float audio, its words with times from its start, and its start in the conversation in s."""

    audio: np.ndarray
    words: tuple[SpokenWord, ...]
    at: float = 0.0

    @property
    def speaker(self) -> str:
        return self.words[0].speaker or ""

    @property
    def end(self) -> float:
        return self.at + len(self.audio) / RATE


def recorded(folder: Path) -> list[Conversation]:
    """Return the recordings of a folder that have an RTTM file of the same name beside them. Raises `AccuracyError`.

    NAME.words.jsonl, with word, start, end and speaker in each line, gives the words.
    """
    found = []
    for audio in sorted(path for pattern in _AUDIO for path in folder.glob(pattern)):
        rttm, words = audio.with_suffix(".rttm"), audio.with_suffix(".words.jsonl")
        if rttm.is_file():
            spoken = _words(words) if words.is_file() else ()
            found.append(Conversation(audio.stem, audio, read_rttm(rttm), spoken, folder.name))
    if not found:
        raise AccuracyError(f"{folder} contains no audio file with an RTTM file of the same name beside it")
    return found


def read_rttm(path: Path) -> tuple[SpokenTurn, ...]:
    """Return the turns of an RTTM file. Raises `AccuracyError`."""
    try:
        rows = [line.split() for line in path.read_text().splitlines() if line.startswith("SPEAKER")]
        return tuple(SpokenTurn(float(row[3]), float(row[3]) + float(row[4]), row[7]) for row in rows)
    except (OSError, ValueError, IndexError) as error:
        raise AccuracyError(f"{path} is not an RTTM file: {error!r}") from error


def composed(
    recordings: Sequence[Recording],
    kinds: Sequence[str],
    conditions: Sequence[str],
    number: int,
    seed: int,
    folder: Path,
) -> list[Conversation]:
    """Compose `number` conversations of each kind, write each in each condition to the folder, and return them.

    A speaker is the first run of letters or digits in the name of a recording. Raises `AccuracyError` if there are not
    enough speakers.
    """
    pool = _pool(recordings)
    found = []
    for kind in kinds:
        seconds, shares = KINDS[kind]
        if len(pool) < len(shares):
            names = ", ".join(pool) or "none"
            raise AccuracyError(f"{kind} needs {len(shares)} speakers with word times; the recordings have {names}")
        enough = [name for name, pieces in pool.items() if _speech_s(pieces) >= LEAST_SPEECH_S]
        for each in range(number):
            chance = random.Random(f"{seed}/{kind}/{each}")
            among = enough if len(enough) >= len(shares) else list(pool)[: len(shares)]
            placed = _placed(pool, chance.sample(among, len(shares)), shares, seconds, chance)
            words = tuple(sorted((word for piece in placed for word in _spoken(piece)), key=lambda word: word.start))
            for condition in conditions:
                name = f"{kind}{each}-{condition}"
                audio = folder / f"{name}.wav"
                _write(audio, _rendered(placed, condition, random.Random(f"{seed}/{name}")))
                _write_reference(audio, turns := _turns(words), words)
                found.append(Conversation(name, audio, turns, words, condition))
    return found


def _pool(recordings: Sequence[Recording]) -> dict[str, list[_Piece]]:
    """Return the recordings of each speaker, the one with the most speech first."""
    pool: dict[str, list[_Piece]] = defaultdict(list)
    for recording in recordings:
        named = _SPEAKER.search(recording.audio.stem)
        if recording.words and named:
            audio = np.frombuffer(b"".join(files.chunks(recording.audio)), np.int16).astype(np.float32) / 32768
            words = (SpokenWord(word, start, end, named[0]) for word, start, end in recording.words)
            pool[named[0]].append(_Piece(audio, tuple(words)))
    return dict(sorted(pool.items(), key=lambda item: (-_speech_s(item[1]), item[0])))


def _speech_s(pieces: Sequence[_Piece]) -> float:
    return sum(word.end - word.start for piece in pieces for word in piece.words)


def _placed(
    pool: dict[str, list[_Piece]], speakers: Sequence[str], shares: Sequence[int], seconds: float, chance: random.Random
) -> list[_Piece]:
    """Return the pieces of a conversation with their times, until it is long enough or a speaker has no more."""
    left: dict[str, deque[_Piece]] = {}
    for speaker in speakers:
        pieces = [part for piece in pool[speaker] for part in _parts(piece, chance)]
        chance.shuffle(pieces)
        left[speaker] = deque(pieces)
    placed: list[_Piece] = []
    end, before = 0.3, None
    while end < seconds:
        able = [speaker for speaker in speakers if left[speaker] and (speaker != before or len(speakers) == 1)]
        if not able:
            break
        silent = [speaker for speaker in able if all(piece.speaker != speaker for piece in placed)]
        weights = [shares[speakers.index(speaker)] for speaker in able]
        speaker = chance.choice(silent) if silent and chance.random() < 0.5 else chance.choices(able, weights)[0]
        piece = left[speaker].popleft()
        at = end + (chance.uniform(2, 4) if chance.random() < 0.04 else chance.uniform(0.05, 1.2))
        long_enough = bool(placed) and len(placed[-1].audio) > 3 * RATE and len(piece.audio) > 2 * RATE
        if long_enough and speaker != before and chance.random() < 1 / 6:
            at = end - chance.uniform(0.3, 1.2)
        placed.append(replace(piece, at=at))
        others = [other for other in speakers if other != speaker and left[other]]
        if others and len(piece.audio) > 4 * RATE and chance.random() < 1 / 8:
            aside = _aside(left[chance.choice(others)].pop(), chance)
            if aside is not None:
                placed.append(replace(aside, at=at + chance.uniform(1, len(piece.audio) / RATE - 2)))
        end, before = max(end, at + len(piece.audio) / RATE), speaker
    return placed


def _parts(piece: _Piece, chance: random.Random) -> list[_Piece]:
    """Cut a recording into turns of random length, at word ends before a pause if there is one."""
    words, parts, first = piece.words, [], 0
    while first < len(words):
        wanted = chance.uniform(_SHORTEST_S, _LONGEST_S)
        best, last = (-np.inf, len(words) - 1), first
        while last < len(words) and (length := words[last].end - words[first].start) <= _LONGEST_S:
            pause = words[last + 1].start - words[last].end if last + 1 < len(words) else 1.0
            if length >= _SHORTEST_S:
                best = max(best, (6 * min(pause, 0.5) - abs(length - wanted) / 4, last))
            last += 1
        parts.append(_cut(piece, first, best[1]))
        first = best[1] + 1
    return [part for part in parts if 0.8 * RATE <= len(part.audio) <= 1.5 * _LONGEST_S * RATE]


def _aside(piece: _Piece, chance: random.Random) -> _Piece | None:
    """Return one or two words of a piece that last 0.25 to 0.9 s."""
    for _ in range(20):
        first = chance.randrange(len(piece.words))
        last = min(len(piece.words) - 1, first + chance.randint(0, 1))
        if 0.25 <= piece.words[last].end - piece.words[first].start <= 0.9:
            return _cut(piece, first, last)
    return None


def _cut(piece: _Piece, first: int, last: int) -> _Piece:
    words = piece.words
    before = words[first - 1].end if first else 0.0
    after = words[last + 1].start if last + 1 < len(words) else len(piece.audio) / RATE
    start = max(words[first].start - 0.10, (before + words[first].start) / 2)
    end = min(words[last].end + 0.12, (after + words[last].end) / 2)
    audio = piece.audio[round(start * RATE) : round(end * RATE)].copy()
    fade = min(len(audio) // 2, round(0.01 * RATE))
    audio[:fade] *= np.linspace(0, 1, fade)
    audio[len(audio) - fade :] *= np.linspace(1, 0, fade)
    kept = (replace(word, start=word.start - start, end=word.end - start) for word in words[first : last + 1])
    return _Piece(audio, tuple(kept))


def _spoken(piece: _Piece) -> list[SpokenWord]:
    return [replace(word, start=piece.at + word.start, end=piece.at + word.end) for word in piece.words]


def _turns(words: Sequence[SpokenWord]) -> tuple[SpokenTurn, ...]:
    turns: dict[str, list[SpokenTurn]] = defaultdict(list)
    for word in words:
        own = turns[word.speaker or ""]
        if own and word.start - own[-1].end <= _JOINED_S:
            own[-1] = replace(own[-1], end=max(own[-1].end, word.end))
        else:
            own.append(SpokenTurn(word.start, word.end, word.speaker or ""))
    return tuple(sorted((turn for own in turns.values() for turn in own), key=lambda turn: turn.start))


def _rendered(placed: Sequence[_Piece], condition: str, chance: random.Random) -> np.ndarray:
    """Return the conversation as float audio in a condition."""
    noise = np.random.default_rng(chance.randrange(1 << 30))
    mix = np.zeros(round((max(piece.end for piece in placed) + 0.7) * RATE), np.float32)
    reverberation_s = chance.uniform(0.3, 0.5)
    levels: dict[str, float] = {}
    rooms: dict[str, np.ndarray] = {}
    for piece in placed:
        level = levels.setdefault(piece.speaker, 10 ** (chance.uniform(-6, 0) / 20))
        room = rooms.setdefault(piece.speaker, _room(noise, reverberation_s, chance.uniform(4, 10)))
        sound = 0.06 * level * piece.audio / (np.sqrt((piece.audio**2).mean()) + 1e-9)
        if condition == "room":
            sound = signal.fftconvolve(sound, room)
        start = round(piece.at * RATE)
        mix[start : start + len(sound)] += sound[: len(mix) - start]
    if condition != "clean":
        hiss = signal.lfilter([1], [1, -0.95], noise.standard_normal(len(mix)))  # rooms are louder at low frequencies
        loud = mix[np.abs(mix) > 1e-3]
        below_db = 15 if condition == "room" else 20
        mix += (hiss / hiss.std() * np.sqrt((loud**2).mean()) * 10 ** (-below_db / 20)).astype(np.float32)
    if condition == "phone":
        mix = _telephoned(mix)
    return 0.7 * mix / max(1e-9, float(np.abs(mix).max()))


def _room(noise: np.random.Generator, reverberation_s: float, below_db: float) -> np.ndarray:
    """Return an impulse response whose reverberation is that much below the direct sound."""
    length = round(reverberation_s * RATE)
    response = noise.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    response[: round(0.004 * RATE)] = 0
    response *= 10 ** (-below_db / 20) / np.sqrt((response**2).sum())
    response[0] = 1
    return response.astype(np.float32)


def _telephoned(sound: np.ndarray) -> np.ndarray:
    band = signal.butter(4, [300, 3400], "bandpass", fs=RATE, output="sos")
    low = signal.resample_poly(signal.sosfilt(band, sound), 1, 2)
    low /= np.abs(low).max() + 1e-9
    coded = np.round(np.sign(low) * np.log1p(255 * np.abs(low)) / np.log(256) * 127) / 127
    decoded = np.sign(coded) * (256 ** np.abs(coded) - 1) / 255
    return np.asarray(signal.resample_poly(decoded, 2, 1)[: len(sound)], np.float32)


def _write(path: Path, sound: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound * 32767).astype(np.int16).tobytes())


def _write_reference(audio: Path, turns: Sequence[SpokenTurn], words: Sequence[SpokenWord]) -> None:
    rows = (
        f"SPEAKER {audio.stem} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> {turn.speaker} <NA> <NA>\n"
        for turn in turns
    )
    audio.with_suffix(".rttm").write_text("".join(rows))
    lines = (json.dumps({"word": w.word, "start": w.start, "end": w.end, "speaker": w.speaker}) + "\n" for w in words)
    audio.with_suffix(".words.jsonl").write_text("".join(lines))


def _words(path: Path) -> tuple[SpokenWord, ...]:
    try:
        entries = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return tuple(SpokenWord(each["word"], each["start"], each["end"], each["speaker"]) for each in entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AccuracyError(f"{path} must have word, start, end and speaker in each line: {error!r}") from error
