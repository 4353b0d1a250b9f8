"""The code of a decoder process: it decodes one stream or file, within limits, on one thread."""

from __future__ import annotations

import contextlib
import resource
import socket
import sys
import traceback
from collections import deque

from myna.media.files import decode_file
from myna.media.messages import (
    HEAD,
    HELLO,
    PORTION_CPU_S,
    Media,
    MessageKind,
    encoded_message,
    message,
    samples_message,
)
from myna.media.padding import pad_file
from myna.streaming.audio.container import decode_container
from myna.streaming.audio.opus import decode_opus
from myna.streaming.audio.parts import FlushAsked
from myna.streaming.audio.raw import PORTION, AudioError, Codec, Coded, PcmQueue, RawFormat

MEMORY_BYTES = 256 << 20
"""The most memory for decoding. The index of a twelve-hour film takes half of it, the largest MP4 kept whole a quarter."""
_MOST_FILES = 16
"""The most open descriptors: the socket, the file, and FFmpeg's own."""


class _GoneError(Exception):
    """The server has closed the socket."""


def serve(line: socket.socket) -> None:
    """Serve the server's requests until it closes the socket."""
    feed = _SocketFeed(line)
    with contextlib.suppress(_GoneError, ConnectionError):
        line.sendall(HELLO)
        media = feed.opened()
        _limit_memory()
        try:
            _decode(media, feed)
        except AudioError as error:
            feed.close(MessageKind.REFUSED, str(error))
        except MemoryError:
            feed.close(MessageKind.REFUSED, f"the audio cannot be decoded in {MEMORY_BYTES >> 20} MB of memory")
        except (_GoneError, ConnectionError):
            raise
        except Exception:
            feed.close(MessageKind.FAILED, traceback.format_exc())
        feed.close(MessageKind.SAMPLES)


def _decode(media: Media, feed: _SocketFeed) -> None:
    match media:
        case Media(path=str(), pad_ms=int(pad_ms)):
            pad_file(media.file, pad_ms, feed.write)
            feed.write(0, b"")
        case Media(path=str()):
            decode_file(media.file, media.audio, feed, mix=media.mix)
        case Media(audio=Coded(codec=Codec.OPUS, channels=channels)):
            decode_opus(feed, channels, mix=media.mix)
        case Media(audio=Coded(codec=codec)):
            decode_container(feed, mix=media.mix, codec=codec)
        case Media(audio=RawFormat()):
            raise AudioError("raw audio of a live stream needs no decoder process")


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))
    if sys.platform == "linux":  # other systems do not limit address space, or do not report it
        with open("/proc/self/statm") as statm:  # noqa: PTH123 - no path object for one word
            pages = int(statm.read().split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_time() -> None:
    """Make SIGXCPU end the process unless it completes the next portion within `PORTION_CPU_S` of CPU time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + 1 + PORTION_CPU_S, resource.RLIM_INFINITY))


class _SocketFeed:
    """A `Feed` over the socket to the server.

    The feed answers each `READ` once: with a portion, or with fewer samples when the decoder needs bytes that have not
    arrived.
    """

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._pieces: deque[bytes | None] = deque()  # None: a flush
        self._rest = memoryview(b"")  # the rest of a piece that was longer than the read
        self._ended = False
        self._asked = False
        self._decoded = PcmQueue()

    def opened(self) -> Media:
        """Wait for the media to decode."""
        kind, body = self._receive()
        assert kind is MessageKind.OPEN
        return Media.of(body)

    def read(self, size: int) -> bytes:
        """Return the next bytes, waiting for them; none at the end of the stream. Raises `FlushAsked`."""
        if not self._rest:
            self._rest = memoryview(self.packet() or b"")
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data

    def packet(self) -> bytes | None:
        """Return the next piece as it was sent, waiting for it; None at the end of the stream. Raises `FlushAsked`."""
        self._wait_for_pieces()
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        if piece is None:
            raise FlushAsked
        return piece

    def put(self, channels: list[bytes]) -> None:
        """Take samples; when they fill a portion, wait until the server requests it."""
        self._decoded.put(channels)
        while self._decoded.samples >= PORTION:
            self._until_asked()
            self._answer(samples_message(self._decoded.take()))

    def write(self, place: int, piece: bytes) -> None:
        """Take a piece of a file that is made; wait until the server requests it."""
        self._until_asked()
        self._answer(encoded_message(place, piece))

    def close(self, kind: MessageKind, text: str = "") -> None:
        """Hand out the decoded samples, then answer every request with `kind`, until the server closes the socket."""
        if self._decoded.samples:
            self._until_asked()
            self._answer(samples_message(self._decoded.take()))
        last = samples_message([]) if kind is MessageKind.SAMPLES else message(kind, text.encode())
        while True:
            self._until_asked()
            self._pieces.clear()  # the client may continue to send
            self._answer(last)

    def _wait_for_pieces(self) -> None:
        while not self._pieces and not self._ended:
            if self._asked:
                self._answer(samples_message(self._decoded.take()))
            self._take_message()

    def _until_asked(self) -> None:
        while not self._asked:
            self._take_message()

    def _answer(self, answer: bytes) -> None:
        self._asked = False
        self._line.sendall(answer)

    def _take_message(self) -> None:
        kind, body = self._receive()
        if kind is MessageKind.DATA:
            if body:
                self._pieces.append(body)
        elif kind is MessageKind.FLUSH:
            self._pieces.append(None)
        elif kind is MessageKind.END:
            self._ended = True
        elif kind is MessageKind.READ:
            self._asked = True
            _limit_time()

    def _receive(self) -> tuple[MessageKind, bytes]:
        kind, size = HEAD.unpack(self._exactly(HEAD.size))
        return MessageKind(kind), self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._line.recv(min(size - len(data), 1 << 20))
            if not part:
                raise _GoneError
            data += part
        return bytes(data)
