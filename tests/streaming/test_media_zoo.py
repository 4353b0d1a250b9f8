"""Media of many formats, as a file and live, compared with FFmpeg's own decoding and time stamps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from media_zoo import FRAGMENTED, JOINED, LYING, ONE, PARTS, PCM, SPEECH, Made, heard_by_ffmpeg, made, of, wav_said
from sounds import RATE

from myna.media.files import decode_file
from myna.streaming.audio.container import decode_container
from myna.streaming.audio.raw import AudioError, Coded
from myna.streaming.audio.timestamps import Stamps


class Pieces:
    """A feed of a live stream, in chunks of 3000 bytes, that collects the decoded samples."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._parts: list[list[bytes]] = []

    def read(self, size: int) -> bytes:
        data = self._data[self._position : self._position + min(size, 3000)]
        self._position += len(data)
        return data

    def packet(self) -> bytes | None:
        return self.read(3000) or None

    def put(self, channels: list[bytes]) -> None:
        self._parts.append(channels)

    @property
    def heard(self) -> list[np.ndarray]:
        return [np.frombuffer(b"".join(part), np.int16) for part in zip(*self._parts, strict=True)]


def live(data: bytes, _folder: Path, *, mix: bool = True) -> list[np.ndarray]:
    feed = Pieces(data)
    decode_container(feed, mix=mix)
    return feed.heard


def file(data: bytes, folder: Path, *, mix: bool = True) -> list[np.ndarray]:
    (folder / "sound").write_bytes(data)
    feed = Pieces(b"")
    decode_file(folder / "sound", Coded(), feed, mix=mix)
    return feed.heard


WAYS = pytest.mark.parametrize("way", [live, file])
Way = Callable[..., list[np.ndarray]]


def assert_alike(heard: np.ndarray, expected: np.ndarray, shift_s: float = 0.002) -> None:
    """Assert that both have the same audio at the same times: no second with sound is shifted by more than `shift_s`."""
    assert abs(len(heard) - len(expected)) < 0.1 * RATE
    for start in range(0, len(expected) - RATE, RATE):
        one, other = (pcm[start : start + RATE].astype(float) for pcm in (heard, expected))
        if np.abs(other).max() < 1000:
            assert np.abs(one).max() < 2000
            continue
        product = np.fft.irfft(np.fft.rfft(one, 2 * RATE) * np.conj(np.fft.rfft(other, 2 * RATE)))
        shift = (int(product.argmax()) + RATE) % (2 * RATE) - RATE
        assert abs(shift) <= shift_s * RATE, start / RATE
        assert product.max() > 0.9 * np.sqrt((one**2).sum() * (other**2).sum()), start / RATE


@WAYS
@pytest.mark.parametrize("kind", ONE)
def test_a_file_decodes_as_by_ffmpeg_at_the_times_of_its_stamps(kind: str, way: Way, tmp_path: Path) -> None:
    data = made(of(SPEECH, ONE[kind]), ONE[kind])
    (heard,) = way(data, tmp_path)
    assert_alike(heard, heard_by_ffmpeg(data))


@WAYS
@pytest.mark.parametrize("kind", JOINED)
def test_concatenated_files_decode_as_each_file_alone(kind: str, way: Way, tmp_path: Path) -> None:
    parts = [made(of(sound, how), how) for sound, how in zip(PARTS, JOINED[kind], strict=False)]
    (heard,) = way(b"".join(parts), tmp_path)
    # The padding of an MP3 is decoded if the MP3 is not alone; FFmpeg rounds the start of a WebM to 7 ms.
    shift_s = 0.05 if kind.startswith("mp3") else 0.01
    assert_alike(heard, np.concatenate([heard_by_ffmpeg(part) for part in parts]), shift_s)


@WAYS
@pytest.mark.parametrize("kind", LYING)
def test_a_wav_with_wrong_lengths_in_its_header_is_decoded_to_its_end(kind: str, way: Way, tmp_path: Path) -> None:
    (heard,) = way(LYING[kind], tmp_path)
    assert np.array_equal(heard, PCM)


