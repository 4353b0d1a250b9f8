"""Decodes raw audio into int16 samples at 16 kHz for each channel, and defines the audio formats that clients may announce.

A decoder keeps state between calls: incomplete samples and the resampler. The samples do not depend on how the bytes were
split.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from myna.streaming.audio.mixing import Mixer
from myna.streaming.audio.resampling import Resampler
from myna.streaming.events import SAMPLE_RATE

MOST_CHANNELS = 20
"""Deepgram's limit. Each channel costs as much as a stream."""
LOWEST_RATE = 8_000
HIGHEST_RATE = 48_000
PORTION = 10 * SAMPLE_RATE
"""Samples that a decoder returns at a time, so that a long frame or compressed silence does not fill the memory."""
STEP_BYTES = 65_536
"""Raw audio decoded at a time. Decoding it blocks the event loop for one or two milliseconds."""


class AudioError(Exception):
    """The bytes are not audio of the announced format, or the format is not supported. The message is for the client."""


class Encoding(StrEnum):
    """Encodings of raw audio, by the names that clients use."""

    LINEAR16 = "linear16"
    FLOAT32 = "float32"
    MULAW = "mulaw"
    ALAW = "alaw"


@dataclass(frozen=True, slots=True)
class RawFormat:
    """Interleaved raw audio: encoding, samples per second, channels. Raises `AudioError` if a value is out of range."""

    encoding: Encoding
    sample_rate: int
    channels: int = 1

    def __post_init__(self) -> None:
        if not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            raise AudioError(f"sample_rate must be from {LOWEST_RATE} to {HIGHEST_RATE} Hz, not {self.sample_rate}")
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise AudioError(
                f"{self.channels} channels are not supported: the number must be from 1 to {MOST_CHANNELS}"
            )


class Codec(StrEnum):
    """Codecs whose audio may be sent without a container."""

    AMR_NB = "amrnb"
    AMR_WB = "amrwb"
    G729 = "g729"
    OPUS = "opus"
    """Each chunk of bytes is one packet. The other codecs are streams of bytes."""


@dataclass(frozen=True, slots=True)
class Coded:
    """Compressed audio: a container, or audio of `codec` if its first bytes begin no container."""

    codec: Codec | None = None
    channels: int = 1
    """The channels of bare Opus packets. The other codecs have one channel; a container says how many it has."""

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= 2:
            raise AudioError(
                f"{self.channels} channels of compressed audio are not supported: the number must be 1 or 2"
            )


class Converter:
    """Converts float samples at one rate, shape [samples, channels], to int16 bytes of each channel or their mix, at `to` Hz.

    `positions` are the channels' positions by FFmpeg's names (FL, FC …), "" if unknown.
    """

    def __init__(self, rate: int, positions: Sequence[str], *, mix: bool, to: int = SAMPLE_RATE) -> None:
        self._mixer = Mixer(rate, positions) if mix and len(positions) > 1 else None
        self._resampler = Resampler(rate, 1 if mix else len(positions), to)

    def convert(self, audio: np.ndarray) -> list[bytes]:
        """Return the int16 bytes that follow from these samples, for each channel."""
        return _int16(self._resampler.resample(self._mixer.mix(audio) if self._mixer else audio))

    def flush(self) -> list[bytes]:
        """Return what the filter has buffered, as if silence followed. More samples may follow."""
        return _int16(self._resampler.flush())


def _int16(audio: np.ndarray) -> list[bytes]:
    whole = np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)
    return [whole[:, channel].tobytes() for channel in range(whole.shape[1])]


class RawDecoder:
    """Decodes headerless audio."""

    def __init__(self, audio: RawFormat, *, mix: bool = False) -> None:
        self._format = audio
        self._frame = audio.channels * _BYTES[audio.encoding]
        self._portion = STEP_BYTES // self._frame * self._frame
        self._waiting = b""
        self._at = 0  # the bytes of `_waiting` that have been read
        self._flush = False
        self._converter = Converter(audio.sample_rate, [""] * audio.channels, mix=mix)
        self._is_output = audio == RawFormat(Encoding.LINEAR16, SAMPLE_RATE)

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._waiting = self._waiting[self._at :] + data if self._left else data
        self._at = 0

    def flush(self) -> None:
        """Make the next reads return everything fed so far, including the filter's buffer. More bytes may follow."""
        self._flush = True

    def finish(self) -> None:
        """Take note that no more bytes follow; an incomplete last sample is dropped."""
        self.flush()

    @property
    def steps_waiting(self) -> bool:
        """Whether at least `STEP_BYTES` of bytes wait to be decoded."""
        return self._left >= self._portion

    @property
    def is_empty(self) -> bool:
        """Whether the next read returns nothing unless more is fed."""
        return self._left < self._frame and not self._flush

    def read(self) -> list[bytes]:
        """Return the samples of each channel from the next `STEP_BYTES` at most; an empty list until more is fed."""
        size = min(self._left // self._frame * self._frame, self._portion)
        if size:
            data = self._waiting[self._at : self._at + size]
            self._at += size
            if self._is_output:
                return [data]
            return self._converter.convert(to_float(data, self._format.encoding).reshape(-1, self._format.channels))
        if self._flush:
            self._flush = False
            kept_back = self._converter.flush()
            return kept_back if kept_back[0] else []
        return []

    def close(self) -> None:
        """Drop the bytes that wait."""
        self._waiting, self._at = b"", 0

    @property
    def _left(self) -> int:
        return len(self._waiting) - self._at


class PcmQueue:
    """Collects decoded samples of each channel until they are taken."""

    def __init__(self) -> None:
        self._parts: deque[list[bytes]] = deque()
        self.samples = 0

    def put(self, channels: list[bytes]) -> None:
        """Add the next samples of each channel."""
        if channels and channels[0]:
            self._parts.append(channels)
            self.samples += len(channels[0]) // 2

    def take(self) -> list[bytes]:
        """Remove and return everything held."""
        if not self._parts:
            return []
        joined = [b"".join(part) for part in zip(*self._parts, strict=True)]
        self._parts.clear()
        self.samples = 0
        return joined


def _expand(code: np.ndarray, *, mu: bool) -> np.ndarray:
    """Return the linear values of G.711 codes (ITU-T G.711, tables 1 and 2), as floats in [-1, 1)."""
    if mu:
        code = ~code & 0xFF
        exponent, mantissa = (code >> 4) & 7, code & 15
        value = (((mantissa << 3) + 0x84) << exponent) - 0x84
        negative = code & 0x80
    else:
        code = code ^ 0x55
        exponent, mantissa = (code >> 4) & 7, code & 15
        value = np.where(exponent > 0, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0), (mantissa << 4) + 8)
        negative = ~code & 0x80
    return (np.where(negative != 0, -value, value) / 32768.0).astype(np.float32)


_BYTES = {Encoding.LINEAR16: 2, Encoding.FLOAT32: 4, Encoding.MULAW: 1, Encoding.ALAW: 1}
_G711 = {
    Encoding.MULAW: _expand(np.arange(256), mu=True),
    Encoding.ALAW: _expand(np.arange(256), mu=False),
}


def to_float(data: bytes, encoding: Encoding) -> np.ndarray:
    """Return the samples as floats from -1 to 1; NaN and infinities become silence."""
    if encoding is Encoding.LINEAR16:
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768.0
    if encoding is Encoding.FLOAT32:
        audio = np.nan_to_num(np.frombuffer(data, "<f4").astype(np.float32), posinf=0.0, neginf=0.0)
        return np.clip(audio, -1.0, 1.0)
    return _G711[encoding][np.frombuffer(data, np.uint8)]
