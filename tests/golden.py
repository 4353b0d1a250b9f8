"""Plays written conversations with Deepgram's dialects: the client's messages (>), and the answers byte for byte (<).

The dialect is the one that the server has at the address. Everything behind it is real except the engine and voice activity
detection, which read words and speech from the level of the sound, so that the answers depend only on the messages.
`python tests/golden.py` writes the answers anew; read the difference before you commit it.

    ? QUERY                  the query of the address (first line); after a path if that is not /v1/listen
    ! NAME=VALUE             an ability of the engine: keyterms=true, languages=en,fr, detects_language=true
    > 1 2 _0.8 x             audio: words number 1 and 2, 0.8 s of silence, noise without words
    > 1|2                    audio of two channels side by side
    > {"type": …}            a text message, as it stands
    > bytes HEX              a binary frame
    > idle | > shutdown …    an error code of the server, which ends the stream
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from aiohttp.test_utils import make_mocked_request
from drive import amplitude_voice

from myna.inference.engines.fake.engine import FakeEngine, FakeSettings, silence, spoken
from myna.inference.engines.kind import Model
from myna.runtime.errors import DialectError
from myna.server.dialects.base import (
    Audio,
    Command,
    Configure,
    Dialect,
    End,
    EndTurn,
    Flush,
    Frame,
    KeepAlive,
    Open,
    Reply,
)
from myna.server.dialects.registry import LIVE
from myna.server.http.request_id import REQUEST_ID as REQUEST_ID_KEY
from myna.server.keys import Authentication
from myna.server.settings import Settings
from myna.streaming.audio.parts import sniff
from myna.streaming.audio.raw import AudioError, RawDecoder, RawFormat
from myna.streaming.events import SAMPLE_RATE
from myna.streaming.session.requests import Detect, Submit
from myna.streaming.session.stream import Stream

FOLDER = Path(__file__).parent / "server" / "golden"
REQUEST_ID = "2479c8c8-8185-40ac-9ac6-f0874419f793"
FINALS_FIRST = ("idle", "overloaded", "shutting_down")
"""Error codes that end a stream after its finals; a test over sockets compares this with the server."""
CREATED = "2026-01-01T00:00:00.000Z"
_CREATED = re.compile('"created":"[^"]*"')


def dialect(address: str, engine: FakeEngine) -> Dialect:
    """Return the dialect that the server has at this address."""
    path, _, query = address.rpartition("?")
    request = make_mocked_request("GET", f"{path or '/v1/listen'}?{query}")
    request[REQUEST_ID_KEY] = REQUEST_ID
    entry = LIVE[request.path](request, Settings(), Authentication(None))
    entry.read(request.query.items())
    return entry.dialect(Model("fake", "fake", languages=engine.info.languages), engine.info)


class Conversation:
    """One connection without a network: `send` takes steps of the script, `answers` holds what was answered."""

    def __init__(self, query: str, engine: FakeEngine) -> None:
        self._engine = engine
        self._dialect = dialect(query, engine)
        self.answers: list[str] = []
        self._stream: Stream | None = None
        self._decoder: RawDecoder | None = None
        self.ended = False
        self._act(self._dialect.begin())
        self._say(self._dialect.opened("s"))

    def send(self, what: str) -> None:
        if what.startswith("bytes"):
            self._receive(bytes.fromhex(what.removeprefix("bytes")))
        elif re.match(r"[\d_x]", what):
            data, piece = audio(what), 3200 * (what.count("|") + 1)  # a tenth of a second
            for start in range(0, len(data), piece):
                self._receive(data[start : start + piece])
        elif re.fullmatch("[a-z_]+", what):
            if what in FINALS_FIRST:
                self._end()
            self._close(DialectError(what, "as told"))
        else:
            self._receive(what)

    def _receive(self, frame: str | bytes) -> None:
        try:
            self._act(self._dialect.receive(frame))
        except DialectError as error:
            self._close(error)

    def _act(self, commands: object) -> None:
        for command in commands:  # type: ignore[attr-defined]
            try:
                self._carry_out(command)
            except AudioError as error:
                self._close(DialectError("undecodable_audio", str(error)))

    def _carry_out(self, command: Command) -> None:
        match command:
            case Open():
                if isinstance(
                    command.audio, RawFormat
                ):  # containers are decoded in a process, which has no part in this
                    self._decoder = RawDecoder(command.audio, mix=command.mix)
                self._stream = Stream("s", command.policy, command.options, self._engine.info)
            case Audio(data):
                if self._decoder is None:
                    assert sniff(data) is None
                    raise AudioError("these bytes begin no container this server reads")
                self._decoder.feed(data)
                self._decode()
            case Flush(token, channel):
                assert self._stream
                self._stream.flush(token, channel)
            case Configure(options, policy, token):
                assert self._stream
                self._stream.configure(options, policy, token)
            case EndTurn():
                assert self._stream
                self._stream.end_turn()
            case Reply(frames):
                self._say(frames)
            case KeepAlive():
                pass
            case End():
                self._end()
                self._close(None)
        self._settle()

    def _decode(self) -> None:
        assert self._stream
        while channels := self._decoder.read() if self._decoder else []:
            self._stream.push(channels, 0.0)
            self._settle()

    def _end(self) -> None:
        assert self._stream
        if self._decoder:
            self._decoder.finish()
        self._decode()
        self._stream.end()
        self._settle()

    def _settle(self) -> None:
        """Carry out the core's requests in order until there are none."""
        assert self._stream
        while True:
            requests, events = self._stream.take()
            for event in events:
                self._say(self._dialect.emit(event))
            if not requests:
                return
            for request in requests:
                if isinstance(request, Detect):
                    windows = amplitude_voice(request.channel, request.pcm)
                    self._stream.on_vad(request.channel, request.start, windows)
                elif isinstance(request, Submit):
                    (outcome,) = self._engine.transcribe([request.job])
                    self._stream.on_result(request.job.id, outcome)

    def _close(self, error: DialectError | None) -> None:
        assert self._stream
        farewell = self._dialect.closing(error, self._stream.received / SAMPLE_RATE)
        self._say(farewell.frames)
        self.answers.append(f"close {farewell.close_code} {farewell.reason}".rstrip())
        self.ended = True

    def _say(self, frames: object) -> None:
        for frame in frames:  # type: ignore[attr-defined]
            assert isinstance(frame, Frame)
            assert isinstance(frame.payload, str)
            self.answers.append(_CREATED.sub(f'"created":"{CREATED}"', frame.payload))


