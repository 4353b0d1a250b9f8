from __future__ import annotations

import io

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import RATE, contained, recording

from myna.streaming.audio import PORTION, AudioError, Codec, Coded, Decoder, Encoding, RawDecoder, RawFormat
from myna.streaming.container import ContainerDecoder, sniff
from myna.streaming.opus import OpusDecoder

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


def decode(decoder: Decoder, data: bytes, chunk: int) -> list[np.ndarray]:
    parts: list[list[bytes]] = []
    for start in range(0, len(data), chunk):
        decoder.feed(data[start : start + chunk])
        while channels := decoder.read():
            parts.append(channels)
    decoder.finish()
    while channels := decoder.read():
        parts.append(channels)
    decoder.close()
    return [np.frombuffer(b"".join(part), np.int16) for part in zip(*parts, strict=True)]


def tone(seconds: float, rate: int, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * 32767 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    size = min(len(one), len(other))
    return float(np.corrcoef(one[:size], other[:size])[0, 1])


def test_linear16_at_16_khz_passes_unchanged() -> None:
    pcm = recording("beckett")
    (out,) = decode(RawDecoder(RawFormat(Encoding.LINEAR16, RATE)), pcm.tobytes(), 1001)
    assert np.array_equal(out, pcm)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000])
def test_every_rate_becomes_16_khz_without_shift_in_time(rate: int) -> None:
    (out,) = decode(RawDecoder(RawFormat(Encoding.LINEAR16, rate)), tone(2, rate).tobytes(), 999)
    expected = tone(2, RATE)
    assert abs(len(out) - len(expected)) <= 2
    assert likeness(out[1000:-1000], expected[1000:]) > 0.999


def test_g711_follows_the_tables_of_the_standard() -> None:
    # Decoder outputs at the ends of segments, G.711 tables 2a/2b scaled to 16 bits.
    for encoding, values in (
        (Encoding.MULAW, {0x00: -32124, 0x80: 32124, 0xFF: 0, 0x7F: 0, 0xF0: 120, 0xEF: 132}),
        (Encoding.ALAW, {0x2A: -32256, 0xAA: 32256, 0xD5: 8, 0x55: -8, 0xC5: 264}),
    ):
        (out,) = decode(RawDecoder(RawFormat(encoding, RATE)), bytes(values), 100)
        assert out.tolist() == list(values.values())


def test_float32_is_scaled_and_what_is_no_number_is_silence() -> None:
    audio = np.array([0.0, 0.5, -1.0, 2.0, np.nan, np.inf], "<f4")
    (out,) = decode(RawDecoder(RawFormat(Encoding.FLOAT32, RATE)), audio.tobytes(), 5)
    assert out.tolist() == [0, 16384, -32768, 32767, 0, 0]


