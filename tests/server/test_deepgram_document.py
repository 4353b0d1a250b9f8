"""Checks docs/deepgram.md line by line against the code and a running server."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from aiohttp import ClientSession
from golden import FOLDER
from peer import listening

from myna.server.app import Server
from myna.server.dialects.deepgram import errors as deepgram_errors
from myna.server.dialects.deepgram import live as deepgram
from myna.server.dialects.deepgram.listen_request import parse
from myna.server.dialects.parameters import Parameters

DOCUMENT = (Path(__file__).parents[2] / "docs" / "deepgram.md").read_text()
EXAMPLES = re.findall(r"^\| (?:`(\w+)`)? ?\| `(\S+)` \| (taken|refused|ignored) \|", DOCUMENT, re.MULTILINE)
CONVERSATIONS = "".join(path.read_text() for path in FOLDER.glob("*.txt") if not path.stem.startswith("flux"))


def table(heading: str) -> list[list[str]]:
    """Return the rows of the first table after a text."""
    rows = DOCUMENT.split(heading, 1)[1].split("\n|", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize(("name", "example", "answer"), EXAMPLES)
async def test_each_example_is_answered_as_it_says(server: Server, name: str, example: str, answer: str) -> None:
    assert not name or f"{name}=" in example
    async with ClientSession() as session, session.get(f"{server.url}/v1/listen?{example}") as response:
        assert response.status == (400 if answer == "refused" else 426), await response.text()
    if answer != "refused":
        async with listening(server, example) as peer:
            await peer.send({"type": "CloseStream"})
            await peer.rest()
            assert peer.socket.close_code == 1000


def test_the_table_names_every_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    text, texts = Parameters.text, Parameters.texts
    monkeypatch.setattr(Parameters, "text", lambda self, name, **how: (read.add(name), text(self, name, **how))[1])
    monkeypatch.setattr(Parameters, "texts", lambda self, name, **how: (read.add(name), texts(self, name, **how))[1])
    for query in ("", "encoding=linear16&sample_rate=16000", "encoding=opus", "language=multi"):
        parse(parse_qsl(query))
    documented = {name: answer for name, _, answer in EXAMPLES if name}
    assert read <= set(documented)
    assert {name for name in documented if name not in read} == {"tag", "extra", "version", "mip_opt_out"}
    assert {documented[name] for name in ("tag", "extra", "version", "mip_opt_out", "no_delay")} == {"ignored"}


def test_every_message_is_documented_and_part_of_a_conversation() -> None:
    sent = {row[0].strip("`") for row in table("What a client receives, and nothing else:")}
    assert sent == set(re.findall(r'^< \{"type":"(\w+)"', CONVERSATIONS, re.MULTILINE))
    for row in table("What a client may send:")[1:]:
        kind = re.search(r'"type":"(\w+)"', row[0])
        assert kind
        assert f'"type":"{kind[1]}"' in CONVERSATIONS


def test_the_document_names_the_features_that_configure_switches() -> None:
    (row,) = [row for row in table("What a client may send:") if "features" in row[0]]
    assert set(re.findall(r"`(\w+)`", row[1])) == {*deepgram._FEATURES, "profanity_filter"}


def test_the_close_codes_are_those_of_the_code() -> None:
    rows = table("How the connection is closed:")
    documented = {found[1]: int(row[0]) for row in rows if (found := re.match(r"`(\w+)`:", row[1]))}
    assert documented == {error: code for error, (code, _) in deepgram._CLOSES.items()}


def test_the_statuses_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `([\w ]+)` \|", DOCUMENT, re.MULTILINE)
    documented = {int(status): code for status, code in rows}
    assert {status: documented[status] for status in deepgram_errors.CODES} == deepgram_errors.CODES
    assert set(documented) - set(deepgram_errors.CODES) == {426}


@pytest.mark.parametrize("line", re.findall(r"^    (curl .+)$", DOCUMENT, re.MULTILINE))
async def test_each_address_answers(server: Server, line: str) -> None:
    parts = shlex.split(line)
    method = "POST" if "-X" in parts else "GET"
    headers = dict([parts[parts.index("-H") + 1].split(": ")]) if "-H" in parts else {}
    data = parts[parts.index("-d") + 1] if "-d" in parts else None
    address = parts[-1].replace("http://127.0.0.1:8000", server.url)
    async with ClientSession() as session, session.request(method, address, headers=headers, data=data) as response:
        assert response.status == 200
        assert await response.json()
