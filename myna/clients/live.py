"""The Python client of the native live protocol: audio in, messages out, over one WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from myna.wire import messages as wire

DEFAULT_URL = "http://127.0.0.1:8000"
_PING_EVERY_S = 10.0
_PONG_WITHIN_S = 60.0
"""A server reads a fast sender's pings late, behind the audio that is on its way; it does answer them."""
_LOADING_WITHIN_S = 300.0
"""How long a client comes again while its model is being loaded."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
"""Between two attempts to come back after the connection was lost."""


class StreamError(Exception):
    """The server cannot be reached, refused the stream, or broke it off; `code` is its machine-readable reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LiveClient:
    """A live stream.

    ::

        async with LiveClient(wire.StartMessage(encoding="linear16", sample_rate=16_000)) as client:
            await client.send(pcm)
            await client.close()
            async for message in client:
                print(message)

    Iterate while sending, in another task, to read the words as they are spoken. The iteration ends after `closed`; a
    stream that broke off raises `StreamError`.

    A client that loses its connection comes back by itself, sends again what did not arrive, and goes on as if nothing had
    happened; sending and iterating wait meanwhile. `resume=False`: it does not.
    """

    def __init__(
        self,
        start: wire.StartMessage,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        form: wire.Format = wire.Format.JSON,
        api_key: str | None = None,
        resume: bool = True,
    ) -> None:
        self._start = start.model_copy(update={"resume": resume})
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = stream_url(url, form, model)
        self._form = form
        self._socket: ClientConnection | None = None
        self._keeps = resume
        self._sent: deque[str | bytes] = deque()  # what the server has not told to have received
        self._received = 0  # messages that it has
        self._number = 0  # of its last message
        self._writing = asyncio.Lock()
        self._returning = asyncio.Lock()
        self.ready: wire.ReadyMessage | None = None
        """The server's terms, once the stream is open."""
        self.closed: wire.ClosedMessage | None = None
        """The server's last message, once it has come."""

    async def __aenter__(self) -> LiveClient:
        self._socket = await self._connect()
        try:
            await self._send(self._start)
            self.ready = await self._read_ready(self._socket)
            self._keeps = self.ready.resume is not None
        except BaseException:
            await self._socket.close()
            raise
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
                return await self._handshake(self._url)
            except _RefusedError as error:
                retry_s = error.retry_s if error.code == "model_busy" else None
                if retry_s is None or waited_s + retry_s > _LOADING_WITHIN_S:
                    raise StreamError(error.code, str(error)) from error
                await asyncio.sleep(retry_s)
                waited_s += retry_s

    async def _handshake(self, url: str) -> ClientConnection:
        try:
            return await connect(
                url,
                additional_headers=self._headers,
                compression=None,
                max_size=None,
                ping_interval=_PING_EVERY_S,
                ping_timeout=_PONG_WITHIN_S,
                open_timeout=30,
            )
        except InvalidStatus as error:
            raise _refused(error) from error
        except (OSError, InvalidHandshake, TimeoutError) as error:
            raise StreamError("unreachable", f"no Myna server answers at {url}: {error}") from error

    async def send(self, audio: bytes) -> None:
        """Send audio as announced in `start`; waits while the server is behind."""
        frame = audio if self._form is wire.Format.JSON else wire.encode(wire.AudioMessage(audio=audio), self._form)
        await self._send_frame(frame)

    async def finalize(self, flush_id: str | None = None) -> None:
        """Ask for everything sent so far to become final; `finalized` with this id says that it has."""
        await self._send(wire.FinalizeMessage(id=flush_id))

    async def keep_alive(self) -> None:
        """Say that the client is there, when there is no audio to send."""
        await self._send(wire.KeepAliveMessage())

    async def close(self) -> None:
        """Say that no audio follows; keep iterating for what is left."""
        await self._send(wire.CloseMessage())

    async def __aiter__(self) -> AsyncIterator[wire.AnyServerMessage]:
        while self.closed is None:
            message = await self._next()
            if isinstance(message, wire.ClosedMessage):
                self.closed = message
            yield message

    async def _next(self) -> wire.AnyServerMessage:
        while True:
            assert self._socket is not None
            socket = self._socket
            try:
                message = self._taken(await socket.recv())
            except ConnectionClosed as error:
                await self._come_back(socket, error)
                continue
            if isinstance(message, wire.ErrorMessage) and message.code != "decode_failed":
                raise StreamError(message.code, message.message)
            if not isinstance(message, wire.ProgressMessage):
                return message

    def _taken(self, frame: str | bytes) -> wire.AnyServerMessage:
        """Return a message, having taken note of its account."""
        try:
            message, account = wire.decode_server(frame, self._form)
        except wire.WireError as error:
            raise StreamError("protocol", f"the server sent what is no message: {error}") from error
        if account is not None:
            self._number = max(self._number, account.number)
            for _ in range(account.received - self._received):
                self._sent.popleft()
            self._received = max(self._received, account.received)
        return message

    async def _read_ready(self, socket: ClientConnection) -> wire.ReadyMessage:
        try:
            message = self._taken(await socket.recv())
        except ConnectionClosed as error:
            raise StreamError("disconnected", f"the connection was lost: {error}") from error
        if isinstance(message, wire.ErrorMessage):
            raise StreamError(message.code, message.message)
        if not isinstance(message, wire.ReadyMessage):
            raise StreamError("protocol", f"the server began with {message.type!r} instead of 'ready'")
        return message

    async def _send(self, message: wire.AnyClientMessage) -> None:
        await self._send_frame(wire.encode(message, self._form))

    async def _send_frame(self, frame: str | bytes) -> None:
        async with self._writing:
            assert self._socket is not None
            socket = self._socket
            if self._keeps:
                self._sent.append(frame)
            try:
                await socket.send(frame)
                return
            except ConnectionClosed as error:
                lost = error
        await self._come_back(socket, lost)

    async def _come_back(self, socket: ClientConnection, lost: ConnectionClosed) -> None:
        """Go on over another connection, everything being sent again that did not arrive. Raises `StreamError`."""
        async with self._returning:
            if self._socket is not socket:
                return  # the other side of this client was here first
            if self.ready is None or self.ready.resume is None or self.closed is not None:
                raise StreamError("disconnected", f"the connection was lost: {lost}") from lost
            url = f"{self._url}&{urlencode({'resume': self.ready.resume, 'after': self._number})}"
            loop = asyncio.get_running_loop()
            until, pause_s = loop.time() + self.ready.resume_within_s, _FIRST_PAUSE_S
            while True:
                try:
                    self._socket = await self._returned(url)
                    return
                except (StreamError, ConnectionClosed) as error:
                    final = isinstance(error, _RefusedError) and error.status < 500
                    if final or loop.time() + pause_s > until:
                        raise StreamError("disconnected", f"the connection was lost ({lost}); {error}") from lost
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _returned(self, url: str) -> ClientConnection:
        socket = await self._handshake(url)
        try:
            await self._read_ready(socket)
            async with self._writing:
                for frame in list(self._sent):
                    await socket.send(frame)
        except BaseException:
            await socket.close()
            raise
        return socket


