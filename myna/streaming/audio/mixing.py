"""Mixes several channels into one, so that speech on any of them stays audible.

The plain mean loses speech in three ways: dialogue in the centre of a film is quieter than the music around it, channels of
opposite phase cancel each other, and silent channels lower the level of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BLOCKS_A_SECOND = 50
"""The channels are compared in blocks of 20 ms. The result applies from the next block on, so that no audio is delayed."""
_MEMORY = 0.85
"""The factor by which the comparison decays per block: it covers about 120 ms."""
_RELEASE = 0.98
"""The factor by which a channel's level decays per silent block: a loud channel counts as active for nine seconds more."""
_SILENT = 1e-4
"""A channel whose power is 40 dB below the loudest is silent."""
_LOST, _KEPT = 0.3, 0.5
"""A channel is excluded when another keeps less than 0.3 of its sound in the mix, and comes back when it would keep 0.5."""
_MATTERS = 1e-3
"""A channel whose power is 30 dB below the loudest may be cancelled: it is hardly audible."""
_LOUD = 0.1
"""The power of a block, relative to the loudest channel's, that alone brings an excluded channel back."""
_FAINT = 1e-8
"""The power below which channels are not compared: -80 dB of full scale."""
_MUCH_LOUDER = 4.0
"""Of two channels that cancel each other, the same one is kept until the other has this many times its power."""
_POSITIONS = {
    "FL": 1.0, "FR": 1.0, "FC": 1.414, "LFE": 0.0, "LFE2": 0.0, "BC": 0.707, "DL": 1.0, "DR": 1.0, "TFC": 1.0, "FLC": 1.0,
    "FRC": 1.0, "WL": 1.0, "WR": 1.0,
}  # fmt: skip
"""Weights by position, as in the stereo mix of ITU-R BS.775 and FFmpeg, where the centre plays on both loudspeakers."""
_SURROUND = 0.707


def weights(positions: Sequence[str]) -> tuple[float, ...]:
    """Return the weights of channels at these positions, by FFmpeg's names; equal weights if there are only subwoofers."""
    known = tuple(_POSITIONS.get(position, _SURROUND) for position in positions)
    return known if any(known) else (1.0,) * len(positions)


