"""The page at / in Chromium, with a recording as its microphone and the default engine."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from line import Line
from peer import settings
from playwright.async_api import Browser, expect
from sounds import BECKETT, RATE, contained, recording
from visitor import CHROMIUM, visit

from myna.server.app import Server, running
from myna.server.keys import Scope, add_key

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
SHOTS = os.environ.get("MYNA_SCREENSHOTS")
"""A folder for screenshots of the page."""


async def test_spoken_words_appear_as_interim_become_final_and_can_be_downloaded(
    browser: Browser, server: Server
) -> None:
    visitor = await visit(browser, server)
    page = visitor.page
    await expect(page.get_by_label("Model")).to_have_value("moonshine-tiny-en")
    await page.get_by_role("button", name="Start microphone").click()
    await expect(page.get_by_role("status")).to_have_text("Listening")
    await page.locator(".word.interim, .word.stable").first.wait_for()
    await page.locator(".voice.active").wait_for()
    await page.locator(".word.final").first.wait_for()
    await visitor.says(BECKETT)
    assert float(await page.get_by_label("Level").get_attribute("value") or 0) >= 0
    await expect(page.locator("#final-latency")).to_contain_text("ms")
    await expect(page.locator("#partial-latency")).to_contain_text("ms")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_role("status")).to_have_text("Done")
    assert not await page.locator(".word.interim").count()
    word = page.locator(".word.final").first
    assert re.fullmatch(r"Ever: \d\.\d\d to \d\.\d\d s, confidence \d+ %", await word.get_attribute("title") or "")
    await word.hover()
    await expect(page.locator("#detail")).to_contain_text("confidence")
    assert "ever tried" in (await visitor.download("Text")).lower()
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n\w+", await visitor.download("SRT"))
    assert (await visitor.download("VTT")).startswith("WEBVTT\n\n00:00:0")
    segments = json.loads(await visitor.download("JSON"))["segments"]
    assert sum(len(segment["words"]) for segment in segments) == len(BECKETT.split())
    assert visitor.errors == []


async def test_the_transcript_of_a_chosen_file_shows_its_channels(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    beckett = recording("beckett")
    other = np.roll(beckett, 2 * RATE)
    path = tmp_path / "two.flac"
    path.write_bytes(contained([beckett, other], "flac", "flac"))
    visitor = await visit(browser, server)
    await visitor.page.locator("#file").set_input_files(path)
    await expect(visitor.page.get_by_role("status")).to_have_text("Done")
    assert set(await visitor.page.locator(".channel").all_text_contents()) == {"Channel 1", "Channel 2"}
    assert (await visitor.text()).count("better") == 2
    assert "<v Channel 2>" in await visitor.download("VTT")
    assert visitor.errors == []


async def test_a_dropped_file_is_transcribed_and_one_without_audio_shows_an_error(
    browser: Browser, server: Server
) -> None:
    visitor = await visit(browser, server)
    drop = """([bytes, name]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(bytes)], name));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    sound = contained([recording("beckett")[: 2 * RATE]], "wav", "pcm_s16le")
    await visitor.page.evaluate(drop, [list(sound), "short.wav"])
    await expect(visitor.page.get_by_role("status")).to_have_text("Done")
    assert (await visitor.text()).startswith("ever tried")
    await visitor.page.evaluate(drop, [list(b"this is no sound" * 200), "letter.txt"])
    await expect(visitor.page.get_by_role("alert")).to_be_visible()
    assert visitor.errors == []


