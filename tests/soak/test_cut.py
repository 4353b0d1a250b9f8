"""Real speech in real time over a network that is away for five seconds (`make soak`)."""

from __future__ import annotations

import asyncio

from line import Line
from peer import settings
from sounds import RATE, recording
from speakers import START, Speaker

from myna.clients.files import paced
from myna.server.app import running

AWAY_S = 5.0
CUT_AT_S = 7.3


async def test_a_client_cut_off_for_five_seconds_gets_the_transcript_of_one_that_is_not() -> None:
    speech = recording("two_cities")[: 25 * RATE].tobytes()
    size = RATE // 10 * 2
    start = START.model_copy(update={"interim": True})
    heard = []
    async with running(settings()) as server:
        for cut in (False, True):
            line = Line(server)

            async def stumble(line: Line = line) -> None:
                await asyncio.sleep(CUT_AT_S)
                line.open = False
                line.cut()
                await asyncio.sleep(AWAY_S)
                line.open = True

            async with line as url, Speaker(url, start) as speaker:
                stumbling = asyncio.create_task(stumble()) if cut else None
                async for part in paced((speech[at : at + size] for at in range(0, len(speech), size)), 1.0):
                    await speaker.client.send(part)
                await speaker.done()
                if stumbling is not None:
                    await stumbling
                heard.append([(final.start, final.end, final.text, final.words) for final in speaker.finals])
    assert heard[0] == heard[1]
    print(f"\n{len(heard[1])} finals, the same with {AWAY_S:.0f} s without a network")
