"""Words and their times in every file of the media zoo, uploaded and live, against FFmpeg's own decoding of it as a WAV."""

from __future__ import annotations

import re
from io import BytesIO
from statistics import median

from aiohttp import ClientSession, FormData
from media_zoo import wav_said, whole_zoo
from peer import connected, settings
from sounds import RATE

from myna.server.app import Server, running

Words = list[tuple[str, float, float]]
MOST_WRONG = 0.02
"""Share of words that may differ: the filters of an 8 kHz codec differ, and the engine then recognises another word."""
MOST_SHIFT_S = 0.1
"""Median difference of a file's word times. The engine's times move by a tenth of a second with a sample's shift."""


async def uploaded(server: Server, data: bytes) -> Words:
    form = FormData()
    form.add_field("response_format", "verbose_json")
    form.add_field("timestamp_granularities[]", "word")
    form.add_field("file", BytesIO(data), filename="sound")
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/audio/transcriptions", data=form) as response,
    ):
        assert response.status == 200
        return [(word["word"], word["start"], word["end"]) for word in (await response.json())["words"]]


async def live(server: Server, data: bytes) -> Words:
    async with connected(server) as peer:
        await peer.send({"type": "start"})
        for start in range(0, len(data), 4096):
            await peer.socket.send_bytes(data[start : start + 4096])
        await peer.send({"type": "close"})
        await peer.rest()
        finals = [word for final in peer.of("final") for word in final["words"]]
        return [(word["word"], word["start"], word["end"]) for word in finals]


async def test_every_file_has_the_words_and_times_of_ffmpegs_decoding() -> None:
    words = wrong = 0
    async with running(settings()) as server:
        for name, (data, pcm) in whole_zoo().items():
            for way in (uploaded, live):
                heard, expected = await way(server, data), await way(server, wav_said(pcm, RATE, 2 * len(pcm)))
                pairs = list(zip(heard, expected, strict=False))
                differ = [one for one, other in pairs if bare(one[0]) != bare(other[0])]
                shift = median([abs(one[1] - other[1]) for one, other in pairs])
                print(f"{name}, {way.__name__}: {len(heard)} words, {len(differ)} differ, median shift {shift:.3f} s")
                assert len(heard) == len(expected), (name, way.__name__)
                assert shift <= MOST_SHIFT_S, (name, way.__name__)
                words, wrong = words + len(expected), wrong + len(differ)
    assert wrong <= MOST_WRONG * words


def bare(word: str) -> str:
    return re.sub(r"\W", "", word.lower())