def test_interleaved_channels_are_taken_apart_or_mixed() -> None:
    left, right = np.full(5000, 1000, np.int16), np.full(5000, 3000, np.int16)
    data = np.stack([left, right], axis=1).tobytes()
    assert [c.tolist() for c in decode(RawDecoder(RawFormat(Encoding.LINEAR16, RATE, 2)), data, 7)] == [
        left.tolist(),
        right.tolist(),
    ]
    (mixed,) = decode(RawDecoder(RawFormat(Encoding.LINEAR16, RATE, 2), mix=True), data, 7)
    assert set(mixed.tolist()) == {2000}


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
    whole = decode(RawDecoder(audio), data, len(data))
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
def test_containers_decode_to_the_sound_that_went_in(kind: str) -> None:
    container, codec, options = CONTAINERS[kind]
    pcm = recording("beckett")[: 3 * RATE]
    rate = 48_000 if "opus" in codec else RATE
    source = np.repeat(pcm, rate // RATE) if rate != RATE else pcm
    data = contained([source], container, codec, rate=rate, options=options)
    (out,) = decode(ContainerDecoder(), data, 1000)
    assert abs(len(out) - len(pcm)) < 0.15 * RATE  # codecs pad their edges
    lag = max(range(0, 2400, 8), key=lambda shift: likeness(out[shift : shift + 2 * RATE], pcm[: 2 * RATE]))
    assert likeness(out[lag : lag + 2 * RATE], pcm[: 2 * RATE]) > 0.9


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_same_container_gives_the_same_samples_however_it_is_split(kind: str) -> None:
    container, codec, options = CONTAINERS[kind]
    rate = 48_000 if "opus" in codec else RATE
    data = contained([tone(1.5, rate)], container, codec, rate=rate, options=options)
    whole = decode(ContainerDecoder(), data, len(data))
    for chunk in (113, 4096):
        assert np.array_equal(decode(ContainerDecoder(), data, chunk), whole)


@pytest.mark.parametrize("kind", [k for k in CONTAINERS if k != "m4a, index last"])
def test_a_growing_container_is_heard_while_it_grows(kind: str) -> None:
    container, codec, options = CONTAINERS[kind]
    rate = 48_000 if "opus" in codec else RATE
    noise = np.random.default_rng(1).integers(-9000, 9000, 20 * rate).astype(np.int16)
    data = contained([noise], container, codec, rate=rate, options=options)
    decoder, heard = ContainerDecoder(), 0
    half = len(data) // 2
    for start in range(0, half, 1000):
        decoder.feed(data[start : min(half, start + 1000)])
        while channels := decoder.read():
            heard += len(channels[0]) // 2
    decoder.close()
    assert heard > 5 * RATE


def test_two_channels_of_a_container_stay_apart() -> None:
    pcm = [tone(1, RATE, 300), tone(1, RATE, 700)]
    left, right = decode(ContainerDecoder(), contained(pcm, "flac", "flac"), 999)
    assert likeness(left, pcm[0]) > 0.999
    assert likeness(right, pcm[1]) > 0.999
    (mixed,) = decode(ContainerDecoder(mix=True), contained(pcm, "flac", "flac"), 999)
    assert likeness(mixed, (pcm[0].astype(int) + pcm[1]) // 2) > 0.999


def test_bytes_that_are_no_container_are_refused_at_once() -> None:
    with pytest.raises(AudioError, match="no container"):
        ContainerDecoder().feed(b"hello, this is no sound")


def test_too_few_bytes_to_be_a_container_are_refused_at_the_end() -> None:
    decoder = ContainerDecoder()
    decoder.feed(b"RIFF")
    with pytest.raises(AudioError, match="4 bytes"):
        decoder.finish()


@pytest.mark.parametrize(
    "head",
    [b"RIFF\x00\x00\x00\x00WAVE", b"fLaC" + bytes(8), b"OggS" + bytes(8), b"\x1a\x45\xdf\xa3" + bytes(8)],
)
def test_a_container_of_rubbish_is_refused(head: bytes) -> None:
    decoder = ContainerDecoder()
    decoder.feed(head + np.random.default_rng(0).bytes(300_000))
    decoder.finish()
    with pytest.raises(AudioError, match=r"cannot be decoded|no audio|damaged"):
        decoder.read()
    decoder.close()


def test_a_truncated_container_gives_what_was_there() -> None:
    data = contained([tone(3, RATE)], "flac", "flac")
    (out,) = decode(ContainerDecoder(), data[: len(data) // 2], 1000)
    assert len(out) > 0.9 * RATE


def test_compressed_silence_is_handed_out_in_portions() -> None:
    data = contained([np.zeros(120 * RATE, np.int16)], "flac", "flac")
    decoder = ContainerDecoder()
    decoder.feed(data)
    portions = []
    while channels := decoder.read():
        portions.append(len(channels[0]) // 2)
    decoder.close()
    assert len(portions) >= 10
    assert max(portions) <= PORTION + RATE


def test_a_container_abandoned_half_way_leaves_no_thread() -> None:
    import threading

    before = threading.active_count()
    decoder = ContainerDecoder()
    decoder.feed(contained([tone(2, RATE)], "flac", "flac")[:20_000])
    decoder.read()
    assert threading.active_count() == before + 1
    decoder.close()
    assert threading.active_count() == before


def pitch(pcm: np.ndarray) -> int:
    """The loudest frequency of the second from 0.5 on, in Hz."""
    return int(np.abs(np.fft.rfft(pcm[RATE // 2 : RATE // 2 + RATE])).argmax())


def packets(container: bytes) -> list[bytes]:
    with av.open(io.BytesIO(container)) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


def fed(decoder: Decoder, pieces: list[bytes]) -> np.ndarray:
    parts = []
    for piece in pieces:
        decoder.feed(piece)
        parts += decoder.read()
    decoder.finish()
    parts += decoder.read()
    decoder.close()
    return np.frombuffer(b"".join(parts), np.int16)


def test_bare_opus_packets_sound_like_the_same_in_ogg() -> None:
    ogg = contained([tone(2, 48_000)], "ogg", "libopus", rate=48_000)
    bare = fed(OpusDecoder(1), packets(ogg))
    assert len(bare) / RATE == pytest.approx(2, abs=0.05)
    assert pitch(bare) == pytest.approx(440, abs=3)
    chunks = [ogg[start : start + 999] for start in range(0, len(ogg), 999)]
    assert len(fed(OpusDecoder(1), chunks)) == pytest.approx(2 * RATE, abs=400)


def test_a_damaged_opus_packet_costs_itself_and_rubbish_is_refused() -> None:
    good = packets(contained([tone(2, 48_000)], "ogg", "libopus", rate=48_000))
    heard = fed(OpusDecoder(1), [*good[:20], b"\xff" * 3, *good[20:]])
    assert len(heard) / RATE == pytest.approx(2, abs=0.05)
    with pytest.raises(AudioError, match="Opus"):
        fed(OpusDecoder(1), [b"\xff" * 3] * 3)
    with pytest.raises(AudioError, match="in a row"):
        fed(OpusDecoder(1), [*good, *[b"\xff" * 3] * 60])
    with pytest.raises(AudioError, match="3 channels"):
        Coded(Codec.OPUS, 3)


@pytest.mark.parametrize("headless", [False, True])
def test_amr_is_decoded_with_and_without_its_header(headless: bool) -> None:
    amr = contained([tone(2, 8_000)], "amr", "libopencore_amrnb", rate=8_000)
    data = amr.removeprefix(b"#!AMR\n") if headless else amr
    (out,) = decode(ContainerDecoder(codec=Codec.AMR_NB), data, 100)
    assert len(out) / RATE == pytest.approx(2, abs=0.05)
    assert pitch(out) == pytest.approx(440, abs=3)


@pytest.mark.parametrize(
    ("codec", "frame", "frames_a_second"), [(Codec.AMR_WB, b"\x7c", 50), (Codec.G729, bytes(10), 100)]
)
def test_other_codecs_of_telephony_keep_time(codec: Codec, frame: bytes, frames_a_second: int) -> None:
    (out,) = decode(ContainerDecoder(codec=codec), frame * 2 * frames_a_second, 64)
    assert len(out) / RATE == pytest.approx(2, abs=0.1)


def test_sniffing_knows_every_container_it_announces() -> None:
    for container, codec, options in CONTAINERS.values():
        rate = 48_000 if "opus" in codec else RATE
        assert sniff(contained([tone(0.5, rate)], container, codec, rate=rate, options=options)[:16]) is not None
