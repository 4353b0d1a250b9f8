"""Follows an MPEG transport stream to find where the audio tracks of a programme change."""

from __future__ import annotations

import numpy as np

_PACKET = 188
_SYNC = 0x47
_SOUND = {0x03, 0x04, 0x0F, 0x11, 0x80, 0x81, 0x83, 0x84, 0x87, 0x06}
"""Stream types of audio (ISO/IEC 13818-1, ATSC A/52), and of private data, which carries audio in DVB."""


class Transport:
    """One set of tracks. Where the map (PMT) names others, a new part begins, preceded by a copy of the last table (PAT)."""

    excused = 0

    def __init__(self) -> None:
        self._kept = b""
        self._table = b""  # the last PAT packet
        self._maps: set[int] = set()
        self._tracks: dict[int, tuple[tuple[int, int], ...]] = {}

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the bytes with the same tracks, and the bytes after them if the tracks change."""
        data, self._kept = self._kept + data, b""
        whole = len(data) // _PACKET * _PACKET
        packets = np.frombuffer(data, np.uint8, whole).reshape(-1, _PACKET)
        starts = np.flatnonzero((packets[:, 0] == _SYNC) & (packets[:, 1] & 0x40 != 0))
        pids = (packets[starts, 1].astype(int) & 0x1F) << 8 | packets[starts, 2]
        for number, pid in zip(starts[(pids < 0x1FFF)], pids[(pids < 0x1FFF)], strict=True):
            if pid and pid not in self._maps:
                continue
            packet = data[number * _PACKET : (number + 1) * _PACKET]
            section = _section(packet)
            if not pid and section[:1] == b"\0":
                self._table = packet
                self._maps = set(_maps(section))
            elif pid and section[:1] == b"\2":
                tracks = tuple(_tracks(section))
                if tracks and tracks != self._tracks.setdefault(int(pid), tracks):
                    return data[: number * _PACKET], self._table + data[number * _PACKET :]
        self._kept = data[whole:]
        return data[:whole], None

    def end(self) -> bytes:
        """Return the bytes kept back."""
        return self._kept


def _section(packet: bytes) -> bytes:
    """Return the section that begins in a packet, without its checksum; b"" if it is incomplete."""
    at = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)
    if not packet[3] & 0x10 or at >= _PACKET:
        return b""
    at += 1 + packet[at]
    size = int.from_bytes(packet[at + 1 : at + 3]) & 0xFFF
    section = packet[at : at + 3 + size - 4]
    return section if size >= 9 and len(section) == size - 1 else b""


def _maps(section: bytes) -> list[int]:
    """Return the packet identifiers of the maps of a table's programmes."""
    entries = (section[at : at + 4] for at in range(8, len(section) - 3, 4))
    return [int.from_bytes(entry[2:]) & 0x1FFF for entry in entries if entry[:2] != b"\0\0"]


def _tracks(section: bytes) -> list[tuple[int, int]]:
    """Return the type and the packet identifier of a programme's audio tracks."""
    tracks = []
    at = 12 + (int.from_bytes(section[10:12]) & 0xFFF)
    while at + 5 <= len(section):
        if section[at] in _SOUND:
            tracks.append((section[at], int.from_bytes(section[at + 1 : at + 3]) & 0x1FFF))
        at += 5 + (int.from_bytes(section[at + 3 : at + 5]) & 0xFFF)
    return sorted(tracks)
