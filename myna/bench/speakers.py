"""Measure speakers: conversations as files and as live streams, against who spoke in truth."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from myna.bench.accuracy import AccuracyError, normalised, read_manifest
from myna.bench.conversations import Conversation, composed, recorded
from myna.bench.diarization_error import (
    DiarizationError,
    SpokenTurn,
    SpokenWord,
    WordErrors,
    diarization_error,
    word_errors,
)
from myna.bench.processes import ProcessTree
from myna.clients import files
from myna.clients.local_server import LocalServerError, local_server

COLLARS_S = (0.0, 0.25)
FLAGS = ("--allowed-networks", '["127.0.0.0/8"]', "--final-target-ms", "0")
"""The server fetches the files from this process, and refuses no stream because finals would be late."""
PATIENT = ("--speakers-within-ms", "60000")
"""Where audio comes faster than real time, a final waits for its speakers as long as they take."""
Report = dict[str, float | int]
_Heard = tuple[list[SpokenWord], float]
"""The recognised words, and the seconds of audio."""


@dataclass(frozen=True, slots=True)
class SpeakerPlan:
    """What to measure: a manifest of which conversations are composed, or a folder of recorded ones with RTTM files."""

    source: Path
    kinds: tuple[str, ...]
    conditions: tuple[str, ...]
    number: int
    seed: int
    live: bool
    speed: float
    """Of the live streams, as a multiple of real time; 0: as fast as possible."""
    streams: int
    """Conversations at a time."""
    keep: Path | None = None
    """A folder for the composed conversations; None: they are deleted."""
    flags: tuple[str, ...] = ()


@dataclass(slots=True)
class SpeakerFigures:
    """The errors of one group of conversations. Words without a reference, and costs without a process, do not count."""

    conversations: int = 0
    audio_s: float = 0.0
    counted: int = 0
    """Conversations whose number of speakers is right."""
    errors: tuple[DiarizationError, ...] = field(default_factory=lambda: tuple(DiarizationError() for _ in COLLARS_S))
    words: WordErrors = field(default_factory=WordErrors)

    def add(self, other: SpeakerFigures) -> None:
        """Add another group."""
        self.conversations += other.conversations
        self.audio_s += other.audio_s
        self.counted += other.counted
        self.words.add(other.words)
        for mine, others in zip(self.errors, other.errors, strict=True):
            mine.add(others)

    def report(self) -> Report:
        """Return the figures for people and JSON."""
        rates = {
            f"der_{collar:g}_percent": round(100 * error.rate, 2)
            for collar, error in zip(COLLARS_S, self.errors, strict=True)
        }
        return {
            "conversations": self.conversations,
            "minutes": round(self.audio_s / 60, 1),
            "wrong_words_percent": round(100 * self.words.rate, 2),
            "words": self.words.compared,
            "count_right": self.counted,
            **(rates if self.errors[0].speech_s else {}),
        }


def measure(plan: SpeakerPlan, *, as_json: bool) -> None:
    """Measure and print. Raises `AccuracyError`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = plan.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        conversations = _conversations(plan, folder)
        patient = () if plan.live and plan.speed else PATIENT
        try:
            with local_server(None, "--data", f"{temporary}/data", *FLAGS, *patient, *plan.flags) as server:
                found, cost = asyncio.run(_measured(plan, conversations, server.url, ProcessTree(server.pid)))
        except (LocalServerError, files.UnreadableFileError, aiohttp.ClientError) as error:
            raise AccuracyError(str(error)) from error
    groups: dict[str, SpeakerFigures] = {}
    for conversation, figures in zip(conversations, found, strict=True):
        for group in (conversation.condition, "all"):
            groups.setdefault(group, SpeakerFigures()).add(figures)
    reports = {name: figures.report() for name, figures in groups.items()}
    if as_json:
        each = {c.name: figures.report() for c, figures in zip(conversations, found, strict=True)}
        json.dump({"groups": reports, "conversations": each, "cpu_s_per_s": cost}, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    table = Table("conversations", *next(iter(reports.values())))
    for name, report in reports.items():
        table.add_row(name, *map(str, report.values()))
    Console(width=130).print(table)
    way = "live, on top of the words" if plan.live else "as files, without the words"
    Console().print(f"CPU seconds for a second of audio, {way}: {cost:.3f}", highlight=False)


def _conversations(plan: SpeakerPlan, folder: Path) -> list[Conversation]:
    if plan.source.is_dir():
        return recorded(plan.source)
    return composed(read_manifest(plan.source), plan.kinds, plan.conditions, plan.number, plan.seed, folder)


async def _measured(
    plan: SpeakerPlan, conversations: Sequence[Conversation], url: str, tree: ProcessTree
) -> tuple[list[SpeakerFigures], float]:
    """Return the figures of each conversation, and the CPU seconds that speakers take for a second of audio."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session, _Files(conversations) as addresses:
        if not plan.live:
            before = tree.cpu_s()
            turns = [await _turns(session, url, address) for address in addresses]
            spent = tree.cpu_s() - before
            words = [await _file_words(session, url, conversation.audio) for conversation in conversations]
            found = [_figures(*each) for each in zip(conversations, words, turns, strict=True)]
        else:
            before = tree.cpu_s()
            words = await _streamed(plan, conversations, url, session, "diarize=true")
            spent = tree.cpu_s() - before
            before = tree.cpu_s()
            await _streamed(plan, conversations, url, session, "diarize=false")
            spent -= tree.cpu_s() - before
            found = [_figures(*each) for each in zip(conversations, words, strict=True)]
    return found, spent / max(1e-9, sum(figures.audio_s for figures in found))


def _figures(conversation: Conversation, heard: _Heard, turns: Sequence[SpokenTurn] | None = None) -> SpeakerFigures:
    """Return the figures of one conversation, from its recognised words and, of a file, the turns of its speakers."""
    words, audio_s = heard
    labels = {each.speaker for each in (words if turns is None else turns)} - {None}
    figures = SpeakerFigures(1, audio_s, int(len(labels) == conversation.speakers))
    if turns is not None:
        figures.errors = tuple(diarization_error(conversation.turns, turns, collar) for collar in COLLARS_S)
    spoken = conversation.words or [SpokenWord("", t.start, t.end, t.speaker) for t in conversation.turns]
    figures.words = word_errors(spoken, words, lambda one, other: normalised(one) == normalised(other))
    return figures


class _Files:
    """Serves the audio files of conversations on this machine; yields their addresses."""

    def __init__(self, conversations: Sequence[Conversation]) -> None:
        self._paths = [conversation.audio for conversation in conversations]
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> list[str]:
        app = web.Application()
        for number, path in enumerate(self._paths):

            async def send(_: web.Request, path: Path = path) -> web.FileResponse:
                return web.FileResponse(path)

            app.router.add_get(f"/{number}{path.suffix}", send)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = self._runner.addresses[0][1]
        return [f"http://127.0.0.1:{port}/{number}{path.suffix}" for number, path in enumerate(self._paths)]

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


async def _turns(session: aiohttp.ClientSession, url: str, address: str) -> list[SpokenTurn]:
    async with session.post(f"{url}/diarize", params={"audio_file_url": address}) as response:
        body = await response.json()
        if response.status != 200:
            raise AccuracyError(f"{address}: {body}")
    return [SpokenTurn(turn["start"], turn["end"], str(turn["speaker"])) for turn in body["diarization"]]


async def _file_words(session: aiohttp.ClientSession, url: str, audio: Path) -> _Heard:
    """Return what is heard in a file."""
    async with session.post(
        f"{url}/v1/listen?diarize=true", data=await asyncio.to_thread(audio.read_bytes)
    ) as response:
        body = await response.json()
        if response.status != 200:
            raise AccuracyError(f"{audio}: {body.get('err_msg')}")
    return _words(body["results"]["channels"][0]), body["metadata"]["duration"]


async def _streamed(
    plan: SpeakerPlan, conversations: Sequence[Conversation], url: str, session: aiohttp.ClientSession, asked: str
) -> list[_Heard]:
    places = asyncio.Semaphore(plan.streams)
    with Progress(console=Console(file=sys.stderr)) as progress:
        bar = progress.add_task(f"live, {asked}", total=len(conversations))

        async def stream(conversation: Conversation) -> _Heard:
            async with places:
                heard = await _live_words(session, url, conversation.audio, plan.speed, asked)
            progress.advance(bar)
            return heard

        return list(await asyncio.gather(*map(stream, conversations)))


async def _live_words(session: aiohttp.ClientSession, url: str, audio: Path, speed: float, asked: str) -> _Heard:
    query = f"encoding=linear16&sample_rate={files.RATE}&endpointing=500&{asked}"
    words: list[SpokenWord] = []
    audio_s = 0.0
    async with session.ws_connect(f"{url}/v1/listen?{query}") as socket:

        async def speak() -> None:
            async for chunk in files.paced(files.chunks(audio), speed):
                await socket.send_bytes(chunk)
            await socket.send_json({"type": "CloseStream"})

        speaking = asyncio.create_task(speak())
        async for message in socket:
            told: dict[str, Any] = json.loads(message.data) if message.type is WSMsgType.TEXT else {}
            if told.get("type") == "Results" and told["is_final"]:
                words += _words(told["channel"])
            audio_s = told.get("duration", audio_s) if told.get("type") == "Metadata" else audio_s
        await speaking
        if socket.close_code != 1000:
            raise AccuracyError(f"{audio}: the server closed the stream with {socket.close_code}")
    return words, audio_s


def _words(channel: dict[str, Any]) -> list[SpokenWord]:
    words = channel["alternatives"][0]["words"]
    speakers = (word.get("speaker") for word in words)
    return [
        SpokenWord(word["word"], word["start"], word["end"], None if speaker is None else str(speaker))
        for word, speaker in zip(words, speakers, strict=True)
    ]
