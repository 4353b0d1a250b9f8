"""The engine's end of the links: serves the models of this process to any number of fronts.

The class works with asyncio streams and does not know what kind of socket they use.
"""

from __future__ import annotations

import asyncio
import hmac

import structlog

from myna.inference.models import Models
from myna.inference.workers.ipc import MessageSplitter, encode
from myna.runtime.deadlines import Clock, timeout
from myna.runtime.supervisor import Supervisor
from myna.server.fronts.front_session import FrontSession
from myna.server.fronts.link import (
    ATTACH_DECODER,
    LARGEST_ATTACH,
    STATE_EVERY_S,
    TO_ENGINE_DECODER,
    VERSION,
    Attach,
    Attached,
    EngineState,
)
from myna.server.operations.admission import Admission

log = structlog.get_logger()

_ATTACH_WITHIN_S = 5.0
"""Limit on the time until a peer has sent its `Attach`."""


class EngineNode:
    """The link's listener; `welcome` serves one connection. Admission counts the streams of all fronts together."""

    def __init__(self, models: Models, admission: Admission, supervisor: Supervisor, token: str, clock: Clock) -> None:
        self._models = models
        self._admission = admission
        self._supervisor = supervisor
        self._token = token
        self._clock = clock
        self._sessions: set[FrontSession] = set()
        self._detached = asyncio.Event()

    async def welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one peer until its connection ends. A peer that does not attach properly is dropped."""
        session: FrontSession | None = None
        try:
            front = await self._attached(reader, writer)
            session = FrontSession(front, self._models, self._admission, writer)
            self._sessions.add(session)
            log.info("front attached", front=front)
            session.send(self._state())
            unpacker = MessageSplitter(TO_ENGINE_DECODER)
            while data := await reader.read(1 << 20):
                for message in unpacker.feed(data):
                    session.take(message)
        except (ValueError, TimeoutError) as error:
            log.error("a peer of the engine process was dropped", reason=str(error) or "it sent nothing in time")
        except OSError:
            pass  # the connection broke: as if it had been closed
        except Exception:
            log.exception("the link to a front failed", front=session.front if session else None)
        finally:
            writer.transport.abort()
            if session is not None:
                self._sessions.discard(session)
                await session.close()
                self._detached.set()
                log.info("front detached", front=session.front)

    async def deserted(self) -> None:
        """Wait until no front is attached."""
        while self._sessions:
            self._detached.clear()
            await self._detached.wait()

    async def tell_state(self) -> None:
        """Send each front the state of the models, periodically, until cancelled."""
        while True:
            await asyncio.sleep(STATE_EVERY_S)
            state = self._state()
            for session in self._sessions:
                session.prune()
                session.send(state)

    def _state(self) -> EngineState:
        loaded = tuple(sorted(self._models.names_loaded))
        return EngineState(loaded, self._models.why_not(), self._supervisor.failing)

    async def _attached(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Return the name of the front that attaches. Raises `ValueError` and `TimeoutError`.

        Nothing but one short message is decoded before the token is checked.
        """
        async with timeout(_ATTACH_WITHIN_S, self._clock):
            head = await self._first(reader)
        reason = None
        if head.version != VERSION:
            reason = f"front {head.front!r} speaks version {head.version} of the link, this engine process {VERSION}"
        elif not hmac.compare_digest(head.token.encode(), self._token.encode()):
            reason = f"front {head.front!r} has a wrong token"
        writer.write(encode(Attached(VERSION, reason)))
        if reason is not None:
            await writer.drain()
            raise ValueError(reason)
        return head.front

    async def _first(self, reader: asyncio.StreamReader) -> Attach:
        unpacker = MessageSplitter(ATTACH_DECODER, LARGEST_ATTACH)
        while data := await reader.read(LARGEST_ATTACH):  # a front waits for the answer before it sends more
            for message in unpacker.feed(data):
                return message
        raise ValueError("it closed the connection before it attached")
