from __future__ import annotations

import io
import wave
from collections.abc import Iterator

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import RATE, contained, recording

from myna.streaming.audio.container import decode_container
from myna.streaming.audio.opus import decode_opus
from myna.streaming.audio.parts import sniff
from myna.streaming.audio.raw import AudioError, Codec, Coded, Encoding, RawDecoder, RawFormat

CONTAINERS = {
    "wav": ("wav", "pcm_s16le", {}),
    "wav 24 bit": ("wav", "pcm_s24le", {}),
    "wav float": ("wav", "pcm_f32le", {}),
    "wav mulaw": ("wav", "pcm_mulaw", {}),
    "flac": ("flac", "flac", {}),
    "mp3": ("mp3", "libmp3lame", {}),
    "ogg opus": ("ogg", "libopus", {}),
    "webm opus": ("webm", "libopus", {}),
    "m4a, index first": ("mp4", "aac", {"movflags": "faststart"}),
    "m4a, fragmented": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}),
    "m4a, index last": ("mp4", "aac", {}),
    "aac": ("adts", "aac", {}),
}


def decode_raw(decoder: RawDecoder, data: bytes, chunk: int) -> list[np.ndarray]:
    parts: list[list[bytes]] = []
    for start in range(0, len(data), chunk):
        decoder.feed(data[start : start + chunk])
        while channels := decoder.read():
            parts.append(channels)
    decoder.finish()
    while channels := decoder.read():
        parts.append(channels)
    decoder.close()
    return joined(parts)


def joined(parts: list[list[bytes]]) -> list[np.ndarray]:
    return [np.frombuffer(b"".join(part), np.int16) for part in zip(*parts, strict=True)]


