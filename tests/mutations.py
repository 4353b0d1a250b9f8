"""Messages, addresses and forms like those of clients, but wrong."""

from __future__ import annotations

import json
import random
from typing import Any

import msgpack

NATIVE = [
    {"type": "start", "encoding": "linear16", "sample_rate": 16_000, "channels": 2, "multichannel": True},
    {"type": "start", "language": "en", "keyterms": ["Myna"], "interim": False, "endpointing_ms": 300, "resume": True},
    {"type": "finalize", "id": "a"},
    {"type": "keepalive"},
    {"type": "close"},
]
DEEPGRAM = [
    {"type": "KeepAlive"},
    {"type": "Finalize", "channel": 0},
    {"type": "Configure", "keyterms": ["a", "b"], "features": {"punctuate": True, "profanity_filter": False}},
    {"type": "CloseStream"},
]
FLUX = [
    {"type": "Configure", "thresholds": {"eot_threshold": 0.8, "eager_eot_threshold": 0.4, "eot_timeout_ms": 900}},
    {"type": "Configure", "keyterms": ["a"], "language_hints": ["en"], "numerals": True, "profanity_filter": False},
    {"type": "ForceEndTurn"},
    {"type": "CloseStream"},
]
REALTIME = [
    {"type": "session.update", "event_id": "e", "session": {"type": "transcription", "audio": {"input": {
        "format": {"type": "audio/pcm", "rate": 24_000},
        "transcription": {"model": "whisper-1", "language": "en", "languages": ["en"], "keywords": ["a"], "prompt": "p"},
        "turn_detection": {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500},
        "noise_reduction": {"type": "near_field"},
    }}, "include": ["item.input_audio_transcription.logprobs"]}},
    {"type": "session.update", "session": {"audio": {"input": {
        "format": {"type": "audio/pcmu"}, "turn_detection": {"type": "semantic_vad", "eagerness": "high"},
    }}}},
    {"type": "transcription_session.update", "session": {
        "input_audio_format": "g711_alaw", "input_audio_transcription": {"model": "whisper-1"}, "turn_detection": None,
    }},
    {"type": "input_audio_buffer.append", "audio": "AAAA" * 2000},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
]  # fmt: skip
QUERIES = [
    ("model", "nova-3"), ("encoding", "linear16"), ("sample_rate", "16000"), ("channels", "2"), ("multichannel", "true"),
    ("endpointing", "300"), ("utterance_end_ms", "1000"), ("interim_results", "true"), ("language", "en-US"),
    ("keyterm", "Myna"), ("keywords", "a:2"), ("replace", "a:b"), ("search", "x"), ("redact", "pci"), ("tag", "t"),
    ("callback", "http://example.com"), ("extra", "k:v"), ("punctuate", "maybe"), ("diarize", "true"), ("smart_format", "1"),
    ("utterances", "true"), ("utt_split", "0.8"), ("paragraphs", "true"), ("format", "msgpack"), ("resume", "t"),
    ("after", "3"), ("eot_threshold", "0.8"), ("eager_eot_threshold", "0.4"), ("eot_timeout_ms", "900"),
    ("language_hint", "en"), ("intent", "transcription"), ("profanity_filter", "true"), ("diarize_version", "3"),
    ("num_speakers", "2"), ("max_speakers", "4"),
]  # fmt: skip
FIELDS = [
    ("model", "whisper-1"), ("response_format", "verbose_json"), ("timestamp_granularities[]", "word"), ("language", "en"),
    ("temperature", "0.2"), ("prompt", "p"), ("stream", "true"), ("include[]", "logprobs"), ("chunking_strategy", "auto"),
    ("batch", "true"), ("chunking_strategy[type]", "server_vad"), ("known_speaker_names[]", "Ann"), ("num_speakers", "2"),
]  # fmt: skip
ODD = [
    None,
    True,
    False,
    -1,
    0,
    1e308,
    10**30,
    "",
    "\x00",
    "\ud800",
    [],
    {},
    [[]],
    {"type": {}},
    float("nan"),
    "9" * 400,
    "0" * 20 + "9",
    float("inf"),
    10**400,
]


class Mutator:
    """Frames like those of a client, but wrong."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, value: Any) -> Any:
        """Return a message with some of it replaced, dropped, doubled or wrapped."""
        chance = self.random.random()
        if chance < 0.15:
            return self.random.choice(ODD)
        if isinstance(value, dict):
            changed = {}
            for key, one in value.items():
                if self.random.random() < 0.1:
                    continue
                name = self.text(key) if self.random.random() < 0.05 else key
                changed[name] = self.value(one) if self.random.random() < 0.4 else one
            if self.random.random() < 0.1:
                changed[self.text("extra")] = self.random.choice(ODD)
            return changed
        if isinstance(value, list):
            return [self.value(one) for one in value] * self.random.choice((0, 1, 1, 2, 40))
        if isinstance(value, str):
            return self.text(value)
        return self.random.choice([value, *ODD])

    def text(self, text: str) -> str:
        characters = list(text)
        for _ in range(self.random.randint(1, 3)):
            place = self.random.randint(0, len(characters))
            kind = self.random.random()
            if kind < 0.4 and characters:
                del characters[place - 1]
            else:
                characters.insert(place, chr(self.random.choice((0, 9, 34, 92, 123, 0x7F, 0xE9, 0x202E, 0x1F600))))
        return "".join(characters)

    def bytes(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.random.randint(1, 4)):
            kind = self.random.random()
            place = self.random.randint(0, max(0, len(changed) - 1))
            if kind < 0.4 and changed:
                changed[place] = self.random.randrange(256)
            elif kind < 0.6:
                del changed[place : place + self.random.randint(1, 8)]
            elif kind < 0.8:
                changed[place:place] = self.random.randbytes(self.random.randint(1, 8))
            else:
                del changed[place:]
        return bytes(changed)

    def json(self, messages: list[dict[str, Any]]) -> str | bytes:
        message = self.value(self.random.choice(messages))
        written = json.dumps(message)
        kind = self.random.random()
        if kind < 0.5:
            return written
        if kind < 0.8:
            return self.bytes(written.encode()).decode("utf-8", "replace")
        if kind < 0.85:
            return "[" * self.random.choice((10, 5000)) + written
        return self.random.randbytes(self.random.randint(0, 60))

    def msgpack(self, messages: list[dict[str, Any]]) -> bytes:
        message = self.value(self.random.choice(messages))
        try:
            written = msgpack.packb(message)
        except (ValueError, OverflowError, UnicodeEncodeError):
            return self.random.randbytes(20)
        return bytes(written) if self.random.random() < 0.5 else self.bytes(written)

    def pairs(self, known: list[tuple[str, str]]) -> list[tuple[str, str]]:
        chosen = self.random.choices(known, k=self.random.randint(0, 6))
        return [
            (
                self.text(name) if self.random.random() < 0.05 else name,
                str(self.random.choice(ODD))
                if self.random.random() < 0.2
                else self.text(value)
                if self.random.random() < 0.4
                else value,
            )
            for name, value in chosen
        ]