class Mixer:
    """Mixes float samples, shape [samples, channels], into one channel: [samples, 1]. Splitting the input changes nothing.

    The weights are divided by the sum of the active channels' weights, so that a voice has the same level whatever the other
    channels carry. Of two channels that cancel each other, one is excluded. Weights change gradually over a block, without
    clicks.
    """

    def __init__(self, rate: int, positions: Sequence[str]) -> None:
        self._weights = weights(positions)
        self._size = max(1, rate // _BLOCKS_A_SECOND)
        channels = len(positions)
        self._block = np.zeros((0, channels), np.float32)  # the samples of the current block so far
        self._covariance = [0.0] * channels * channels
        self._levels = [0.0] * channels
        self._left_out: frozenset[int] = frozenset()
        self._gains = self._last_gains = np.array(self._weights, np.float32) / np.float32(sum(self._weights))

    def mix(self, audio: np.ndarray) -> np.ndarray:
        """Return the mix of these samples."""
        begun = len(self._block)
        compared = np.concatenate([self._block, audio]) if begun else audio
        whole = len(compared) // self._size
        blocks = compared[: whole * self._size].reshape(whole, self._size, audio.shape[1])
        self._block = compared[whole * self._size :]
        gains = [(self._last_gains, self._gains)]
        for covariance in (
            (np.matmul(blocks.transpose(0, 2, 1), blocks) / self._size).reshape(whole, len(self._covariance)).tolist()
        ):
            self._last_gains = self._gains
            self._compare(covariance)
            gains.append((self._last_gains, self._gains))
        if all(last is self._gains and now is self._gains for last, now in gains):
            return _weighted(audio, self._gains)[:, None]
        parts, position = [], 0
        for last, now in gains:
            part = audio[position : position + self._size - begun]
            parts.append(_faded(part, last, now, begun, self._size))
            position, begun = position + len(part), 0
        return np.concatenate(parts)[:, None]

    def _compare(self, covariance: list[float]) -> None:
        """Set the gains of the next block from the covariance of the last one, given row by row."""
        channels = len(self._levels)
        self._covariance = [
            _MEMORY * old + (1 - _MEMORY) * new for old, new in zip(self._covariance, covariance, strict=True)
        ]
        powers = covariance[:: channels + 1]
        self._levels = [max(_RELEASE * level, power) for level, power in zip(self._levels, powers, strict=True)]
        loudest = max(self._levels)
        if loudest < _FAINT:
            return
        if any(self._has_its_own(channel, covariance, loudest) for channel in self._left_out):
            self._covariance = covariance
        sounding = [channel for channel, level in enumerate(self._levels) if level > _SILENT * loudest]
        self._left_out = self._cancelling(sounding, _KEPT if self._left_out else _LOST)
        kept = [0.0 if channel in self._left_out else weight for channel, weight in enumerate(self._weights)]
        gains = np.array(kept, np.float32) / np.float32(sum(kept[channel] for channel in sounding) or sum(kept))
        if not np.array_equal(gains, self._gains):
            self._gains = gains

    def _has_its_own(self, channel: int, covariance: list[float], loudest: float) -> bool:
        """Return whether an excluded channel now has loud sound that no other cancels, so that the past must not count."""
        row = covariance[channel * len(self._levels) : (channel + 1) * len(self._levels)]
        heard = sum(with_other * weight for with_other, weight in zip(row, self._weights, strict=True))
        return row[channel] > _LOUD * loudest and heard > _KEPT * self._weights[channel] * row[channel]

    def _cancelling(self, sounding: list[int], least: float) -> frozenset[int]:
        """Return the channels to exclude, so that each audible channel keeps at least this part of its weight in the mix."""
        channels, covariance = len(self._levels), self._covariance
        power = covariance[:: channels + 1]
        floor = _MATTERS * max(power)
        kept = dict.fromkeys((channel for channel in range(channels) if self._weights[channel]), True)
        left_out: set[int] = set()
        while True:
            lost = [
                one
                for one in sounding
                if one in kept
                and power[one] > floor
                and sum(covariance[one * channels + other] * self._weights[other] for other in kept)
                < least * self._weights[one] * power[one]
            ]
            if not lost:
                return frozenset(left_out)
            one = max(lost, key=lambda channel: power[channel])
            other = min(kept, key=lambda channel: covariance[one * channels + channel] * self._weights[channel])
            if covariance[one * channels + other] >= 0:
                return frozenset(left_out)
            weaker = self._weaker(one, other, power)
            left_out.add(weaker)
            del kept[weaker]

    def _weaker(self, one: int, other: int, power: list[float]) -> int:
        """Return which of two channels to exclude: the one excluded before, or the later one, unless it is much louder."""
        first, second = sorted((one, other), key=lambda channel: (channel in self._left_out, channel))
        loudness = [self._weights[channel] ** 2 * power[channel] for channel in (first, second)]
        return first if loudness[1] > _MUCH_LOUDER * loudness[0] else second


def _weighted(audio: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return the weighted sum of the channels, added in their order, so that splitting the input changes nothing."""
    mixed = audio[:, 0] * gains[0]
    for channel in range(1, len(gains)):
        mixed += audio[:, channel] * gains[channel]
    return np.asarray(mixed)


def _faded(part: np.ndarray, last: np.ndarray, now: np.ndarray, position: int, size: int) -> np.ndarray:
    """Return a mix whose gains change over a block of this size, in which the part begins at this position."""
    mixed = _weighted(part, now)
    if last is now:
        return mixed
    ramp = np.arange(position + 1, position + 1 + len(part), dtype=np.float32) / np.float32(size)
    return np.asarray(mixed * ramp + _weighted(part, last) * (1 - ramp))