class _RefusedError(StreamError):
    """The server answered, with this HTTP status, and does not want the stream; `retry_s`: in so many seconds it may."""

    def __init__(self, status: int, code: str, message: str, retry_s: float | None = None) -> None:
        super().__init__(code, message)
        self.status = status
        self.retry_s = retry_s


class SyncLiveClient:
    """`LiveClient` for programs without an event loop: the same calls, blocking. It may be sent to and iterated by two
    threads at the same time.
    """

    def __init__(
        self,
        start: wire.StartMessage,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        form: wire.Format = wire.Format.JSON,
        api_key: str | None = None,
        resume: bool = True,
    ) -> None:
        self._client = LiveClient(start, url, model=model, form=form, api_key=api_key, resume=resume)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="myna-live-client", daemon=True)

    @property
    def ready(self) -> wire.ReadyMessage | None:
        """The server's terms, once the stream is open."""
        return self._client.ready

    @property
    def closed(self) -> wire.ClosedMessage | None:
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


def _refused(error: InvalidStatus) -> _RefusedError:
    status = error.response.status_code
    try:
        said = json.loads(error.response.body or b"")["error"]
        code, message = str(said["code"]), str(said["message"])
    except (ValueError, KeyError, TypeError):
        return _RefusedError(status, "refused", f"the server answered with HTTP {status}")
    with contextlib.suppress(KeyError, ValueError):
        return _RefusedError(status, code, message, float(error.response.headers["Retry-After"]))
    return _RefusedError(status, code, message)


def stream_url(url: str, form: wire.Format, model: str | None = None) -> str:
    """Return the WebSocket address of the live protocol on the server at `url` (http, https, ws or wss)."""
    return websocket_url(url, wire.PATH, {"format": form.value} | ({"model": model} if model else {}))


def websocket_url(url: str, path: str, query: Mapping[str, str]) -> str:
    """Return the WebSocket address of a path on the server at `url`, which may end in the path already."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    full = parts.path if parts.path.endswith(path) else parts.path.rstrip("/") + path
    return urlunsplit((scheme, parts.netloc, full, urlencode(query), ""))
