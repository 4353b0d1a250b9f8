"""The page at / in Chromium, with a recording as its microphone and the default engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line import Line
from peer import settings
from playwright.async_api import Browser, Page, async_playwright, expect
from sounds import BECKETT, RATE, contained, recording

from myna.server.app import Server, running
from myna.server.keys import Scope, add_key

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
PATIENCE_MS = 30_000
SHOTS = os.environ.get("MYNA_SCREENSHOTS")
"""A folder for screenshots of the page."""
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of speech, then silence, at a microphone's usual rate."""
    path = tmp_path_factory.mktemp("speech") / "beckett.wav"
    audio = np.concatenate([np.zeros(RATE, np.int16), recording("beckett"), np.zeros(20 * RATE, np.int16)])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(audio.tobytes())
    return path


@pytest.fixture(scope="module")
async def browser(spoken: Path) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={spoken}%noloop",
            ],
        )
        yield started
        await started.close()


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running(settings()) as started:
        yield started


class Visitor:
    """A page and its errors."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(PATIENCE_MS)

    async def text(self) -> str:
        said = await self.page.locator(".word.final").all_text_contents()
        return " ".join(re.sub(r"\W", "", word.lower()) for word in said)

    async def says(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE_MS / 1000):
            while await self.text() != text:
                await self.page.wait_for_timeout(50)

    async def download(self, name: str) -> str:
        async with self.page.expect_download() as coming:
            await self.page.get_by_role("button", name=name, exact=True).click()
        return Path(await (await coming.value).path()).read_text()


async def visit(browser: Browser, server: Server | Line, **how: Any) -> Visitor:
    context = await browser.new_context(permissions=["microphone"], accept_downloads=True, **how)
    visitor = Visitor(await context.new_page())
    await visitor.page.goto(server.url)
    return visitor


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
    for _ in range(8):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate("document.activeElement.id"))
    assert reached[:7] == ["microphone", "file", "clear", "model", "language", "key", "paper"]
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
