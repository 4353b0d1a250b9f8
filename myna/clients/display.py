"""Print the messages of a stream: words in a terminal, interim ones dim, or each message as a line of JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from myna.wire import messages as wire


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


class Terminal:
    """Print a paragraph for each utterance; redraw the current one until it is final."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._settled: dict[int, list[str]] = {}
        self._interim_words: dict[int, Text] = {}

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
                if message.text:
                    self._settled.setdefault(channel, []).append(message.text)
            case wire.UtteranceEndMessage(channel=channel):
                self._print(channel)
            case wire.ErrorMessage():
                self._console.print(Text(message.message, style="red"))
            case _:
                return
        self._redraw()

    def _print(self, channel: int) -> None:
        if words := self._settled.pop(channel, None):
            self._console.print(Text(f"[{channel}] " if channel else "") + Text(" ".join(words)))

    def _redraw(self) -> None:
        lines = []
        for channel in sorted(self._settled.keys() | self._interim_words.keys()):
            line = Text(" ".join(self._settled.get(channel, [])))
            line.append(" ").append_text(self._interim_words.get(channel, Text()))
            lines.append(line)
        self._live.update(Group(*lines), refresh=True)


def _end(text: str, words: Sequence[str]) -> int:
    """Return where the first words of a text end. The text has spaces between words only where their script has."""
    end = 0
    for word in words:
        end = max(end, text.find(word, end)) + len(word)
    return end
