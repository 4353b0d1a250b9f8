"""Resamples any rate to another, usually 16 kHz, with a delay of a few milliseconds; a flush returns everything received."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, gcd

import numpy as np

from myna.streaming.events import SAMPLE_RATE

_CROSSINGS = 32
"""Zero crossings of the filter on each side. They set its delay: 4 ms at 8 kHz, 2 ms at 16 kHz and above."""
_SHAPE = 8.0
"""The shape of the Kaiser window: it attenuates the stop band by 80 dB."""
_EDGE = 0.95
"""The middle of the filter's transition band, as a share of the lower Nyquist frequency of the two rates."""
_LONGEST_PERIOD = 1_000
"""The longest period, in inputs, of the outputs' positions between the inputs; in longer periods positions are rounded."""
_PLACES = 512
"""The positions between two inputs to which outputs are then rounded: an error of -60 dB at 8 kHz, less below."""
_GROUP = 32
"""The most outputs that one product computes."""
_LARGEST_PRODUCT = 9_000
"""The most coefficients in a group's filters: OpenBLAS starts threads for a vector times more than 9216."""
_ROWS = 32
"""The most rows that are computed at once."""


class Resampler:
    """Resamples float samples, shape [samples, channels], from one rate in Hz to another.

    Output k is the input at the time k / `to` s: there is no shift, and rounding errors do not add up. The outputs do not
    depend on how the input was split.
    """

    def __init__(self, rate: int, channels: int, to: int = SAMPLE_RATE) -> None:
        common = gcd(rate, to)
        self._outputs, self._inputs = to // common, rate // common  # per period
        self._half = _half_length(self._outputs, self._inputs)
        self._bank = _bank(self._outputs, self._inputs) if self._inputs <= _LONGEST_PERIOD else None
        self._audio = np.zeros((channels, self._half), np.float64)  # the inputs of later outputs; silence at first
        self._begin = -self._half  # the first sample of `_audio`
        self._received = 0
        self._made = 0

    def resample(self, audio: np.ndarray) -> np.ndarray:
        """Return the outputs that these samples complete."""
        self._received += len(audio)
        if self._inputs == self._outputs:
            self._made = self._received
            return audio
        self._audio = np.concatenate([self._audio, audio.T], axis=1)
        return self._make(-((self._half - self._received) * self._outputs // self._inputs))

    def flush(self) -> np.ndarray:
        """Return the outputs up to the last sample received, as if silence followed. The stream may continue."""
        return self._make((2 * self._received * self._outputs + self._inputs) // (2 * self._inputs))

    def _make(self, end: int) -> np.ndarray:
        """Return the outputs that have not been made, up to output `end`."""
        if end <= self._made:
            return np.zeros((0, len(self._audio)), np.float64)
        made = self._in_groups(self._bank, end) if self._bank else self._one_by_one(end)
        self._made = end
        keep = end // self._outputs * self._inputs - self._half  # groups begin with a period
        if keep > self._begin:
            self._audio = self._audio[:, keep - self._begin :]
            self._begin = keep
        return made

    def _in_groups(self, bank: _Bank, end: int) -> np.ndarray:
        first = self._made // self._outputs
        skip = self._made - first * self._outputs
        rows = -(-(end - first * self._outputs) // bank.outputs)
        audio = self._from(first * self._inputs - self._half, (rows - 1) * bank.inputs + bank.reach)
        made = [self._rows(bank, channel, rows)[skip : end - first * self._outputs] for channel in audio]
        return made[0][:, None] if len(made) == 1 else np.stack(made, axis=1)

    def _rows(self, bank: _Bank, audio: np.ndarray, rows: int) -> np.ndarray:
        """Return the outputs of `rows` rows, whose inputs begin with this audio."""
        if rows > _ROWS:
            parts = [
                self._rows(bank, audio[row * bank.inputs :], min(_ROWS, rows - row)) for row in range(0, rows, _ROWS)
            ]
            return np.concatenate(parts)
        groups, width, size = bank.filters.shape
        if groups == 1:  # the inputs of consecutive rows lie at equal distances
            strides = (bank.inputs * audio.itemsize, audio.itemsize)
            windows = np.ndarray((rows, width), np.float64, np.ascontiguousarray(audio), 0, strides)
            return np.asarray((windows.copy() @ bank.filters[0]).reshape(-1))
        product = audio[_places(self._outputs, self._inputs, rows)] @ bank.filters  # [groups, rows, outputs of a group]
        return np.asarray(product.transpose(1, 0, 2).reshape(rows, groups * size)[:, : bank.outputs].reshape(-1))

    def _one_by_one(self, end: int) -> np.ndarray:
        filters = _rounded_filters(self._outputs, self._inputs)
        parts = []
        for first in range(self._made, end, _ROWS * _GROUP):
            places = np.arange(first, min(end, first + _ROWS * _GROUP)) * self._inputs * _PLACES // self._outputs
            whole, place = np.divmod(places, _PLACES)
            begin = int(whole[0]) - self._half
            audio = self._from(begin, int(whole[-1]) + self._half + 1 - begin)
            indices, wanted = (whole - whole[0])[:, None] + np.arange(filters.shape[1]), filters[place]
            parts.append(np.stack([np.einsum("nt,nt->n", channel[indices], wanted) for channel in audio], axis=1))
        return np.concatenate(parts)

    def _from(self, begin: int, size: int) -> np.ndarray:
        """Return `size` inputs from sample `begin` on; samples not received yet are silence."""
        audio = self._audio[:, begin - self._begin : begin - self._begin + size]
        missing = size - audio.shape[1]
        return np.concatenate([audio, np.zeros((len(audio), missing), np.float64)], axis=1) if missing else audio


@dataclass(frozen=True, slots=True)
class _Bank:
    """Filters of a row of outputs. The row consists of groups of neighbouring outputs; one product computes a group."""

    filters: np.ndarray
    """Shape [groups, inputs, outputs of a group]."""
    starts: np.ndarray
    """The first input of each group, counted from half a filter before the row's first output."""
    inputs: int
    """The inputs from one row to the next: a whole number of periods."""
    outputs: int
    """The outputs of a row; the last group may compute more, which are dropped."""
    reach: int
    """The inputs that a row depends on."""


def _half_length(outputs: int, inputs: int) -> int:
    """Return the length of the filter on each side, in input samples."""
    return ceil(_CROSSINGS * max(1.0, inputs / outputs))


def _filter(offsets: np.ndarray, outputs: int, inputs: int) -> np.ndarray:
    """Return the filter's coefficients at these distances from its middle, in input samples."""
    slope = _EDGE * min(1.0, outputs / inputs)
    inside = np.clip(1 - (offsets / _half_length(outputs, inputs)) ** 2, 0, None)
    return slope * np.sinc(slope * offsets) * np.i0(_SHAPE * np.sqrt(inside)) / np.i0(_SHAPE) * (inside > 0)


@lru_cache(maxsize=16)
def _bank(outputs: int, inputs: int) -> _Bank:
    half = _half_length(outputs, inputs)
    most = max(
        n for n in range(1, _GROUP + 1) if n == 1 or n * (2 * half + 2 + n * inputs / outputs) <= _LARGEST_PRODUCT
    )
    periods = max(1, most // outputs)
    count = periods * outputs
    groups = -(-count // most)
    size = -(-count // groups)
    middles = np.arange(groups * size).reshape(groups, 1, size) * inputs / outputs
    starts = np.floor(middles[:, 0, 0]).astype(np.int64)
    width = int(np.floor(middles[:, 0, -1] - starts).max()) + 2 * half + 1
    filters = _filter((starts[:, None] + np.arange(width) - half)[:, :, None] - middles, outputs, inputs)
    filters /= filters.sum(axis=1, keepdims=True)
    reach = int(starts[-1]) + width
    return _Bank(filters.astype(np.float64), starts, periods * inputs, count, reach)


@lru_cache(maxsize=64)
def _places(outputs: int, inputs: int, rows: int) -> np.ndarray:
    """Return the indices of the inputs of `rows` rows, shape [groups, rows, inputs]."""
    bank = _bank(outputs, inputs)
    row = np.arange(rows)[None, :, None] * bank.inputs
    return bank.starts[:, None, None] + row + np.arange(bank.filters.shape[1])


@lru_cache(maxsize=4)
def _rounded_filters(outputs: int, inputs: int) -> np.ndarray:
    """Return the filter for each of the positions between two inputs, shape [positions, inputs]."""
    half = _half_length(outputs, inputs)
    offsets = np.arange(-half, half + 1) - (np.arange(_PLACES)[:, None] + 0.5) / _PLACES
    filters = _filter(offsets, outputs, inputs)
    filters /= filters.sum(axis=1, keepdims=True)
    return np.asarray(filters, np.float64)
