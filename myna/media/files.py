"""Decodes audio and video files of any supported format to int16. This code runs in a decoder process."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from myna.streaming.audio import mp4 as boxes
from myna.streaming.audio.container import decode_media, decode_parts
from myna.streaming.audio.frames import FrameConverter, Sink
from myna.streaming.audio.parts import SUPPORTED, TELLING, WEAKLY_MARKED, Parts, sniff
from myna.streaming.audio.raw import AudioError, Coded, RawDecoder, RawFormat

_READ = 1 << 16
_NEED_SEEKING = {"aiff", "au", "caf", "w64", "avi", "asf", "mpeg"}
"""Formats of which FFmpeg reads the file itself, since it may need to seek to the end."""


def decode_file(path: Path, audio: RawFormat | Coded, feed: Sink, *, mix: bool) -> None:
    """Put the samples of a file into `feed`. Raises `AudioError`. `audio` is raw only if the client announced raw audio."""
    if isinstance(audio, RawFormat):
        with path.open("rb") as file:
            _decode_raw(file, audio, feed, mix=mix)
    else:
        decode_coded(path, audio, FrameConverter(feed, mix=mix))


def decode_coded(path: Path, audio: Coded, sound: FrameConverter) -> None:
    """Put the sound of a file into `sound`. Raises `AudioError`.

    The first bytes of the file decide its format, not its name. The audio of containers that follow each other in the file is
    joined.
    """
    with path.open("rb") as file:
        name = kind_of(file.read(TELLING), audio)
        try:
            if name == "mp4":
                begins = boxes.beginnings(file)
                for begin, end in zip(begins, [*begins[1:], None], strict=True):
                    _decode(path, name, sound, begin, end)
            elif name in _NEED_SEEKING:
                _decode(path, name, sound)
            else:
                file.seek(0)
                decode_parts(Parts(file, sound, audio.codec.value if audio.codec else None), sound, {})
        except AudioError as error:
            if not sound.heard:
                raise AudioError(f"corrupt or unsupported data: {error}") from error
            # The samples of a truncated file are kept.
        sound.finish()


def kind_of(head: bytes, audio: Coded | None = None) -> str:
    """Return FFmpeg's name of the format that begins with these bytes. Raises `AudioError` if it is not supported."""
    if not head:
        raise AudioError("the file is empty")
    name = sniff(head)
    if audio is not None and audio.codec is not None and (name is None or name in WEAKLY_MARKED):
        return audio.codec.value
    if name is None:
        raise AudioError(f"corrupt or unsupported data: the file is none of {SUPPORTED}")
    return name


def _decode(path: Path, name: str, sound: FrameConverter, begin: int = 0, end: int | None = None) -> None:
    """Decode the container between these positions in a file; end None: to the end of the file."""
    whole = not begin and end is None
    url = f"file:{path}" if whole else f"subfile,,start,{begin},end,{end or 0},,:file:{path}"
    sound.begin()
    decode_media(url, name, sound, None, {"protocol_whitelist": "file" if whole else "file,subfile"})


def _decode_raw(file: BinaryIO, audio: RawFormat, feed: Sink, *, mix: bool) -> None:
    decoder = RawDecoder(audio, mix=mix)
    while data := file.read(_READ):
        decoder.feed(data)
        while channels := decoder.read():
            feed.put(channels)
    decoder.finish()
    while channels := decoder.read():
        feed.put(channels)
