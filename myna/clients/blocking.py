"""The blocking client of the native live protocol, for programs without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from myna.clients.live import DEFAULT_URL, LiveClient
from myna.clients.speakers import SpeakersWanted
from myna.wire import messages as wire


class SyncLiveClient:
    """`LiveClient` with blocking calls. One thread may send while another iterates."""

    def __init__(
        self,
        start: wire.StartMessage,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        form: wire.Format = wire.Format.JSON,
        api_key: str | None = None,
        resume: bool = True,
        speakers: SpeakersWanted | None = None,
    ) -> None:
        self._client = LiveClient(start, url, model=model, form=form, api_key=api_key, resume=resume, speakers=speakers)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="myna-live-client", daemon=True)

    @property
    def ready(self) -> wire.ReadyMessage | None:
        """The server's `ready`, once the stream is open."""
        return self._client.ready

    @property
    def closed(self) -> wire.ClosedMessage | None:
        """The server's `closed`, once it has arrived."""
        return self._client.closed

    def __enter__(self) -> SyncLiveClient:
        self._thread.start()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._client.__aexit__(kind, error, trace))
        self._stop()

    def send(self, audio: bytes) -> None:
        """Send audio in the format of `start`; wait while the server is behind."""
        self._run(self._client.send(audio))

    def finalize(self, flush_id: str | None = None) -> None:
        """Make all audio sent so far final."""
        self._run(self._client.finalize(flush_id))

    def keep_alive(self) -> None:
        """Keep the stream open while there is no audio to send."""
        self._run(self._client.keep_alive())

    def close(self) -> None:
        """End the audio; keep iterating to read the remaining messages."""
        self._run(self._client.close())

    def __iter__(self) -> Iterator[wire.AnyServerMessage]:
        messages = self._client.__aiter__()
        while True:
            try:
                yield self._run(anext(messages))
            except StopAsyncIteration:
                return

    def _run(self, call: Any) -> Any:
        async def awaited() -> Any:
            return await call

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
