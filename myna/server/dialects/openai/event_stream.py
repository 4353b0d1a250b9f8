"""Sends a file's transcript as server-sent events while it is made: OpenAI's `stream=true`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from myna.batch.json_pieces import json_pieces
from myna.batch.transcriber import Listener
from myna.runtime.errors import Refusal
from myna.server.dialects.openai import rest
from myna.server.dialects.openai.errors import error_body
from myna.server.http.answers import Answers, abort
from myna.server.http.file_work import Done
from myna.streaming.events import Final
from myna.streaming.session.jobs import EngineInfo

log = structlog.get_logger()

KEEP_ALIVE_S = 15.0
"""Seconds of silence after which a comment is sent: proxies close a connection that is silent for 60 s."""
REFUSABLE_S = 0.5
"""Seconds the headers are held back after the request is accepted: a file that fails earlier is refused with a status."""
_LOOK_S = 1.0
"""Interval at which the server checks that the client is still connected."""
_COMMENT = b": keep-alive\n\n"
_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""The last header tells nginx not to buffer events."""

Heard = asyncio.Queue[Final | None]
"""The finals of a file in order; None after the last."""
Work = Callable[[Listener, Callable[[EngineInfo], None]], Awaitable[Done]]
"""Transcribes the file. Calls the listener with each final, and before that the other function, with the engine, when the
request is accepted. Raises `Refusal`."""


async def stream(
    request: web.Request, work: Work, asked: rest.TranscriptionRequest, answers: Answers, folder: Path
) -> web.StreamResponse:
    """Answer with the events of one file. Raises `Refusal` if the file is refused before the first event."""
    heard, accepted, begun = Heard(), asyncio.Event(), asyncio.Event()
    engines: list[EngineInfo] = []

    def accept(engine: EngineInfo) -> None:
        engines.append(engine)
        accepted.set()

    def put(final: Final | None) -> None:
        if final is not None:
            final = replace(final, words=asked.written(final.words, engines[0]))
        heard.put_nowait(final)
        begun.set()

    def end(_: asyncio.Future[Done]) -> None:
        put(None)
        accepted.set()

    working = asyncio.ensure_future(work(put, accept))
    working.add_done_callback(end)
    try:
        await accepted.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REFUSABLE_S):
                await begun.wait()
        if working.done() and working.exception() is not None:
            await working
        return await _send_events(request, working, heard, asked, answers, folder)
    finally:
        working.cancel()
        await asyncio.wait([working])


async def with_pauses(heard: Heard, every_s: float | None = None) -> AsyncIterator[Final | None]:
    """Yield each final, and None whenever there was none for `every_s` (by default `KEEP_ALIVE_S`)."""
    every_s = KEEP_ALIVE_S if every_s is None else every_s
    while True:
        try:
            async with asyncio.timeout(every_s):
                final = await heard.get()
        except TimeoutError:
            yield None
            continue
        if final is None:
            return
        yield final


async def _send_events(
    request: web.Request,
    working: asyncio.Future[Done],
    heard: Heard,
    asked: rest.TranscriptionRequest,
    answers: Answers,
    folder: Path,
) -> web.StreamResponse:
    response = web.StreamResponse(headers=_HEADERS)
    await response.prepare(request)
    watching = asyncio.create_task(_cancel_when_gone(request, working), name="a client of an event stream")
    try:
        before = ""
        async for final in with_pauses(heard):
            if final is None:
                await response.write(_COMMENT)
            elif final.words:
                await response.write(b"".join(_event(rest.delta(final.words, before))))
                before = final.words[-1].text
        last = await _last(working, asked)
        await (await answers.made(lambda: itertools.chain.from_iterable(map(_event, last)), folder)).send_into(
            request, response
        )
        await response.write_eof()
    except (ConnectionError, asyncio.CancelledError):
        if not _is_gone(request):
            raise
        log.info("a client disconnected before its transcript was complete")
    except Exception:
        log.exception("an event stream could not be completed")
        abort(request)
    finally:
        watching.cancel()
    return response


async def _last(working: asyncio.Future[Done], asked: rest.TranscriptionRequest) -> Iterable[dict[str, Any]]:
    """Return the last events: the speakers' segments, if wanted, and the whole text; or the error."""
    try:
        transcribed = await working
        transcript = transcribed.transcript.written(lambda words: asked.written(words, transcribed.engine))
        segments = rest.speaker_segments(transcript, asked) if asked.speakers else ()
        return itertools.chain(segments, [rest.done(transcript, asked)])
    except Refusal as refusal:
        return [{"type": "error", **error_body(refusal)}]
    except Exception:
        log.exception("a file failed after its answer had begun")
        failure = Refusal(500, "internal_error", "The server failed on this file.")
        return [{"type": "error", **error_body(failure)}]


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _cancel_when_gone(request: web.Request, working: asyncio.Future[Done]) -> None:
    """Cancel the work when the client disconnects."""
    while not working.done() and not _is_gone(request):
        await asyncio.wait([working], timeout=_LOOK_S)
    working.cancel()


def _event(event: dict[str, Any]) -> Iterable[bytes]:
    yield b"data: "
    yield from json_pieces(event)
    yield b"\n\n"
