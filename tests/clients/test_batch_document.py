"""The programs and commands of docs/batch.md, run with only the server's address and the key replaced."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sounds import contained

from myna.server.app import Server

DOCUMENT = (Path(__file__).parents[2] / "docs" / "batch.md").read_text()
PROGRAMS = re.findall(r"```python\n(.+?)```", DOCUMENT, re.DOTALL)
COMMANDS = re.findall(r"^    (curl .+)$", DOCUMENT, re.MULTILINE)


async def output(server: Server, key: str, folder: Path, beckett: np.ndarray, *command: str) -> str:
    (folder / "speech.wav").write_bytes(contained([beckett], "wav", "pcm_s16le"))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=pipe, stderr=pipe)
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return out.decode()


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
async def test_each_program_prints_the_transcript(
    server: Server, key: str, beckett: np.ndarray, tmp_path: Path, program: str
) -> None:
    text = program.replace("127.0.0.1:8000", server.url.removeprefix("http://")).replace('"KEY"', repr(key))
    (tmp_path / "program.py").write_text(text)
    said = await output(server, key, tmp_path, beckett, sys.executable, "program.py")
    assert "no matter" in said.lower()


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_command_is_answered(
    server: Server, key: str, beckett: np.ndarray, tmp_path: Path, command: str
) -> None:
    text = command.replace("127.0.0.1:8000", server.url.removeprefix("http://")).replace("KEY", key)
    said = await output(server, key, tmp_path, beckett, "sh", "-c", text.replace("curl ", "curl -sS "))
    assert "matter" in said.lower()