def audio(notation: str) -> bytes:
    channels = [np.concatenate([_sound(part) for part in channel.split()]) for channel in notation.split("|")]
    longest = max(map(len, channels))
    return np.stack([np.pad(channel, (0, longest - len(channel))) for channel in channels], axis=1).tobytes()


def _sound(part: str) -> np.ndarray:
    if part.startswith("_"):
        return silence(float(part[1:]))
    if part.startswith("x"):
        return np.full(round(float(part[1:] or 1) * SAMPLE_RATE), 600, np.int16)
    return spoken(int(part))


def played(script: str) -> str:
    """Return the script with the answers as they are now."""
    lines = [line for line in script.splitlines() if not line.startswith("<")]
    abilities = dict(line[1:].strip().split("=") for line in lines if line.startswith("!"))
    able = {name: abilities.get(name) == "true" for name in ("keyterms", "detects_language")}
    engine = FakeEngine(settings=FakeSettings(**able))
    if languages := abilities.get("languages"):
        engine._languages = tuple(languages.split(","))
    query = next(line[1:].strip() for line in lines if line.startswith("?"))
    conversation = Conversation(query, engine)
    out = []
    for line in lines:
        out.append(line)
        if line.startswith(">"):
            assert not conversation.ended, f"{line!r} after the end"
            conversation.send(line[1:].strip())
            out += [f"< {answer}" for answer in conversation.answers]
            conversation.answers.clear()
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.txt")):
        path.write_text(played(path.read_text()))