class Pieces:
    """A feed of chunks of bytes that collects the decoded samples."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self._rest = b""
        self.parts: list[list[bytes]] = []
        self.heard_before_the_end = 0

    def read(self, size: int) -> bytes:
        self._rest = self._rest or (self.packet() or b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def packet(self) -> bytes | None:
        piece = next(self._pieces, None)
        if piece is None and not self.heard_before_the_end:
            self.heard_before_the_end = sum(len(part[0]) // 2 for part in self.parts)
        return piece

    def put(self, channels: list[bytes]) -> None:
        self.parts.append(channels)


def decode(data: bytes, chunk: int, **how: object) -> list[np.ndarray]:
    """Decode a container that arrives in chunks of this size."""
    feed = Pieces([data[start : start + chunk] for start in range(0, len(data), chunk)])
    decode_container(feed, **how)  # type: ignore[arg-type]
    return joined(feed.parts)


def tone(seconds: float, rate: int, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * 32767 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    size = min(len(one), len(other))
    return float(np.corrcoef(one[:size], other[:size])[0, 1])


def test_linear16_at_16_khz_passes_unchanged() -> None:
    pcm = recording("beckett")
    (out,) = decode_raw(RawDecoder(RawFormat(Encoding.LINEAR16, RATE)), pcm.tobytes(), 1001)
    assert np.array_equal(out, pcm)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000])
def test_every_rate_becomes_16_khz_without_shift_in_time(rate: int) -> None:
    (out,) = decode_raw(RawDecoder(RawFormat(Encoding.LINEAR16, rate)), tone(2, rate).tobytes(), 999)
    expected = tone(2, RATE)
    assert abs(len(out) - len(expected)) <= 2
    assert likeness(out[1000:-1000], expected[1000:]) > 0.999


def test_g711_follows_the_tables_of_the_standard() -> None:
    # Decoder outputs at the ends of segments, G.711 tables 2a/2b scaled to 16 bits.
    for encoding, values in (
        (Encoding.MULAW, {0x00: -32124, 0x80: 32124, 0xFF: 0, 0x7F: 0, 0xF0: 120, 0xEF: 132}),
        (Encoding.ALAW, {0x2A: -32256, 0xAA: 32256, 0xD5: 8, 0x55: -8, 0xC5: 264}),
    ):
        (out,) = decode_raw(RawDecoder(RawFormat(encoding, RATE)), bytes(values), 100)
        assert out.tolist() == list(values.values())


def test_float32_is_scaled_and_nan_and_infinities_become_silence() -> None:
    audio = np.array([0.0, 0.5, -1.0, 2.0, np.nan, np.inf], "<f4")
    (out,) = decode_raw(RawDecoder(RawFormat(Encoding.FLOAT32, RATE)), audio.tobytes(), 5)
    assert out.tolist() == [0, 16384, -32768, 32767, 0, 0]


def test_interleaved_channels_are_separated_or_mixed() -> None:
    left, right = np.full(5000, 1000, np.int16), np.full(5000, 3000, np.int16)
    data = np.stack([left, right], axis=1).tobytes()
    assert [c.tolist() for c in decode_raw(RawDecoder(RawFormat(Encoding.LINEAR16, RATE, 2)), data, 7)] == [
        left.tolist(),
        right.tolist(),
    ]
    (mixed,) = decode_raw(RawDecoder(RawFormat(Encoding.LINEAR16, RATE, 2), mix=True), data, 7)
    assert set(mixed.tolist()) == {2000}


RATES = [8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 47_999, 48_000]


@pytest.mark.parametrize("rate", RATES)
def test_raw_audio_is_delayed_by_at_most_five_milliseconds(rate: int) -> None:
    decoder, fed, heard = RawDecoder(RawFormat(Encoding.LINEAR16, rate)), 0, 0
    for _ in range(100):
        decoder.feed(bytes(2 * (rate // 50)))
        fed += rate // 50
        while channels := decoder.read():
            heard += len(channels[0]) // 2
        assert fed / rate - heard / RATE <= 0.005


@pytest.mark.parametrize("rate", RATES)
def test_a_flush_returns_everything_fed_and_does_not_shift_the_samples_after_it(rate: int) -> None:
    sound = tone(2, rate)
    (expected,) = decode_raw(RawDecoder(RawFormat(Encoding.LINEAR16, rate)), sound.tobytes(), 999)
    decoder, parts, fed = RawDecoder(RawFormat(Encoding.LINEAR16, rate)), [], 0
    for size in (1, 333, rate // 3, 7, rate // 2, rate // 5):
        decoder.feed(sound[fed : fed + size].tobytes())
        decoder.flush()
        fed += size
        while channels := decoder.read():
            parts.append(channels[0])
        assert sum(map(len, parts)) // 2 == int(fed * RATE / rate + 0.5)
    decoder.feed(sound[fed:].tobytes())
    decoder.finish()
    while channels := decoder.read():
        parts.append(channels[0])
    out = np.frombuffer(b"".join(parts), np.int16)
    assert len(out) == len(expected) == round(len(sound) * RATE / rate)
    differs = np.flatnonzero(np.abs(out.astype(int) - expected) > 1)
    assert len(differs) < 6 * 0.006 * RATE  # only the milliseconds before each flush, which lack what follows
    quiet = np.setdiff1d(np.arange(len(out)), differs)
    assert np.abs(out[quiet].astype(int) - expected[quiet]).max() <= 1


@pytest.mark.parametrize("rate", RATES)
def test_frequencies_above_eight_kilohertz_do_not_alias(rate: int) -> None:
    if rate < 24_000:
        pytest.skip("there is nothing above")
    (out,) = decode_raw(RawDecoder(RawFormat(Encoding.LINEAR16, rate)), tone(1, rate, 10_000).tobytes(), 999)
    assert np.abs(out[500:-500]).max() < 30  # of 16384: -55 dB


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(list(Encoding)), st.sampled_from([8_000, 16_000, 44_100]), st.integers(1, 8),
    st.lists(st.integers(1, 5000), min_size=1, max_size=6),
)  # fmt: skip
def test_the_same_raw_bytes_give_the_same_samples_however_they_are_split(
    encoding: Encoding, rate: int, channels: int, sizes: list[int]
) -> None:
    data = np.random.default_rng(0).integers(0, 256, 20_003, np.uint8).tobytes()
    audio = RawFormat(encoding, rate, channels)
    whole = decode_raw(RawDecoder(audio), data, len(data))
    decoder, parts, position, index = RawDecoder(audio), [], 0, 0
    while position < len(data):
        size = sizes[index % len(sizes)]
        decoder.feed(data[position : position + size])
        position, index = position + size, index + 1
        while got := decoder.read():
            parts.append(got)
    decoder.finish()
    while got := decoder.read():
        parts.append(got)
    split = [np.frombuffer(b"".join(part), np.int16) for part in zip(*parts, strict=True)]
    assert len(split) == channels
    for one, other in zip(whole, split, strict=True):
        assert len(one) == len(other)
        assert np.abs(one.astype(int) - other.astype(int)).max(initial=0) <= 1  # resampling may round another way


@pytest.mark.parametrize(
    ("rate", "channels", "said"),
    [(7_999, 1, "7999"), (96_000, 1, "96000"), (16_000, 0, "0 channels"), (16_000, 21, "21 channels")],
)
def test_rates_and_channels_out_of_range_are_refused(rate: int, channels: int, said: str) -> None:
    with pytest.raises(AudioError, match=said):
        RawFormat(Encoding.LINEAR16, rate, channels)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers_decode_to_the_encoded_sound(kind: str) -> None:
    container, codec, options = CONTAINERS[kind]
    pcm = recording("beckett")[: 3 * RATE]
    rate = 48_000 if "opus" in codec else RATE
    source = np.repeat(pcm, rate // RATE) if rate != RATE else pcm
    data = contained([source], container, codec, rate=rate, options=options)
    (out,) = decode(data, 1000)
    assert abs(len(out) - len(pcm)) < 0.15 * RATE  # codecs pad their edges
    lag = max(range(0, 2400, 8), key=lambda shift: likeness(out[shift : shift + 2 * RATE], pcm[: 2 * RATE]))
    assert likeness(out[lag : lag + 2 * RATE], pcm[: 2 * RATE]) > 0.9


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_same_container_gives_the_same_samples_however_it_is_split(kind: str) -> None:
    container, codec, options = CONTAINERS[kind]
    rate = 48_000 if "opus" in codec else RATE
    data = contained([tone(1.5, rate)], container, codec, rate=rate, options=options)
    whole = decode(data, len(data))
    for chunk in (113, 4096):
        assert np.array_equal(decode(data, chunk), whole)


@pytest.mark.parametrize("kind", [k for k in CONTAINERS if k != "m4a, index last"])
def test_a_growing_container_is_decoded_while_it_grows(kind: str) -> None:
    container, codec, options = CONTAINERS[kind]
    rate = 48_000 if "opus" in codec else RATE
    noise = np.random.default_rng(1).integers(-9000, 9000, 20 * rate).astype(np.int16)
    data = contained([noise], container, codec, rate=rate, options=options)
    half = len(data) // 2
    feed = Pieces([data[start : min(half, start + 1000)] for start in range(0, half, 1000)])
    decode_container(feed)
    assert feed.heard_before_the_end > 5 * RATE


def test_two_channels_of_a_container_stay_separate() -> None:
    pcm = [tone(1, RATE, 300), tone(1, RATE, 700)]
    left, right = decode(contained(pcm, "flac", "flac"), 999)
    assert likeness(left, pcm[0]) > 0.999
    assert likeness(right, pcm[1]) > 0.999
    (mixed,) = decode(contained(pcm, "flac", "flac"), 999, mix=True)
    assert likeness(mixed, (pcm[0].astype(int) + pcm[1]) // 2) > 0.999


def test_bytes_that_begin_no_container_are_refused_at_once() -> None:
    with pytest.raises(AudioError, match="no container"):
        decode(b"hello, this is no sound", 1000)


def test_too_few_bytes_for_a_container_are_refused_at_the_end() -> None:
    with pytest.raises(AudioError, match="4 bytes"):
        decode(b"RIFF", 1000)


@pytest.mark.parametrize(
    "head",
    [b"RIFF\x00\x00\x00\x00WAVE", b"fLaC" + bytes(8), b"OggS" + bytes(8), b"\x1a\x45\xdf\xa3" + bytes(8)],
)
def test_a_container_of_random_bytes_is_refused(head: bytes) -> None:
    with pytest.raises(AudioError, match=r"cannot be decoded|no audio|damaged"):
        decode(head + np.random.default_rng(0).bytes(300_000), 65_536)


def test_a_truncated_container_yields_the_audio_before_its_end() -> None:
    data = contained([tone(3, RATE)], "flac", "flac")
    (out,) = decode(data[: len(data) // 2], 1000)
    assert len(out) > 0.9 * RATE


def test_compressed_silence_is_decoded_a_frame_at_a_time() -> None:
    feed = Pieces([contained([np.zeros(120 * RATE, np.int16)], "flac", "flac")])
    decode_container(feed)
    assert sum(len(part[0]) for part in feed.parts) == 2 * 120 * RATE
    assert max(len(part[0]) for part in feed.parts) <= 2 * RATE


@pytest.mark.parametrize("channels", [1, 2, 6, 7, 8, 9, 16, 20])
def test_a_wav_of_up_to_twenty_channels_is_decoded_channel_by_channel(channels: int) -> None:
    pcm = np.stack([tone(0.5, RATE, 200 + 50 * number) for number in range(channels)], axis=1)
    heard = decode(wav(pcm), 5000)
    assert len(heard) == channels
    for number, one in enumerate(heard):
        assert np.array_equal(one, pcm[:, number])
    (mixed,) = decode(wav(pcm), 5000, mix=True)
    assert np.abs(mixed - pcm.mean(axis=1)).max() <= 1


@pytest.mark.parametrize(
    ("channels", "rate", "said"),
    [
        (21, RATE, "21 channels"),
        (64, RATE, "64 channels"),
        (1, 1, "1 Hz"),
        (1, 3_999, "3999 Hz"),
        (1, 400_000, "400000 Hz"),
    ],
)
def test_unsupported_rates_and_channel_counts_of_containers_are_refused(channels: int, rate: int, said: str) -> None:
    with pytest.raises(AudioError, match=said):
        decode(wav(np.zeros((rate // 10 + 10, channels), np.int16), rate), 5000)


def wav(pcm: np.ndarray, rate: int = RATE) -> bytes:
    """Return int16 samples, shape [samples, channels], as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(pcm.shape[1])
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(pcm.astype("<i2").tobytes())
    return file.getvalue()


