"""Print the messages of a stream: words in a terminal, interim ones dim, or each message as a line of JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from myna.wire import messages as wire
from myna.wire.speaker_names import speaker_name

_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of speakers' names: those of Okabe and Ito, which colour-blind readers tell apart, without yellow and black, one of which
no terminal shows well. A seventh speaker has the first colour again."""


class Display(Protocol):
    """An output for the messages of a stream."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, message: wire.AnyServerMessage) -> None:
        """Show a message."""


class JsonLines:
    """Print each message as a line of JSON, for other programs."""

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *unused: object) -> None:
        pass

    def show(self, message: wire.AnyServerMessage) -> None:
        """Print a message."""
        sys.stdout.write(message.model_dump_json() + "\n")
        sys.stdout.flush()


@dataclass(slots=True)
class _Paragraph:
    """The final words of an utterance so far, or of its last speaker."""

    speaker: int | None = None
    texts: list[str] = field(default_factory=list)


class Terminal:
    """Print a paragraph for each utterance and speaker; redraw the current one until it is final.

    A paragraph begins with its speaker's name if the paragraph before it has another speaker.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._settled: dict[int, _Paragraph] = {}
        self._interim_words: dict[int, Text] = {}
        self._named: tuple[int, int] | None = None  # channel and speaker of the last paragraph that was printed

    def __enter__(self) -> Terminal:
        self._live.start()
        return self

    def __exit__(self, *unused: object) -> None:
        for channel in list(self._settled):
            self._print(channel)
        self._live.stop()

    def show(self, message: wire.AnyServerMessage) -> None:
        """Redraw the text that a message changes."""
        match message:
            case wire.PartialMessage(channel=channel, words=words, stable=stable):
                settled = _end(message.text, [word.punctuated_word for word in words[:stable]])
                text = Text(message.text[:settled], style="bright_black")
                self._interim_words[channel] = text.append(message.text[settled:], style="dim italic")
            case wire.FinalMessage(channel=channel):
                self._interim_words.pop(channel, None)
                for speaker, said in _speeches(message):
                    self._settle(channel, speaker, said)
            case wire.UtteranceEndMessage(channel=channel):
                self._print(channel)
            case wire.ErrorMessage():
                self._console.print(Text(message.message, style="red"))
            case _:
                return
        self._redraw()

    def _settle(self, channel: int, speaker: int | None, said: str) -> None:
        before = self._settled.get(channel)
        if before and speaker is not None and before.speaker not in (None, speaker):
            self._print(channel)
        paragraph = self._settled.setdefault(channel, _Paragraph())
        paragraph.texts.append(said)
        if paragraph.speaker is None:
            paragraph.speaker = speaker

    def _print(self, channel: int) -> None:
        if paragraph := self._settled.pop(channel, None):
            self._console.print(self._begun(channel, paragraph))
            if paragraph.speaker is not None:
                self._named = channel, paragraph.speaker

    def _begun(self, channel: int, paragraph: _Paragraph) -> Text:
        """Return a paragraph with its channel, if there are several, and its speaker, if it is another one."""
        line = Text(f"[{channel}] " if channel else "")
        speaker = paragraph.speaker
        if speaker is not None and self._named != (channel, speaker):
            line.append(f"{speaker_name(speaker)}: ", style=f"bold {_COLOURS[speaker % len(_COLOURS)]}")
        return line + Text(" ".join(paragraph.texts))

    def _redraw(self) -> None:
        lines = []
        for channel in sorted(self._settled.keys() | self._interim_words.keys()):
            line = self._begun(channel, self._settled.get(channel, _Paragraph()))
            line.append(" ").append_text(self._interim_words.get(channel, Text()))
            lines.append(line)
        self._live.update(Group(*lines), refresh=True)


def _speeches(message: wire.FinalMessage) -> Iterator[tuple[int | None, str]]:
    """Yield each speaker of a message and the part of its text; a word without a speaker has that of the word before."""
    if not message.text:
        return
    speakers: list[int | None] = []
    for word in message.words:
        speakers.append(word.speaker if word.speaker is not None or not speakers else speakers[-1])
    written, start, until = [word.punctuated_word for word in message.words], 0, 0
    for speaker, group in groupby(speakers):
        until += len(list(group))
        end = _end(message.text, written[:until]) if until < len(written) else len(message.text)
        yield speaker, message.text[start:end].strip()
        start = end
    if not speakers:
        yield None, message.text


def _end(text: str, words: Sequence[str]) -> int:
    """Return where the first words of a text end. The text has spaces between words only where their script has."""
    end = 0
    for word in words:
        end = max(end, text.find(word, end)) + len(word)
    return end
