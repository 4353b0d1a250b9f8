"""The programs in the documents of live clients, run with only the server's address and the key replaced."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from javascript import FOLDER, NODE
from sounds import contained

from myna.server.app import Server

ROOT = Path(__file__).parents[2]
PROGRAMS = [
    (language, program, f"{name}-{number}-{language}")
    for name in ("deepgram", "flux", "openai", "web")
    for number, (language, program) in enumerate(
        re.findall(r"```(python|javascript)\n(.+?)```", (ROOT / "docs" / f"{name}.md").read_text(), re.DOTALL)
    )
]


@pytest.mark.parametrize(("language", "program"), [p[:2] for p in PROGRAMS], ids=[p[2] for p in PROGRAMS])
async def test_each_program_runs(
    server: Server, key: str, beckett: np.ndarray, tmp_path: Path, language: str, program: str
) -> None:
    (tmp_path / "speech.wav").write_bytes(contained([beckett], "wav", "pcm_s16le"))
    port = server.url.rsplit(":", 1)[1]
    text = program.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace('"KEY"', json.dumps(key))
    if language == "python":
        path = tmp_path / "program.py"
        command = [sys.executable, str(path)]
    else:
        path = tmp_path / "program.mjs"
        (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
        (tmp_path / "myna.js").write_text((ROOT / "myna" / "clients" / "web" / "myna.js").read_text())
        command = [NODE, str(path)]
    path.write_text(text)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=pipe, stderr=pipe)
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    if "speech.wav" in program:
        assert "no matter" in out.decode().lower()
    elif "WebSocket" in program:
        assert json.loads(out.decode().splitlines()[-1])["type"] == "Metadata"
