"""The asynchronous client of the native live protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from myna.clients.speakers import SpeakersWanted
from myna.wire import messages as wire

DEFAULT_URL = "http://127.0.0.1:8000"
_PING_EVERY_S = 10.0
_PONG_WITHIN_S = 60.0
"""A ping waits behind the audio in flight, so a server answers a fast sender late."""
_LOADING_WITHIN_S = 300.0
"""The client retries for this long while the server loads the model."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
"""Pauses between attempts to reconnect."""


class StreamError(Exception):
    """The server cannot be reached, refused the stream or ended it; `code` is the machine-readable reason."""

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

    To read the words as they are spoken, iterate in another task than the one that sends. The iteration ends after
    `closed`; it raises `StreamError` if the stream fails.

    The client reconnects when it loses its connection, resends the frames that did not arrive, and resumes the stream;
    sending and iterating wait meanwhile. With `resume=False` it raises `StreamError` instead.

    With `speakers=SpeakersWanted()` words have a `speaker`, and a `speakers` message before `closed` has the labels of the
    whole stream; `relabelled` applies it to the finals.
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
        speakers: SpeakersWanted | None = None,
    ) -> None:
        self._start = start.model_copy(update={"resume": resume})
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = stream_url(url, form, model, speakers)
        self._form = form
        self._socket: ClientConnection | None = None
        self._resumable = resume
        self._sent: deque[str | bytes] = deque()  # frames the server has not acknowledged
        self._received = 0  # number of frames the server has acknowledged
        self._number = 0  # number of the last message received
        self._writing = asyncio.Lock()
        self._reconnecting = asyncio.Lock()
        self.ready: wire.ReadyMessage | None = None
        """The server's `ready`, once the stream is open."""
        self.closed: wire.ClosedMessage | None = None
        """The server's `closed`, once it has arrived."""

    async def __aenter__(self) -> LiveClient:
        self._socket = await self._connect()
        try:
            await self._send(self._start)
            self.ready = await self._read_ready(self._socket)
            self._resumable = self.ready.resume is not None
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
        """Connect; retry while the server loads the model."""
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
        """Send audio in the format of `start`; wait while the server is behind."""
        frame = audio if self._form is wire.Format.JSON else wire.encode(wire.AudioMessage(audio=audio), self._form)
        await self._send_frame(frame)

    async def finalize(self, flush_id: str | None = None) -> None:
        """Make all audio sent so far final; the server answers with a `finalized` of this id."""
        await self._send(wire.FinalizeMessage(id=flush_id))

    async def keep_alive(self) -> None:
        """Keep the stream open while there is no audio to send."""
        await self._send(wire.KeepAliveMessage())

    async def close(self) -> None:
        """End the audio; keep iterating to read the remaining messages."""
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
                message = self._decoded(await socket.recv())
            except ConnectionClosed as error:
                await self._reconnect(socket, error)
                continue
            if isinstance(message, wire.ErrorMessage) and message.code != "decode_failed":
                raise StreamError(message.code, message.message)
            if not isinstance(message, wire.ProgressMessage):
                return message

    def _decoded(self, frame: str | bytes) -> wire.AnyServerMessage:
        """Return the message of a frame; record its account."""
        try:
            message, account = wire.decode_server(frame, self._form)
        except wire.WireError as error:
            raise StreamError("protocol", f"the server sent an invalid message: {error}") from error
        if account is not None:
            self._number = max(self._number, account.number)
            for _ in range(account.received - self._received):
                self._sent.popleft()
            self._received = max(self._received, account.received)
        return message

    async def _read_ready(self, socket: ClientConnection) -> wire.ReadyMessage:
        try:
            message = self._decoded(await socket.recv())
        except ConnectionClosed as error:
            raise StreamError("disconnected", f"the connection was lost: {error}") from error
        if isinstance(message, wire.ErrorMessage):
            raise StreamError(message.code, message.message)
        if not isinstance(message, wire.ReadyMessage):
            raise StreamError("protocol", f"the server's first message is {message.type!r}, not 'ready'")
        return message

    async def _send(self, message: wire.AnyClientMessage) -> None:
        await self._send_frame(wire.encode(message, self._form))

    async def _send_frame(self, frame: str | bytes) -> None:
        async with self._writing:
            assert self._socket is not None
            socket = self._socket
            if self._resumable:
                self._sent.append(frame)
            try:
                await socket.send(frame)
                return
            except ConnectionClosed as error:
                lost = error
        await self._reconnect(socket, lost)

    async def _reconnect(self, socket: ClientConnection, lost: ConnectionClosed) -> None:
        """Reconnect and resend what did not arrive. Raises `StreamError`."""
        async with self._reconnecting:
            if self._socket is not socket:
                return  # the other task of this client has reconnected
            if self.ready is None or self.ready.resume is None or self.closed is not None:
                raise StreamError("disconnected", f"the connection was lost: {lost}") from lost
            url = f"{self._url}&{urlencode({'resume': self.ready.resume, 'after': self._number})}"
            loop = asyncio.get_running_loop()
            until, pause_s = loop.time() + self.ready.resume_within_s, _FIRST_PAUSE_S
            while True:
                try:
                    self._socket = await self._resumed(url)
                    return
                except (StreamError, ConnectionClosed) as error:
                    final = isinstance(error, _RefusedError) and error.status < 500
                    if final or loop.time() + pause_s > until:
                        raise StreamError("disconnected", f"the connection was lost ({lost}); {error}") from lost
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _resumed(self, url: str) -> ClientConnection:
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
    """The server refused the stream with this HTTP status; `retry_s` is its Retry-After."""

    def __init__(self, status: int, code: str, message: str, retry_s: float | None = None) -> None:
        super().__init__(code, message)
        self.status = status
        self.retry_s = retry_s


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


def stream_url(url: str, form: wire.Format, model: str | None = None, speakers: SpeakersWanted | None = None) -> str:
    """Return the WebSocket address of the live protocol on the server at `url` (http, https, ws or wss)."""
    query = {"format": form.value} | ({"model": model} if model else {}) | (speakers.parameters() if speakers else {})
    return websocket_url(url, wire.PATH, query)


def websocket_url(url: str, path: str, query: Mapping[str, str]) -> str:
    """Return the WebSocket address of a path on the server at `url`, which may end in the path already."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    full = parts.path if parts.path.endswith(path) else parts.path.rstrip("/") + path
    return urlunsplit((scheme, parts.netloc, full, urlencode(query), ""))
