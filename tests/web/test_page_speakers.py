"""The page shows who speaks, and lets readers rename them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from playwright.async_api import Browser, WebSocketRoute, expect
from sounds import contained, recording
from visitor import CHROMIUM, Visitor, visit

from myna.server.app import Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
OKABE_ITO = {
    "rgb(230, 159, 0)", "rgb(86, 180, 233)", "rgb(0, 158, 115)", "rgb(240, 228, 66)", "rgb(0, 114, 178)",
    "rgb(213, 94, 0)", "rgb(204, 121, 167)",
}  # fmt: skip
HOSTILE = '<b>Ann</b> & "Bob" --> x'


def final(said: Sequence[tuple[str, int | None]], start: float = 0.0, channel: int = 0) -> dict[str, Any]:
    words = [
        {"word": text, "punctuated_word": text, "start": start + i, "end": start + i + 0.5, "confidence": 0.9,
         "speaker": speaker}
        for i, (text, speaker) in enumerate(said)
    ]  # fmt: skip
    text = " ".join(text for text, _ in said)
    return {"type": "final", "channel": channel, "start": start, "end": start + len(said), "text": text, "words": words,
            "cause": "endpoint"}  # fmt: skip


async def told(browser: Browser, server: Server, messages: list[dict[str, Any]], **how: Any) -> tuple[Visitor, str]:
    """Visit the page and open a file that is answered with these messages; return the visitor and the stream's address."""
    visitor = await visit(browser, server, **how)
    addresses = []

    def answer(socket: WebSocketRoute) -> None:
        addresses.append(socket.url)

        def on_message(frame: str | bytes) -> None:
            if not isinstance(frame, str):
                return
            if json.loads(frame)["type"] == "start":
                socket.send(json.dumps({"type": "ready", "resume": None}))
            if json.loads(frame)["type"] == "close":
                for message in [*messages, {"type": "closed", "reason": "close", "seconds": 1.0}]:
                    socket.send(json.dumps(message))

        socket.on_message(on_message)

    await visitor.page.route_web_socket(re.compile("/v1/stream"), answer)
    await visitor.page.get_by_label("Speakers").check()
    await visitor.page.locator("#file").set_input_files({"name": "a.wav", "mimeType": "audio/wav", "buffer": b"sound"})
    await expect(visitor.page.get_by_role("status")).to_have_text("Done")
    return visitor, addresses[0]


async def blocks(visitor: Visitor) -> list[tuple[str, str]]:
    """Return the name and the words of each paragraph."""
    found = []
    for block in await visitor.page.locator(".utterance").all():
        name = " ".join(await block.locator("button.speaker").all_text_contents())
        found.append((name, (await block.locator("p").inner_text()).strip()))
    return found


async def renamed(visitor: Visitor, before: str, name: str, key: str = "Enter") -> None:
    await visitor.page.get_by_role("button", name=f"{before}, rename", exact=True).first.click()
    field = visitor.page.get_by_label(f"Name of {before}", exact=True)
    await expect(field).to_be_focused()
    await field.fill(name)
    await field.press(key)


TALK = [final([("How", 0), ("so?", 0), ("Well,", 1)]), final([("that", None), ("is", 1), ("it.", 0)], 4.0)]


async def test_two_speakers_of_a_recording_are_told_apart(browser: Browser, server: Server) -> None:
    visitor = await visit(browser, server)
    await visitor.page.get_by_label("Speakers").check()
    sound = contained([recording("endgame_nagg_nell")], "flac", "flac")
    await visitor.page.locator("#file").set_input_files({"name": "a.flac", "mimeType": "audio/flac", "buffer": sound})
    await expect(visitor.page.get_by_role("status")).to_have_text("Done")
    names = [name for name, _ in await blocks(visitor) if name]  # a word far from any voice has none
    assert set(names) == {"Speaker 1", "Speaker 2"}
    assert sum(before != after for before, after in pairwise(names)) >= 6
    speakers = json.loads(await visitor.download("JSON"))["speakers"]
    assert [one["name"] for one in speakers] == ["Speaker 1", "Speaker 2"]
    assert visitor.errors == []


async def test_each_speaker_begins_a_paragraph_with_a_name(browser: Browser, server: Server) -> None:
    visitor, address = await told(browser, server, TALK)
    assert "diarize=true" in address
    assert await blocks(visitor) == [
        ("Speaker 1", "How so?"), ("Speaker 2", "Well,"), ("Speaker 2", "that is"), ("Speaker 1", "it."),
    ]  # fmt: skip
    lines = await visitor.page.get_by_role("log").locator("p").all_text_contents()
    assert lines == ["Speaker 1: How so?", "Speaker 2: Well,", "that is", "Speaker 1: it."]
    assert visitor.errors == []