async def test_a_wrong_key_shows_an_error_and_the_right_key_starts_a_stream(browser: Browser, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.toml", "page", frozenset(Scope))
    async with running(settings(keys=tmp_path / "keys.toml", model="fake")) as server:
        visitor = await visit(browser, server)
        alert = visitor.page.get_by_role("alert")
        await expect(alert).to_contain_text("requires an API key")
        await visitor.page.get_by_label("API key").fill("wrong")
        await visitor.page.get_by_role("button", name="Start microphone").click()
        await expect(visitor.page.get_by_role("status")).to_have_text("Not listening")
        await expect(alert).to_contain_text("does not know this API key")
        await visitor.page.get_by_label("API key").fill(key)
        await visitor.page.get_by_label("API key").blur()
        await expect(alert).to_be_hidden()
        await visitor.page.get_by_role("button", name="Start microphone").click()
        await expect(visitor.page.get_by_role("status")).to_have_text("Listening")
        await visitor.page.get_by_role("button", name="Stop").click()
        await expect(visitor.page.get_by_role("button", name="Start microphone")).to_be_enabled()
        assert visitor.errors == []


async def test_the_page_continues_its_transcript_after_the_server_restarts(browser: Browser) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with running(settings()) as first:
            port, line = int(first.url.rsplit(":", 1)[1]), Line(first)
            await stack.enter_async_context(line)
            visitor = await visit(browser, line)
            await visitor.page.get_by_role("button", name="Start microphone").click()
            await visitor.page.locator(".word.final").first.wait_for()
            before = await visitor.text()
            line.open = False
            line.cut()
        await expect(visitor.page.get_by_role("status")).to_contain_text("reconnecting")
        await stack.enter_async_context(running(settings(port=port)))
        line.open = True
        await expect(visitor.page.get_by_role("status")).to_contain_text("restarted")
        await visitor.says(BECKETT)
        assert BECKETT.startswith(before)
        starts = [
            float((await word.get_attribute("title") or "").split(": ")[1].split(" to ")[0])
            for word in await visitor.page.locator(".word.final").all()
        ]
        assert starts == sorted(starts)
        assert starts[-1] > 9
        await visitor.page.get_by_role("button", name="Stop").click()
        await expect(visitor.page.get_by_role("status")).to_have_text("Done")
    assert visitor.errors == []


async def test_every_control_is_reachable_with_the_keyboard(browser: Browser, server: Server) -> None:
    visitor = await visit(browser, server)
    page = visitor.page
    reached = []
    for _ in range(9):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate("document.activeElement.id"))
    assert reached[:8] == ["microphone", "file", "clear", "model", "language", "speakers", "key", "paper"]
    sound = page.locator("#file")
    await sound.set_input_files(
        {"name": "short.wav", "mimeType": "audio/wav", "buffer": contained([recording("beckett")], "wav", "pcm_s16le")}
    )
    await expect(page.get_by_role("status")).to_have_text("Done")
    assert "better" in await page.get_by_role("log").inner_text()
    await page.locator(".word.final").first.focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#detail")).to_contain_text("confidence")
    assert visitor.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width", "height"), [("wide", 1280, 800), ("narrow", 360, 740)])
async def test_the_page_fits_its_screen(
    browser: Browser, server: Server, scheme: str, name: str, width: int, height: int
) -> None:
    visitor = await visit(
        browser, server, viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=1
    )
    page = visitor.page
    await page.get_by_role("button", name="Start microphone").click()
    await page.locator(".word.final").first.wait_for()
    await page.locator(".word.interim").first.wait_for()
    if SHOTS:
        await page.screenshot(path=f"{SHOTS}/{name}-{scheme}.png")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = await page.evaluate(
        "[...document.querySelectorAll('button, select, .button')].filter(e => e.getBoundingClientRect().height < 36).length"
    )
    assert small == 0
    assert visitor.errors == []


async def test_the_server_serves_the_files_of_the_page_only(server: Server, browser: Browser) -> None:
    context = await browser.new_context()
    for path, status in {
        "/": 200,
        "/web/myna.js": 200,
        "/web/style.css": 200,
        "/web/..%2f..%2fapp.py": 404,
        "/web/x": 404,
    }.items():
        response = await context.request.get(server.url + path)
        assert response.status == status, path
    assert "default-src 'self'" in (await context.request.get(server.url)).headers["content-security-policy"]
