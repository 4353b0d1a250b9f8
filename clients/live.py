"""The Python client of the native live protocol: audio in, messages out, over one WebSocket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from myna.streaming import wire

DEFAULT_URL = "http://127.0.0.1:8000"
_PONG_WITHIN_S = 60.0
"""A server under load reads a fast sender's pings late; it does answer them."""


_LOADING_WITHIN_S = 300.0
"""How long a client comes again while its model is being loaded."""


class StreamError(Exception):
    """The server cannot be reached, refused the stream, or broke it off; `code` is its machine-readable reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LiveClient:
    """A live stream.

    ::

        async with LiveClient(wire.Start(encoding="linear16", sample_rate=16_000)) as client:
            await client.send(pcm)
            await client.close()
            async for message in client:
                print(message)

    Iterate while sending, in another task, to read the words as they are spoken. The iteration ends after `closed`; a
    stream that broke off raises `StreamError`.
    """

    def __init__(
        self,
        start: wire.Start,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        form: wire.Format = wire.Format.JSON,
        api_key: str | None = None,
    ) -> None:
        self._start = start
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = stream_url(url, form, model)
        self._form = form
        self._socket: ClientConnection | None = None
        self.ready: wire.Ready | None = None
        """The server's terms, once the stream is open."""
        self.closed: wire.Closed | None = None
        """The server's last message, once it has come."""

    async def __aenter__(self) -> LiveClient:
        self._socket = await self._connect()
        try:
            await self._send(self._start)
            message = await self._next()
            if not isinstance(message, wire.Ready):
                raise StreamError("protocol", f"the server began with {message.type!r} instead of 'ready'")
        except BaseException:
            await self._socket.close()
            raise
        self.ready = message
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._socket is not None
        await self._socket.close()

    async def _connect(self) -> ClientConnection:
        """Connect, again and again while the server says that the model is being loaded."""
        waited_s = 0.0
        while True:
            try:
                return await connect(
                    self._url,
                    additional_headers=self._headers,
                    compression=None,
                    max_size=None,
                    ping_timeout=_PONG_WITHIN_S,
                    open_timeout=30,
                )
            except InvalidStatus as error:
                code, message, retry_s = _refused(error)
                if retry_s is None or waited_s + retry_s > _LOADING_WITHIN_S:
                    raise StreamError(code, message) from error
                await asyncio.sleep(retry_s)
                waited_s += retry_s
            except (OSError, InvalidHandshake, TimeoutError) as error:
                raise StreamError("unreachable", f"no Myna server answers at {self._url}: {error}") from error

    async def send(self, audio: bytes) -> None:
        """Send audio as announced in `start`; waits while the server is behind."""
        frame = audio if self._form is wire.Format.JSON else wire.encode(wire.Audio(audio=audio), self._form)
        await self._send_frame(frame)

    async def finalize(self, flush_id: str | None = None) -> None:
        """Ask for everything sent so far to become final; `finalized` with this id says that it has."""
        await self._send(wire.Finalize(id=flush_id))

    async def keep_alive(self) -> None:
        """Say that the client is there, when there is no audio to send."""
        await self._send(wire.KeepAlive())

    async def close(self) -> None:
        """Say that no audio follows; keep iterating for what is left."""
        await self._send(wire.Close())

    async def __aiter__(self) -> AsyncIterator[wire.AnyServerMessage]:
        while self.closed is None:
            message = await self._next()
            if isinstance(message, wire.Closed):
                self.closed = message
            yield message

    async def _next(self) -> wire.AnyServerMessage:
        assert self._socket is not None
        try:
            message = wire.decode_server(await self._socket.recv(), self._form)
        except ConnectionClosed as error:
            raise StreamError("disconnected", f"the connection was lost: {error}") from error
        except wire.WireError as error:
            raise StreamError("protocol", f"the server sent what is no message: {error}") from error
        if isinstance(message, wire.Error) and message.code != "decode_failed":
            raise StreamError(message.code, message.message)
        return message

    async def _send(self, message: wire.AnyClientMessage) -> None:
        await self._send_frame(wire.encode(message, self._form))

    async def _send_frame(self, frame: str | bytes) -> None:
        assert self._socket is not None
        try:
            await self._socket.send(frame)
        except ConnectionClosed as error:
            raise StreamError("disconnected", f"the connection was lost: {error}") from error


class SyncLiveClient:
    """`LiveClient` for programs without an event loop: the same calls, blocking. It may be sent to and iterated by two
    threads at the same time.
    """

    def __init__(
        self,
        start: wire.Start,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        form: wire.Format = wire.Format.JSON,
        api_key: str | None = None,
    ) -> None:
        self._client = LiveClient(start, url, model=model, form=form, api_key=api_key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="myna-live-client", daemon=True)

    @property
    def ready(self) -> wire.Ready | None:
        """The server's terms, once the stream is open."""
        return self._client.ready

    @property
    def closed(self) -> wire.Closed | None:
        """The server's last message, once it has come."""
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
        """Send audio as announced in `start`; waits while the server is behind."""
        self._run(self._client.send(audio))

    def finalize(self, flush_id: str | None = None) -> None:
        """Ask for everything sent so far to become final."""
        self._run(self._client.finalize(flush_id))

    def keep_alive(self) -> None:
        """Say that the client is there, when there is no audio to send."""
        self._run(self._client.keep_alive())

    def close(self) -> None:
        """Say that no audio follows; keep iterating for what is left."""
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


def _refused(error: InvalidStatus) -> tuple[str, str, float | None]:
    """Return code and message of a refused handshake, and the seconds after which the server asks to come again."""
    response = error.response
    try:
        said = json.loads(response.body or b"")["error"]
        code, message = str(said["code"]), str(said["message"])
    except (ValueError, KeyError, TypeError):
        return "refused", f"the server answered with HTTP {response.status_code}", None
    try:
        return code, message, float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return code, message, None


def stream_url(url: str, form: wire.Format, model: str | None = None) -> str:
    """Return the WebSocket address of the live protocol on the server at `url` (http, https, ws or wss)."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = parts.path if parts.path.endswith(wire.PATH) else parts.path.rstrip("/") + wire.PATH
    return urlunsplit(
        (scheme, parts.netloc, path, urlencode({"format": form.value} | ({"model": model} if model else {})), "")
    )