def pitch(pcm: np.ndarray) -> int:
    """The loudest frequency of the second from 0.5 on, in Hz."""
    return int(np.abs(np.fft.rfft(pcm[RATE // 2 : RATE // 2 + RATE])).argmax())


def packets(container: bytes) -> list[bytes]:
    with av.open(io.BytesIO(container)) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


def opus(pieces: list[bytes]) -> np.ndarray:
    feed = Pieces(pieces)
    decode_opus(feed, 1)
    return joined(feed.parts)[0]


def test_bare_opus_packets_decode_like_the_same_packets_in_ogg() -> None:
    ogg = contained([tone(2, 48_000)], "ogg", "libopus", rate=48_000)
    bare = opus(packets(ogg))
    assert len(bare) / RATE == pytest.approx(2, abs=0.05)
    assert pitch(bare) == pytest.approx(440, abs=3)
    chunks = [ogg[start : start + 999] for start in range(0, len(ogg), 999)]
    assert len(opus(chunks)) == pytest.approx(2 * RATE, abs=400)


def test_a_damaged_opus_packet_is_skipped_and_a_stream_of_them_is_refused() -> None:
    good = packets(contained([tone(2, 48_000)], "ogg", "libopus", rate=48_000))
    heard = opus([*good[:20], b"\xff" * 3, *good[20:]])
    assert len(heard) / RATE == pytest.approx(2, abs=0.05)
    with pytest.raises(AudioError, match="Opus"):
        opus([b"\xff" * 3] * 3)
    with pytest.raises(AudioError, match="in a row"):
        opus([*good, *[b"\xff" * 3] * 60])
    with pytest.raises(AudioError, match="3 channels"):
        Coded(Codec.OPUS, 3)


@pytest.mark.parametrize("headless", [False, True])
def test_amr_is_decoded_with_and_without_its_header(headless: bool) -> None:
    amr = contained([tone(2, 8_000)], "amr", "libopencore_amrnb", rate=8_000)
    data = amr.removeprefix(b"#!AMR\n") if headless else amr
    (out,) = decode(data, 100, codec=Codec.AMR_NB)
    assert len(out) / RATE == pytest.approx(2, abs=0.05)
    assert pitch(out) == pytest.approx(440, abs=3)


@pytest.mark.parametrize(
    ("codec", "frame", "frames_a_second"), [(Codec.AMR_WB, b"\x7c", 50), (Codec.G729, bytes(10), 100)]
)
def test_other_telephony_codecs_keep_the_duration(codec: Codec, frame: bytes, frames_a_second: int) -> None:
    (out,) = decode(frame * 2 * frames_a_second, 64, codec=codec)
    assert len(out) / RATE == pytest.approx(2, abs=0.1)


def test_sniffing_recognises_every_supported_container() -> None:
    for container, codec, options in CONTAINERS.values():
        rate = 48_000 if "opus" in codec else RATE
        assert sniff(contained([tone(0.5, rate)], container, codec, rate=rate, options=options)[:16]) is not None
