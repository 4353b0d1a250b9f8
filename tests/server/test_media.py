"""Media over real sockets: everything sent is heard or refused, at the media's times, and a flush gets all of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import numpy as np
import psutil
import pytest
from aiohttp import ClientSession
from media_zoo import Made, made, wav_said
from peer import Peer, connected, eventually, transcript
from sounds import BECKETT, RATE, bare, contained, recording
from speakers import running_fake

from myna.inference.engines.fake.engine import silence, spoken
from myna.server.app import Server

RATES = [8_000, 11_025, 22_050, 24_000, 44_100, 48_000]
WORDS = np.concatenate([silence(0.5), *[np.concatenate([spoken(n), silence(1)]) for n in range(4)]])
WORDS_SAID = [f"w{n}" for n in range(4)]
FASTSTART = {"movflags": "faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[Server]:
    async with running_fake(resume_s=0) as started:
        yield started


def at(rate: int, pcm: np.ndarray) -> np.ndarray:
    """Return coded words at another rate: their levels, which name them, stay."""
    return pcm[np.arange(len(pcm) * rate // RATE) * RATE // rate]


def words(peer: Peer) -> list[str]:
    return [word["word"] for message in peer.of("final") for word in message["words"]]


async def send(peer: Peer, data: bytes, chunk: int = 4096) -> None:
    for start in range(0, len(data), chunk):
        await peer.socket.send_bytes(data[start : start + chunk])


async def heard(server: Server, data: bytes) -> Peer:
    """Send a container and everything after it, and return the answers."""
    async with connected(server) as peer:
        await peer.send({"type": "start"})
        await send(peer, data)
        await peer.send({"type": "close"})
        await peer.rest()
        return peer


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("encoding", ["linear16", "mulaw"])
async def test_a_finalize_gets_everything_sent_at_every_rate(fake: Server, rate: int, encoding: str) -> None:
    sound = np.concatenate([silence(0.5), spoken(7)])
    pcm = at(rate, sound)
    raw = contained([pcm], "wav", "pcm_mulaw", rate=rate) if encoding == "mulaw" else pcm.tobytes()
    data = raw[raw.index(b"data") + 8 :] if encoding == "mulaw" else raw
    async with connected(fake) as peer:
        await peer.send({"type": "start", "encoding": encoding, "sample_rate": rate})
        for number in range(1, 4):
            await send(peer, data)
            await peer.send({"type": "finalize"})
            await peer.until("finalized")
            assert peer.of("final")[-1]["end"] == pytest.approx(number * len(pcm) / rate, abs=0.0001)
            assert len(words(peer)) == number


@pytest.mark.parametrize(
    ("container", "codec", "rate", "latency_s"),
    [("webm", "libopus", 48_000, 0.03), ("wav", "pcm_s16le", 8_000, 0.002), ("adts", "aac", 44_100, 0.06)],
)
async def test_a_finalize_gets_everything_that_is_decoded_of_a_container(
    fake: Server, container: str, codec: str, rate: int, latency_s: float
) -> None:
    data = contained([at(rate, WORDS)], container, codec, rate=rate)
    half = len(data) // 2
    ends = []
    async with connected(fake) as peer:
        await peer.send({"type": "start"})
        for part in (data[:half], data[half:]):
            await send(peer, part, 500)
            await peer.send({"type": "finalize"})
            await peer.until("finalized")
            ends.append(peer.of("final")[-1]["end"] if peer.of("final") else 0.0)
        await peer.send({"type": "close"})
        await peer.rest()
    assert 0 < ends[0] < ends[1]
    assert peer.of("final")[-1]["end"] - ends[1] <= latency_s


@pytest.mark.parametrize(
    ("kind", "codec", "rate", "options"),
    [
        ("wav", "pcm_s16le", RATE, {}),
        ("flac", "flac", RATE, {}),
        ("mp3", "libmp3lame", RATE, {}),
        ("ogg", "libopus", 48_000, {}),
        ("webm", "libopus", 48_000, {}),
        ("adts", "aac", RATE, {}),
        ("mp4", "aac", RATE, FASTSTART),
        ("mp4", "aac", RATE, FRAGMENTED),
        ("mp4", "aac", RATE, {}),
    ],
)
async def test_a_whole_file_after_a_whole_file_is_heard_on_the_same_socket(
    fake: Server, kind: str, codec: str, rate: int, options: dict[str, str]
) -> None:
    data = contained([at(rate, WORDS)], kind, codec, rate=rate, options=options)
    peer = await heard(fake, 3 * data)
    assert peer.of("final")[-1]["end"] == pytest.approx(3 * len(WORDS) / RATE, abs=0.5)
    assert peer.socket.close_code == 1000
    if codec in ("flac", "pcm_s16le"):  # others do not keep the levels that code words
        assert words(peer) == 3 * WORDS_SAID


async def test_pieces_that_are_whole_wavs_and_lengths_that_lie_lose_no_word(fake: Server) -> None:
    pieces = [WORDS[start : start + 3200] for start in range(0, len(WORDS), 3200)]
    for said in (6400, 0, 0xFFFFFFFF):
        peer = await heard(fake, b"".join(wav_said(piece, RATE, said) for piece in pieces))
        assert words(peer) == WORDS_SAID
    peer = await heard(fake, wav_said(WORDS, RATE, 2 * RATE))
    assert words(peer) == WORDS_SAID


@pytest.mark.parametrize("kind", ["webm", "mp4", "flac", "ogg", "mp3"])
async def test_rubbish_after_a_files_end_is_an_error_after_its_words_and_costs_no_memory(
    fake: Server, kind: str
) -> None:
    codec, rate = {"webm": ("libopus", 48_000), "mp4": ("aac", RATE), "flac": ("flac", RATE), "ogg": ("libopus", 48_000),
                   "mp3": ("libmp3lame", RATE)}[kind]  # fmt: skip
    data = contained([at(rate, WORDS)], kind, codec, rate=rate, options=FASTSTART if kind == "mp4" else {})
    rubbish = np.random.default_rng(1).bytes(65_536)
    process = psutil.Process()
    async with connected(fake) as peer:
        await peer.send({"type": "start"})
        await send(peer, data)
        before = process.memory_info().rss
        await send_until_closed(peer, rubbish, 200 << 20)
        messages = await peer.rest()
        assert process.memory_info().rss - before < 64 << 20
    assert next(m["code"] for m in messages if m["type"] == "error") == "undecodable_audio"
    assert peer.socket.close_code not in (None, 1000)
    end = peer.of("final")[-1]["end"]
    assert len(WORDS) / RATE - 0.8 < end < len(WORDS) / RATE + 4  # some rubbish passes for frames
    await eventually(lambda: fake.services.decoders.active == 0)


async def send_until_closed(peer: Peer, data: bytes, most: int) -> None:
    """Send the same bytes over and over, up to so many or until the server has closed."""
    sent = 0
    try:
        while sent < most and not peer.socket.closed:
            await asyncio.wait_for(peer.socket.send_bytes(data), 20)
            sent += len(data)
    except (ConnectionError, TimeoutError):
        return


LATE = Made("matroska", "aac", picture="mpeg4", late=4.9)


@pytest.mark.parametrize(
    ("how", "begins"),
    [
        (LATE, 4.9),
        (Made("mp4", "aac", 48_000, picture="mpeg4", late=4.9, options=FASTSTART), 4.9),
        (Made("mpegts", "aac", 48_000, picture="mpeg2video", late=4.9, from_=5000), 4.9),
        (Made("webm", "libopus", 48_000, picture="libvpx", late=4.9), 4.9),
    ],
)
async def test_words_of_a_sound_track_that_begins_late_have_the_times_of_the_picture(
    server: Server, beckett: np.ndarray, how: Made, begins: float
) -> None:
    late = await transcript(server, "model=nova-3", made(beckett.astype(np.float32)[:, None] / 32768, how))
    plain = await transcript(server, "encoding=linear16&sample_rate=16000", beckett.tobytes())
    assert bare(late.said) == bare(plain.said) == BECKETT
    times = [
        [word["start"] for final in peer.finals for word in final["channel"]["alternatives"][0]["words"]]
        for peer in (late, plain)
    ]
    apart = np.abs(np.array(times[0]) - np.array(times[1]) - begins)
    assert np.median(apart) < 0.05
    assert apart.max() < 0.3  # the first word of all begins as the engine likes


@pytest.fixture(scope="module")
def beckett() -> np.ndarray:
    return recording("beckett")


@pytest.mark.parametrize("way", ["live", "file"])
@pytest.mark.parametrize(
    ("parts", "begins"),
    [
        ([Made("mp3", "libmp3lame", 48_000), Made("mp3", "libmp3lame", 24_000, "stereo")], (0.0, 10.0)),
        ([Made("ogg", "libopus", 48_000, "stereo"), Made("ogg", "libopus", 48_000)], (0.0, 9.96)),
        ([Made("mpegts", "aac", 44_100), Made("mpegts", "aac", 16_000)], (0.0, 10.0)),
        ([LATE], (4.9,)),
    ],
)
async def test_words_of_media_whose_parts_differ_are_heard_in_all_of_them_at_their_times(
    server: Server, beckett: np.ndarray, parts: list[Made], begins: tuple[float, ...], way: str
) -> None:
    speech = beckett.astype(np.float32)[:, None] / 32768
    data = b"".join(made(np.repeat(speech, 2, axis=1) if how.layout == "stereo" else speech, how) for how in parts)
    if way == "live":
        peer = await transcript(server, "model=nova-3", data)
        text = peer.said
        told = [word for final in peer.finals for word in final["channel"]["alternatives"][0]["words"]]
    else:
        async with ClientSession() as session, session.post(f"{server.url}/v1/listen", data=data) as response:
            assert response.status == 200
            answer = (await response.json())["results"]["channels"][0]["alternatives"][0]
            text, told = answer["transcript"], answer["words"]
    assert Counter(bare(text).split()) & Counter(" ".join([BECKETT] * len(parts)).split()) == Counter(
        " ".join([BECKETT] * len(parts)).split()
    )
    failed = [word["start"] for word in told if bare(word["word"]) == "failed"]  # 2.1 s after each beginning
    assert failed == [pytest.approx(begin + 2.1, abs=0.2) for begin in begins]