async def test_a_new_name_stands_on_the_page_in_every_download_and_in_the_selection(
    browser: Browser, server: Server
) -> None:
    visitor, _ = await told(browser, server, TALK)
    await renamed(visitor, "Speaker 1", HOSTILE)
    await renamed(visitor, "Speaker 2", "Zoë")
    await renamed(visitor, "Zoë", "nobody", key="Escape")
    assert [name for name, _ in await blocks(visitor)] == [HOSTILE, "Zoë", "Zoë", HOSTILE]
    assert await visitor.page.locator(".utterance b").count() == 0
    assert await visitor.download("Text") == f"{HOSTILE}: How so?\nZoë: Well,\nthat is\n{HOSTILE}: it."
    assert f"\n{HOSTILE}: How so?\n" in await visitor.download("SRT")
    vtt = await visitor.download("VTT")
    assert '\n<v &lt;b&gt;Ann&lt;/b&gt; &amp; "Bob" --&gt; x>How so?\n' in vtt
    assert vtt.count("-->") == vtt.count("<v ") == 4
    assert json.loads(await visitor.download("JSON"))["speakers"][0] == {"channel": 0, "speaker": 0, "name": HOSTILE}
    copied = await visitor.page.evaluate(
        "(getSelection().selectAllChildren(document.getElementById('transcript')), getSelection().toString())"
    )
    assert copied.count(HOSTILE) == 2
    await renamed(visitor, "Zoë", "  ")
    assert (await blocks(visitor))[1][0] == "Speaker 2"
    assert visitor.errors == []


async def test_a_speaker_is_renamed_with_the_keyboard(browser: Browser, server: Server) -> None:
    visitor, _ = await told(browser, server, TALK)
    keyboard = visitor.page.keyboard
    await visitor.page.get_by_label("Transcript", exact=True).focus()
    await keyboard.press("Tab")
    await keyboard.press("Enter")
    await keyboard.type("Ann")
    await keyboard.press("ArrowLeft")
    await keyboard.press("Enter")
    await expect(visitor.page.get_by_role("button", name="Ann, rename").first).to_be_focused()
    assert [name for name, _ in await blocks(visitor)] == ["Ann", "Speaker 2", "Speaker 2", "Ann"]
    assert visitor.errors == []


async def test_the_labels_at_the_end_replace_the_live_ones_and_names_stay_with_the_people(
    browser: Browser, server: Server
) -> None:
    visitor = await visit(browser, server)
    sockets: list[WebSocketRoute] = []

    def answer(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.on_message(
            lambda frame: socket.send('{"type": "ready", "resume": null}') if '"start"' in str(frame) else None
        )

    await visitor.page.route_web_socket(re.compile("/v1/stream"), answer)
    await visitor.page.get_by_label("Speakers").check()
    await visitor.page.locator("#file").set_input_files({"name": "a.wav", "mimeType": "audio/wav", "buffer": b"sound"})
    await expect(visitor.page.get_by_role("status")).to_contain_text("Transcribing")
    (socket,) = sockets
    for message in (final([("Me.", 0), ("You.", 1)]), final([("Me", 0), ("too.", 0), ("You?", 0)], 3.0)):
        socket.send(json.dumps(message))
    await renamed(visitor, "Speaker 1", "Ann")
    await visitor.page.get_by_role("button", name="Speaker 2, rename").click()
    await visitor.page.get_by_label("Name of Speaker 2").fill("Bob")
    socket.send(json.dumps({"type": "speakers", "channel": 0, "since": 0, "count": 2, "turns": [],
                            "words": [1, 0, 1, 1, 0]}))  # fmt: skip
    socket.send('{"type": "closed", "reason": "close", "seconds": 6}')
    await expect(visitor.page.get_by_role("status")).to_have_text("Done")
    assert await blocks(visitor) == [("Ann", "Me."), ("Bob", "You."), ("Ann", "Me too."), ("Bob", "You?")]
    assert visitor.errors == []


LUMINANCE = """([element, property]) => {
    const value = getComputedStyle(element)[property].match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255);
    const [r, g, b] = value.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_names_can_be_read_and_have_colours_that_colour_blind_readers_tell_apart(
    browser: Browser, server: Server, scheme: str
) -> None:
    talk = [final([(f"I{n}.", n) for n in range(8)])]
    visitor, _ = await told(browser, server, talk, color_scheme=scheme, viewport={"width": 360, "height": 740})
    colours = []
    for button in await visitor.page.locator("button.speaker").all():
        element = await button.element_handle()
        ink, paper = [await visitor.page.evaluate(LUMINANCE, [element, name]) for name in ("color", "backgroundColor")]
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5
        colours.append(await button.evaluate("(element) => getComputedStyle(element).borderLeftColor"))
        box = await button.bounding_box()
        assert box is not None
        assert box["height"] >= 24
    assert set(colours[:7]) == OKABE_ITO
    assert colours[7] == colours[0]
    assert await visitor.page.locator("button.speaker").all_text_contents() == [f"Speaker {n + 1}" for n in range(8)]
    assert await visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_speakers_of_two_channels_have_names_of_their_own(browser: Browser, server: Server) -> None:
    visitor, _ = await told(browser, server, [final([("One.", 0)]), final([("Two.", 0)], 1.0, channel=1)])
    await visitor.page.get_by_role("button", name="Speaker 1, rename").nth(1).click()
    await visitor.page.get_by_label("Name of Speaker 1").fill("Bob")
    await visitor.page.keyboard.press("Enter")
    assert await visitor.download("Text") == "Channel 1, Speaker 1: One.\nChannel 2, Bob: Two."
    assert visitor.errors == []


async def test_without_speakers_the_page_asks_for_none(browser: Browser, server: Server) -> None:
    visitor = await visit(browser, server)
    sound = contained([recording("beckett")], "flac", "flac")
    async with visitor.page.expect_websocket() as coming:
        await visitor.page.locator("#file").set_input_files(
            {"name": "a.flac", "mimeType": "audio/flac", "buffer": sound}
        )
    assert "diarize" not in (await coming.value).url
    await expect(visitor.page.get_by_role("status")).to_have_text("Done")
    assert await visitor.page.locator("button.speaker").count() == 0
    assert "Speaker" not in await visitor.download("VTT")
