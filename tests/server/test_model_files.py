"""Model files that come, change and go while the server runs."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import structlog
from aiohttp import ClientSession
from peer import RAW, connected, eventually, settings
from sounds import contained, recording

from myna.inference import folder_watch
from myna.inference import models as loading
from myna.inference.engines import registry
from myna.inference.engines.kind import Model
from myna.server.app import Server, running
from myna.streaming.errors import EngineUnavailableError

NAME = "nova-2-general.en.formatted.streaming.a12b345"


def described(path: Path) -> Model:
    if path.read_text() == "broken":
        raise EngineUnavailableError(f"{path.name} is broken")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Model(path.stem, "fake", str(path), languages=("en",), uuid=digest[:8])


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the engine for tests have files, and look at them often."""
    monkeypatch.setattr(folder_watch, "EVERY_S", 0.02)
    monkeypatch.setattr(loading, "FAILED_FOR_S", 0.1)
    kind = replace(
        registry.kinds()["fake"], suffixes=(".fake",), claims=lambda path: path.suffix == ".fake", describe=described
    )
    with mock.patch.dict(registry.kinds(), {"fake": kind}):
        yield


def put(folder: Path, name: str, text: str) -> str:
    """Put a file there at once, as `mv` does; return its uuid."""
    (folder / "new").write_text(text)
    (folder / "new").rename(folder / f"{name}.fake")
    return hashlib.sha256(text.encode()).hexdigest()[:8]


async def ask(server: Server, model: str) -> tuple[int, Any]:
    sound = contained([recording("beckett")[:8000]], "flac", "flac")
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/listen?model={model}", data=sound) as response,
    ):
        return response.status, await response.json()


def uuid_of(body: Any) -> str:
    (uuid,) = body["metadata"]["models"]
    return str(uuid)


Lines = list[dict[str, Any]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Yield the log, line by line."""
    with structlog.testing.capture_logs() as captured:
        yield captured


def told(lines: Lines, event: str) -> Callable[[], bool]:
    return lambda: any(line["event"] == event for line in lines)


async def test_a_file_that_arrives_is_logged_and_serves_by_the_name_in_its_name(tmp_path: Path, lines: Lines) -> None:
    async with running(settings(model="fake", models=tmp_path)) as server:
        assert (await ask(server, "general-9"))[0] == 400
        uuid = put(tmp_path, NAME, "one")
        await eventually(told(lines, "model arrived"))
        (line,) = [line for line in lines if line["event"] == "model arrived"]
        assert (line["called"], line["languages"], line["serves"], line["formatted"], line["uuid"]) == (
            "nova-2-general", "en", "streaming", True, uuid,
        )  # fmt: skip
        for name in ("nova-2-general", "2-general-nova", NAME, uuid):
            status, body = await ask(server, name)
            assert (status, uuid_of(body)) == (200, uuid), name
        async with ClientSession() as session, session.get(f"{server.url}/v1/models") as response:
            (listed,) = [each for each in (await response.json())["stt"] if each["uuid"] == uuid]
        assert (listed["name"], listed["batch"], listed["streaming"]) == ("nova-2-general", False, True)


async def test_a_replaced_file_serves_until_the_new_one_is_loaded_without_a_gap(tmp_path: Path, lines: Lines) -> None:
    first = put(tmp_path, NAME, "one")
    async with running(settings(model="fake", models=tmp_path, workers=1)) as server:
        assert (await ask(server, NAME))[0] == 200
        (old,) = server.models.pools_by_name[NAME].pids
        async with connected(server, "?model=nova-2-general") as peer:
            await peer.send(RAW)
            await peer.until("ready")
            second = put(tmp_path, NAME, "two")
            answers = [first]
            while answers[-1] == first:
                status, body = await ask(server, "nova-2-general")
                assert status == 200
                answers.append(uuid_of(body))
            assert answers == sorted(answers, key=[first, second].index)
            assert psutil.pid_exists(old)  # the stream goes on with the model that it began with
            await peer.send({"type": "close"})
            await peer.rest()
        await eventually(lambda: not psutil.pid_exists(old))
        assert told(lines, "model changed")()
        assert not [line for line in lines if line["log_level"] == "error"]


@pytest.mark.parametrize("how", ["broken", "does not load"])
async def test_a_file_that_cannot_be_used_leaves_its_older_version_in_use(
    tmp_path: Path, lines: Lines, how: str
) -> None:
    first = put(tmp_path, NAME, "one")
    load = loading.Models._load

    async def failing(models: loading.Models, model: Model) -> loading.LoadedModel:
        if how != "broken" and model.uuid != first:
            raise EngineUnavailableError("it does not load")
        return await load(models, model)

    async with running(settings(model="fake", models=tmp_path)) as server:
        assert (await ask(server, NAME))[0] == 200
        with mock.patch.object(loading.Models, "_load", failing):
            put(tmp_path, NAME, how)
            event = "model cannot be used" if how == "broken" else "model cannot be loaded; its older file stays in use"
            await eventually(told(lines, event))
            status, body = await ask(server, "nova-2-general")
            assert (status, uuid_of(body)) == (200, first)
        third = put(tmp_path, NAME, "three")
        await eventually(lambda: NAME in server.models.pools_by_name and bool(server.models.in_memory(NAME)))

        async def serves() -> str:
            return uuid_of((await ask(server, NAME))[1])

        while await serves() != third:
            await asyncio.sleep(0)


async def test_a_removed_files_workers_end_and_its_names_are_refused(tmp_path: Path, lines: Lines) -> None:
    put(tmp_path, NAME, "one")
    async with running(settings(model="fake", models=tmp_path, aliases={"nova-3": NAME})) as server:
        assert (await ask(server, "nova-3"))[0] == 200
        pids = server.models.pools_by_name[NAME].pids
        (tmp_path / f"{NAME}.fake").unlink()
        await eventually(told(lines, "model removed"))
        await eventually(lambda: not any(map(psutil.pid_exists, pids)))
        status, body = await ask(server, "nova-3")
        assert (status, "is not here" in body["err_msg"]) == (400, True)


async def test_a_broken_file_is_logged_once(tmp_path: Path, lines: Lines) -> None:
    async with running(settings(model="fake", models=tmp_path)) as server:
        put(tmp_path, NAME, "broken")
        await eventually(told(lines, "model cannot be used"))
        looks = mock.Mock(side_effect=server.models.catalogue.models)
        with mock.patch.object(server.models.catalogue, "models", looks):
            await eventually(lambda: looks.call_count > 3)
        assert len([line for line in lines if line["event"] == "model cannot be used"]) == 1


async def test_the_model_that_a_refusal_suggests_serves_the_request(tmp_path: Path) -> None:
    put(tmp_path, "nova-2-general.fr.a1b2c3", "one")
    async with running(settings(model="moonshine-tiny-en", models=tmp_path)) as server:
        for asked in ("nova-3&language=fr", "nothing-like-it&language=fr"):
            status, body = await ask(server, asked)
            found = re.search(r'You could try the "(.+)" model \(language: (.+), (.+) tier\)\.', body["err_msg"])
            assert (status, found and found.groups()) == (400, ("nova-2-general", "fr", "nova"))
            assert "No such model/language/tier combination found." in body["err_msg"]
        assert (await ask(server, "nova-2-general&language=fr"))[0] == 200
        assert "could try" not in (await ask(server, "nova-3&language=fi"))[1]["err_msg"]
