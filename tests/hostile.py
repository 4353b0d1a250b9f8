"""A zoo of hostile media files: absurd rates, channels, sizes, tables; broken off at every box; rubbish behind good heads."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import numpy as np
from sounds import RATE, contained

_NOISE = np.random.default_rng(5).integers(-8000, 8000, RATE).astype(np.int16)


def zoo() -> dict[str, bytes]:
    """Return the files by their names."""
    return dict([*_wavs(), *_flacs(), *_mp4s(), *_oggs(), *_webms(), *_mp3s(), *_rubbish()])


def wav(
    *,
    channels: int = 1,
    rate: int = RATE,
    bits: int = 16,
    kind: int = 1,
    align: int | None = None,
    size: int | None = None,
    data: bytes = bytes(3200),
) -> bytes:
    """Return a WAV file whose header says this."""
    align = channels * bits // 8 if align is None else align
    head = struct.pack("<HHIIHH", kind, channels, rate & 0xFFFFFFFF, (rate * align) & 0xFFFFFFFF, align & 0xFFFF, bits)
    body = (
        b"WAVEfmt "
        + struct.pack("<I", len(head))
        + head
        + b"data"
        + struct.pack("<I", len(data) if size is None else size)
    )
    return b"RIFF" + struct.pack("<I", len(body) + len(data)) + body + data


def _wavs() -> Iterator[tuple[str, bytes]]:
    for channels in (0, 1, 3, 6, 7, 8, 9, 12, 16, 17, 20, 21, 24, 32, 40, 48, 63, 64, 255, 65_535):
        yield f"wav of {channels} channels", wav(channels=channels, data=bytes(640 * max(1, min(channels, 64))))
    for rate in (0, 1, 2, 100, 3_999, 4_000, 384_000, 384_001, 10**6, 2**31 - 1, 2**32 - 1):
        yield f"wav of {rate} Hz", wav(rate=rate, data=bytes(64_000))
    for bits in (0, 1, 3, 4, 12, 24, 64, 128, 65_535):
        yield f"wav of {bits} bits", wav(bits=bits, align=4)
    for kind in (0, 2, 3, 6, 7, 0x11, 0x31, 0x55, 0x161, 0x2000, 0xFFFE, 0xFFFF):
        yield f"wav of codec {kind}", wav(kind=kind, data=_NOISE.tobytes())
    for align in (0, 1, 65_535):
        yield f"wav of blocks of {align}", wav(align=align)
    yield "wav that says 4 GiB", wav(size=2**32 - 1)
    yield "wav that says nothing", wav(size=0)


def flac(rate: int, channels: int, block: int, *, total: int = 0, more: bytes = b"", frame: bytes = b"") -> bytes:
    """Return a FLAC file whose stream info says this."""
    packed = rate << 44 | (channels - 1) << 41 | 15 << 36 | total
    info = struct.pack(">HH", block, block) + bytes(6) + packed.to_bytes(8) + bytes(16)
    return b"fLaC" + (b"\x00" if more else b"\x80") + len(info).to_bytes(3) + info + more + frame


def constant_frame(block: int) -> bytes:
    """Return a FLAC frame of one channel that is `block` equal samples: a dozen bytes."""
    head = bytes((0xFF, 0xF8, 0x70, 0x08, 0x00)) + (block - 1).to_bytes(2)
    head += bytes([_crc(head, 0x07, 8)])
    body = head + bytes((0x00, 0x12, 0x34))
    return body + _crc(body, 0x8005, 16).to_bytes(2)


def _crc(data: bytes, polynomial: int, width: int) -> int:
    value, top = 0, 1 << (width - 1)
    for byte in data:
        value ^= byte << (width - 8)
        for _ in range(8):
            value = ((value << 1) ^ polynomial if value & top else value << 1) & ((1 << width) - 1)
    return value


def _flacs() -> Iterator[tuple[str, bytes]]:
    for rate in (1, 10, 4_000, 655_350):
        yield f"flac of {rate} Hz and long frames", flac(rate, 1, 65_535, frame=constant_frame(65_535) * 3)
    yield "flac that says 2^36 samples", flac(RATE, 8, 65_535, total=2**36 - 1, frame=constant_frame(4096))
    for kind in range(1, 7):
        yield (
            f"flac with a giant block {kind}",
            flac(RATE, 1, 4096, more=bytes([0x80 | kind]) + b"\xff\xff\xff" + bytes(100)),
        )
    comments = struct.pack("<I", 2**32 - 1) + bytes(40)
    yield "flac with comments of 4 GiB", flac(RATE, 1, 4096, more=b"\x84" + len(comments).to_bytes(3) + comments)
    good = contained([_NOISE], "flac", "flac")
    for part in (43, 100, len(good) // 2, len(good) - 1):
        yield f"flac broken off at {part}", good[:part]


def _mp4s() -> Iterator[tuple[str, bytes]]:
    first = contained([_NOISE], "mp4", "aac", options={"movflags": "faststart"})
    last = contained([_NOISE], "mp4", "aac")
    fragmented = contained(
        [_NOISE], "mp4", "aac", options={"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"}
    )
    for name, good in (("index first", first), ("index last", last), ("fragments", fragmented)):
        for position, kind in boxes(good):
            yield f"mp4, {name}, broken off at {kind} {position}", good[: position + 12]
    for box in ("stsz", "stts", "stsc", "stco"):
        for count in (2**20, 2**27, 2**31 - 1, 2**32 - 1):
            yield f"mp4 whose {box} has {count} entries", with_count(first, box, count)
    yield "mp4 of 134 million samples of one byte", with_count(first, "stsz", 2**27, fixed=1)
    for box in ("moov", "trak", "mdia", "stbl", "esds", "mdat"):
        position = first.index(box.encode())
        for size in (0, 1, 7, 2**31, 2**32 - 1):
            yield f"mp4 whose {box} has {size} bytes", first[: position - 4] + size.to_bytes(4) + first[position:]
    nested = b""
    for _ in range(2_000):
        nested = (len(nested) + 8).to_bytes(4) + b"moov" + nested
    yield "mp4 of boxes in boxes", first[:32] + nested
    position = first.index(b"mp4a")
    yield "mp4 of 65,535 channels", first[: position + 20] + b"\xff\xff" + first[position + 22 :]
    yield "mp4 of no rate", first[: position + 28] + bytes(4) + first[position + 32 :]


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, str]]:
    """Return where each box of an MP4 begins, and its kind, boxes in boxes included."""
    position, end = start, len(data) if end is None else end
    while position + 8 <= end:
        size, kind = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8].decode("latin-1")
        yield position, kind
        if kind in ("moov", "trak", "mdia", "minf", "stbl", "moof", "traf"):
            yield from boxes(data, position + 8, position + size)
        position += max(8, size)


def with_count(data: bytes, box: str, count: int, *, fixed: int | None = None) -> bytes:
    """Return an MP4 whose table says that it has so many entries; of `stsz`, each of `fixed` bytes."""
    position = data.index(box.encode()) + 8
    if box == "stsz":
        size = data[position : position + 4] if fixed is None else fixed.to_bytes(4)
        return data[:position] + size + count.to_bytes(4) + data[position + 8 :]
    return data[:position] + count.to_bytes(4) + data[position + 4 :]


def _oggs() -> Iterator[tuple[str, bytes]]:
    good = contained([np.repeat(_NOISE, 3)], "ogg", "libopus", rate=48_000)
    position = good.index(b"OpusHead")
    for channels in (0, 3, 9, 255):
        yield f"opus of {channels} channels", good[: position + 9] + bytes([channels]) + good[position + 10 :]
    yield "opus that skips everything", good[: position + 10] + b"\xff\xff" + good[position + 12 :]
    for part in (27, 60, 200, len(good) // 2):
        yield f"ogg broken off at {part}", good[:part]
    yield "ogg of a thousand streams", b"".join(good[:14] + number.to_bytes(4) + good[18:200] for number in range(1000))


def _webms() -> Iterator[tuple[str, bytes]]:
    good = contained([np.repeat(_NOISE, 3)], "webm", "libopus", rate=48_000)
    for part in (5, 40, 100, 200, 300, 400, len(good) // 2, len(good) - 3):
        yield f"webm broken off at {part}", good[:part]
    for number in (4, 40, 60, 200):
        yield f"webm with a giant size at {number}", good[:number] + b"\x01" + b"\xff" * 7 + good[number + 8 :]
    position = good.index(b"\x9f\x81")
    yield "webm of 255 channels", good[:position] + b"\x9f\x82\xff\xff" + good[position + 4 :]


def _mp3s() -> Iterator[tuple[str, bytes]]:
    good = contained([_NOISE], "mp3", "libmp3lame")
    yield "mp3 behind 256 MiB of tag", b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + good
    yield "mp3 of tags only", b"ID3\x04\x00\x00\x00\x00\x00\x00" * 5000
    yield "mp3 of heads only", b"\xff\xfb\x90\x00" * 20_000
    yield "mp3 broken off", good[: len(good) // 3]


def _rubbish() -> Iterator[tuple[str, bytes]]:
    heads = {
        "wav": b"RIFF\xff\xff\xff\x7fWAVEfmt ", "rf64": b"RF64\xff\xff\xff\xffWAVEds64", "mp4": b"\x00\x00\x00\x18ftypM4A ",
        "flac": b"fLaC", "ogg": b"OggS\x00\x02", "webm": b"\x1a\x45\xdf\xa3", "amr": b"#!AMR\n", "id3": b"ID3\x03\x00",
        "aac": b"\xff\xf1\x50\x80", "mp3": b"\xff\xfb\x90\x64",
        "aiff": b"FORM\x00\x10\x00\x00AIFFCOMM",
        "au": b".snd\x00\x00\x00\x18",
        "caf": b"caff\x00\x01\x00\x00desc", "w64": b"riff\x2e\x91\xcf\x11", "avi": b"RIFF\xff\xff\x00\x00AVI LIST",
        "asf": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", "mpeg": b"\x00\x00\x01\xba\x44",
    }  # fmt: skip
    chance = random.Random(8)
    for name, head in heads.items():
        for size in (16, 50_000):
            yield f"{size} bytes of rubbish behind {name}", head + chance.randbytes(size)
    packet = b"\x47\x1f\xff\x10"
    yield "ts of rubbish", b"".join(packet + chance.randbytes(184) for _ in range(500))
    good = contained([_NOISE], "mpegts", "aac")
    for number in range(6):
        damaged = bytearray(good)
        for _ in range(20):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        yield f"ts damaged {number}", bytes(damaged)
    yield "nothing", b""
    yield "a byte", b"\xff"
