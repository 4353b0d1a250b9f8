"""The receive loop of a WebSocket: reads a client's messages and carries out what its dialect makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiohttp import WSMessage, WSMsgType

from myna.runtime.errors import DialectError
from myna.server.dialects.base import Audio, Command, Configure, Dialect, End, Open, Stalled
from myna.server.services import Services
from myna.server.websocket.client_socket import CONTROL, DATA, ClientGone, ClientSocket
from myna.server.websocket.live_stream import LiveStream
from myna.server.websocket.loop_share import LoopShare
from myna.server.websocket.silence import SilenceTimer
from myna.streaming.audio.raw import Codec, Coded

_JOINED_BYTES = 16_384
"""Audio in small messages that have already been received is joined up to this size: half a second of PCM."""


class Receiver:
    """One client's, over all its sockets. `on_open` is called when the client has opened the stream."""

    def __init__(
        self, live: LiveStream, dialect: Dialect, silence: SilenceTimer, services: Services, on_open: Callable[[], None]
    ) -> None:
        self._live = live
        self._dialect = dialect
        self._silence = silence
        self._services = services
        self._on_open = on_open
        self._share = LoopShare()
        self._joins = True
        self._joined: list[bytes] = []

    async def receive(self, socket: ClientSocket) -> None:
        """Receive until the client ends the stream. Raises `ClientGone`, `DialectError` and `SlowReaderError`."""
        await self._share.run(self._receive(socket))

    async def answer_pings(self, socket: ClientSocket) -> None:
        """Answer pings and ignore other messages, until the client is gone. Raises `ClientGone` then."""
        await self._share.run(self._answer_pings(socket))

    async def _receive(self, socket: ClientSocket) -> None:
        if not self._live.is_open:
            await self._act(self._dialect.begin())
        silence = self._silence
        silence.message_received()
        while True:
            if socket.has_data or self._share.is_over:  # otherwise waiting for the next message lets others run
                await self._yield_to_others()
            try:
                message: WSMessage | None = await socket.next_message(silence.wait_s)
            except TimeoutError:
                message = None
            if message is not None and message.type is WSMsgType.PING:
                await socket.answer_ping(message.data)
            if message is None or (message.type in CONTROL and silence.has_expired):
                if silence.check():
                    await self._live.act(Stalled())
                continue
            if message.type in CONTROL:
                continue
            if message.type not in DATA:
                raise ClientGone.after(message)
            silence.message_received()
            try:
                over = await self._act(self._dialect.receive(message.data))
            except DialectError:
                await self._hand_over()
                raise
            if over:
                return
            if not socket.has_data or self._share.is_due:
                await self._hand_over()

    async def _answer_pings(self, socket: ClientSocket) -> None:
        while (message := await socket.next_message()).type in (*DATA, *CONTROL):
            if message.type is WSMsgType.PING:
                await socket.answer_ping(message.data)
            await self._yield_to_others()
        raise ClientGone.after(message)

    async def _yield_to_others(self) -> None:
        """Let other clients have the event loop. Raises `DialectError` if this one has taken too much of it for too long."""
        alone = len(self._services.streams) < 2
        if await self._share.yield_to_others(self._live.heard_s, alone=alone):
            raise DialectError(
                "overloaded",
                "the messages of this client cost far more time than its audio: send fewer and larger ones",
                finals_first=True,
            )

    async def _act(self, commands: Iterable[Command]) -> bool:
        """Carry the commands out, but keep audio back to be joined; return whether the last was the end."""
        for command in commands:
            if isinstance(command, Audio):
                await self._join(command.data)
                continue
            await self._hand_over()
            if isinstance(command, End):
                return True
            if self._share.is_due:
                await self._yield_to_others()
            await self._live.act(command)
            match command:
                case Configure(policy=policy) if policy is not None:
                    self._silence.opened(policy.patience_s)
                case Open(policy=policy, audio=audio):
                    self._silence.opened(policy.patience_s)
                    self._joins = not (isinstance(audio, Coded) and audio.codec is Codec.OPUS)  # a message is a packet
                    self._on_open()
        return False

    async def _join(self, audio: bytes) -> None:
        """Keep audio back; hand over what was kept where it would grow too large, or is not to be joined."""
        if self._joined and sum(map(len, self._joined)) + len(audio) > _JOINED_BYTES:
            await self._hand_over()
        self._joined.append(audio)
        if not self._joins:
            await self._hand_over()

    async def _hand_over(self) -> None:
        """Hand the audio that was kept back to the stream."""
        if self._joined:
            audio = Audio(self._joined[0] if len(self._joined) == 1 else b"".join(self._joined))
            self._joined.clear()
            await self._live.act(audio)
            self._silence.audio_received()
