"""The send loop of a WebSocket: takes frames from the outbox and sends them to the client, or to its callback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from myna.runtime.deadlines import Clock, timeout
from myna.runtime.tasks import cancel_and_wait
from myna.server.websocket.client_socket import CLOSE_TIMEOUT_S, ClientGone, ClientSocket
from myna.server.websocket.outbox import Outbox

DELIVERY_S = 60.0
"""Seconds at the end of a stream for results that go to a callback; those left then are dropped."""

Delivery = Callable[[str | bytes], Awaitable[None]]
"""Sends a message to the client's callback."""


class Writer:
    """Sends until the outbox is closed and empty. Frames go to `delivery`, or over the socket if it is None.

    `on_error` is called for each error but a broken connection. After the second one nothing more is sent.
    """

    def __init__(
        self,
        name: str,
        outbox: Outbox,
        socket: ClientSocket,
        delivery: Delivery | None,
        on_error: Callable[[Exception], None],
    ) -> None:
        self._outbox = outbox
        self._socket = socket
        self._delivery = delivery
        self._on_error = on_error
        self._task = asyncio.create_task(self._send_all(), name=f"writer {name}")

    async def flush(self, clock: Clock) -> bool:
        """Close the outbox and send what is left; return whether that ended in time. Raises `ClientGone`."""
        self._outbox.close()
        with contextlib.suppress(TimeoutError):
            async with timeout(CLOSE_TIMEOUT_S if self._delivery is None else DELIVERY_S, clock):
                await asyncio.wait([self._task])
        if self._task.done() and isinstance(self._task.exception(), ConnectionError):
            raise ClientGone(lost=True)
        return self._task.done()

    async def stop(self) -> None:
        """Send nothing more."""
        await cancel_and_wait(self._task)

    async def _send_all(self) -> None:
        failed = False
        while True:
            try:
                frame = await self._outbox.get()
                if frame is None:
                    return
                if self._delivery is None:
                    await self._socket.send(frame)
                else:
                    await self._delivery(frame.payload)
            except Exception as error:
                if self._delivery is None and isinstance(error, ConnectionError):
                    raise
                self._on_error(error)
                if failed:
                    return  # the reason cannot be sent either; the close frame's code remains
                failed = True
