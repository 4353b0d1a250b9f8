"""Unmodified official clients against a real server with the default engine, on real speech."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from peer import settings
from sounds import recording

from myna.server.app import Server, running
from myna.server.keys import Scope, add_key


@pytest.fixture(scope="session")
def beckett() -> np.ndarray:
    """Ten seconds of speech with pauses, int16 at 16 kHz."""
    return recording("beckett")


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.toml"


@pytest.fixture(scope="session")
def key(key_file: Path) -> str:
    return add_key(key_file, "tests", frozenset(Scope))


@pytest.fixture(scope="session")
async def server(key_file: Path, key: str) -> AsyncIterator[Server]:
    """A server with the default engine and a key."""
    async with running(settings(keys=key_file)) as started:
        yield started


@pytest.fixture(scope="session")
async def impatient_server(key_file: Path, key: str) -> AsyncIterator[Server]:
    """A server with a short idle time-out, for long pauses."""
    async with running(settings(keys=key_file, deepgram_idle_timeout_s=1.0)) as started:
        yield started


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
