"""A visitor of the page at /, in Chromium."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

from line import Line
from playwright.async_api import Browser, Page, expect

from myna.server.app import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


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
