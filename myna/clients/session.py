"""Run a live stream from its first chunk to its last message."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

from myna.clients.display import Display
from myna.clients.live import DEFAULT_URL, LiveClient, StreamError
from myna.clients.speakers import SpeakersWanted, relabelled
from myna.wire import messages as wire


async def transcribe(
    audio: AsyncIterator[bytes],
    start: wire.StartMessage,
    url: str = DEFAULT_URL,
    display: Display | None = None,
    *,
    model: str | None = None,
    api_key: str | None = None,
    speakers: SpeakersWanted | None = None,
) -> list[wire.FinalMessage]:
    """Send audio until it ends or Ctrl-C is pressed; show every message; return the finals.

    With `speakers`, the finals have the labels that the server gives at the end of the stream.

    Raises `StreamError` if the stream breaks off, and whatever `audio` raises.
    """
    finals: list[wire.FinalMessage] = []
    with display or contextlib.nullcontext() as shown:
        async with LiveClient(start, url, model=model, api_key=api_key, speakers=speakers) as client:
            sending = asyncio.create_task(_send(audio, client))
            with contextlib.suppress(NotImplementedError):  # the event loop of this platform has no signal handlers
                asyncio.get_running_loop().add_signal_handler(signal.SIGINT, sending.cancel)
            try:
                async for message in client:
                    if isinstance(message, wire.FinalMessage):
                        finals.append(message)
                    elif isinstance(message, wire.SpeakersMessage):
                        finals = relabelled(finals, message)
                    if shown is not None:
                        shown.show(message)
                    if sending.done() and not sending.cancelled() and (error := sending.exception()):
                        raise error
            finally:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError, StreamError):
                    await sending
    return finals


async def _send(audio: AsyncIterator[bytes], client: LiveClient) -> None:
    try:
        async for chunk in audio:
            await client.send(chunk)
    finally:
        with contextlib.suppress(StreamError):
            await client.close()