@WAYS
def test_a_truncated_file_is_decoded_to_its_end(way: Way, tmp_path: Path) -> None:
    for how in (Made("mp4", "aac", options=FRAGMENTED), Made("webm", "libopus", 48_000), Made("wav", "pcm_s16le")):
        data = made(SPEECH, how)
        (heard,) = way(data[: len(data) // 2], tmp_path)
        assert 0.35 * len(PCM) < len(heard) < 0.6 * len(PCM)


@WAYS
@pytest.mark.parametrize("first", ["mono", "stereo"])
def test_a_stream_keeps_its_first_number_of_channels(first: str, way: Way, tmp_path: Path) -> None:
    hows = [Made("ogg", "libopus", 48_000, layout) for layout in (first, "mono", "stereo", first)]
    heard = way(b"".join(made(of(PARTS[0], how), how) for how in hows), tmp_path, mix=False)
    assert len(heard) == (1 if first == "mono" else 2)
    for channel in heard:
        assert_alike(channel, np.concatenate(4 * [PCM[: 3 * RATE]]), 0.01)


@WAYS
@pytest.mark.parametrize("by", [1e6, 1e9])
def test_stamps_that_jump_ahead_add_no_hours_of_silence_and_lose_no_audio(by: float, way: Way, tmp_path: Path) -> None:
    data = made(SPEECH, Made("matroska", "libopus", 48_000, from_=20_000, jumps=((3.0, by),)))
    (heard,) = way(data, tmp_path)
    assert_alike(heard, PCM, 0.01)


def test_repeatedly_wrong_stamps_add_no_days_of_silence(tmp_path: Path) -> None:
    jumps = tuple((0.1 * number, 1700.0) for number in range(1, 90))
    (heard,) = live(made(SPEECH, Made("matroska", "libopus", 48_000, jumps=jumps)), tmp_path)
    assert len(heard) < 2 * 3600 * RATE


@WAYS
@pytest.mark.parametrize("stamps", [(5000.0, 10.0), (10.0, 9000.0), (100.0, 100.5), (100.0, 99.0)])
def test_a_transport_stream_whose_stamps_restart_is_decoded_without_a_gap(
    stamps: tuple[float, float], way: Way, tmp_path: Path
) -> None:
    parts = [
        made(sound, Made("mpegts", "mp2", 48_000, from_=begin)) for sound, begin in zip(PARTS[:2], stamps, strict=True)
    ]
    (heard,) = way(b"".join(parts), tmp_path)
    assert_alike(heard, np.concatenate([heard_by_ffmpeg(part) for part in parts]), 0.01)


def test_jitter_of_stamps_adds_no_silence() -> None:
    stamps, chance = Stamps(), np.random.default_rng(0)
    stamps.begin(0.0)
    stamps.hole(0.0, 0.0)
    for number in range(1, 1000):
        assert not stamps.hole(0.02 * number + chance.uniform(-0.04, 0.04), 0.02 * number)


def test_a_gap_after_an_overlap_compensates_it() -> None:
    stamps = Stamps()
    stamps.begin(10.0)
    assert stamps.hole(0.0, 10.0) == 0
    assert stamps.hole(0.5, 11.0) == 0  # the audio is half a second ahead
    assert stamps.ahead == 0.5
    assert stamps.hole(2.0, 11.5) == pytest.approx(0.5)


def test_many_short_parts_of_odd_rates_add_up_to_their_duration(tmp_path: Path) -> None:
    parts = [wav_said(PCM[:size], rate, 2 * size) for size, rate in 40 * [(1001, 11_025), (777, 44_100), (333, 22_050)]]
    (heard,) = live(b"".join(parts), tmp_path)
    exact = 40 * (1001 / 11_025 + 777 / 44_100 + 333 / 22_050)
    assert abs(len(heard) - exact * RATE) <= 1


@pytest.mark.parametrize("kind", ["webm", "flac", "mp3", "mp4"])
def test_garbage_after_the_end_of_a_live_stream_is_an_error_after_its_audio(kind: str) -> None:
    codec = {"webm": "libopus", "flac": "flac", "mp3": "libmp3lame", "mp4": "aac"}[kind]
    data = made(SPEECH, Made(kind, codec, 48_000)) + np.random.default_rng(0).bytes(100_000)
    feed = Pieces(data)
    with pytest.raises(AudioError):
        decode_container(feed, mix=True)
    assert len(feed.heard[0]) > 0.95 * len(PCM)
