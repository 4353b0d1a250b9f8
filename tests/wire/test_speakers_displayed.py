"""The Python client shows speakers in the terminal, and takes the labels that come at the end of a stream."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from myna.clients.display import Terminal
from myna.clients.speakers import SpeakersWanted, relabelled
from myna.wire import messages as wire


def words(text: str, speakers: list[int | None]) -> tuple[wire.WordEntry, ...]:
    return tuple(
        wire.WordEntry(word=word, punctuated_word=word, start=0.0, end=0.1, confidence=0.9, speaker=speaker)
        for word, speaker in zip(text.split(), speakers, strict=True)
    )


def final(text: str, speakers: list[int | None], channel: int = 0) -> wire.FinalMessage:
    return wire.FinalMessage(
        channel=channel, start=0.0, end=1.0, text=text, words=words(text, speakers), cause="endpoint"
    )


def ended(channel: int = 0) -> wire.UtteranceEndMessage:
    return wire.UtteranceEndMessage(channel=channel, last_word_end=1.0)


def shown(messages: list[wire.AnyServerMessage], **how: object) -> str:
    out = io.StringIO()
    with Terminal(Console(file=out, highlight=False, width=100, **how)) as terminal:  # type: ignore[arg-type]
        for message in messages:
            terminal.show(message)
    return out.getvalue()


CONVERSATION: list[wire.AnyServerMessage] = [
    final("How are you? Fine.", [0, 0, 0, 1]), ended(), final("And you?", [None, 1]), ended(), final("Well.", [0]), ended(),
]  # fmt: skip


def test_a_terminal_names_the_speaker_at_each_change_and_writes_plain_text_to_a_file() -> None:
    assert shown(CONVERSATION) == "Speaker 1: How are you?\nSpeaker 2: Fine.\nAnd you?\nSpeaker 1: Well.\n"


def test_a_terminal_has_another_colour_for_each_of_six_names() -> None:
    talk = [message for speaker in range(6) for message in (final("Yes.", [speaker]), ended())]
    coloured = shown(talk, force_terminal=True, color_system="truecolor")
    colours = {
        part.partition("m")[0] for part in coloured.split("\x1b[1;38;2;")[1:] if part.partition("m")[2].startswith("Sp")
    }
    assert len(colours) == 6
    assert "213;94;0" in colours  # vermilion


def test_the_last_interim_words_follow_the_name_and_the_final_words_before_them() -> None:
    partial = wire.PartialMessage(
        channel=0, start=1.0, end=2.0, text="and then", words=words("and then", [0, 0]), stable=0
    )
    out = shown([final("So it was.", [0, 0, 0]), partial], force_terminal=True, color_system=None)
    assert "Speaker 1: So it was. and then" in out


def test_without_speakers_the_terminal_shows_utterances_as_they_are() -> None:
    assert shown([final("One two.", [None, None]), final("Three.", [None]), ended()]) == "One two. Three.\n"
    assert shown([final("左", [None]), final("右", [None], channel=1), ended(), ended(1)]) == "左\n[1] 右\n"


def test_the_labels_at_the_end_replace_those_of_the_channels_last_words() -> None:
    told = [final("one two", [0, None]), final("three", [5], channel=1), final("four five", [0, 0])]
    revision = wire.SpeakersMessage(channel=0, since=0.0, count=2, turns=(), words=(1, 0, None))
    found = relabelled(told, revision)
    assert [word.speaker for one in found for word in one.words] == [0, 1, 5, 0, None]
    longer = wire.SpeakersMessage(channel=1, since=0.0, count=1, turns=(), words=(3, 2))
    assert [word.speaker for one in relabelled(told, longer) for word in one.words] == [0, None, 2, 0, 0]


@pytest.mark.parametrize(
    ("wanted", "parameters"),
    [(SpeakersWanted(), {}), (SpeakersWanted(2), {"num_speakers": "2"}),
     (SpeakersWanted(lowest=2, highest=4), {"min_speakers": "2", "max_speakers": "4"})],
)  # fmt: skip
def test_a_client_asks_for_speakers_by_parameters(wanted: SpeakersWanted, parameters: dict[str, str]) -> None:
    assert wanted.parameters() == {"diarize": "true", **parameters}
