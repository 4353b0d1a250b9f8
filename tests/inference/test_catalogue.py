"""Engine kinds recognise their own models; other packages add kinds; `auto` chooses a model by language."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from unittest import mock

import pytest
from aiohttp import ClientSession
from sounds import contained, recording

from myna.clients.local_server import local_server
from myna.inference.engines import registry
from myna.inference.engines.catalogue import Catalogue, UnknownModelError
from myna.inference.engines.file_names import Serves
from myna.inference.engines.kind import EngineKind, Model, Offer, nearest
from myna.streaming.errors import EngineUnavailableError

ENGINES = Path(registry.__file__).parent


def described(path: Path) -> Model:
    if path.read_text() == "broken":
        raise EngineUnavailableError(f"{path.name} is broken")
    return Model(path.stem, "bird", str(path), languages=tuple(path.read_text().split()))


BIRD = EngineKind(
    "bird", "bird:Bird", suffixes=(".bird",), claims=lambda path: path.suffix == ".bird", describe=described,
    hub=lambda name: Model("", "bird", name) if name.startswith("birds/") else None,
)  # fmt: skip


@pytest.fixture
def bird() -> Iterator[None]:
    with mock.patch.dict(registry.kinds(), {"bird": BIRD}):
        yield


def catalogue(folder: Path, default: str = "wren", **more: object) -> Catalogue:
    return Catalogue(folder, default, {}, {}, **more)  # type: ignore[arg-type]


def test_every_folder_of_the_engines_with_a_kind_is_an_engine() -> None:
    folders = {path.parent.name for path in ENGINES.glob("*/kind.py")}
    assert folders <= set(registry.kinds())
    assert all((ENGINES / name / "engine.py").is_file() for name in folders)


def test_no_module_outside_an_engines_folder_names_an_engine_kind() -> None:
    names = [name for name in registry.kinds() if name != "fake"]
    modules = [ENGINES / "catalogue.py", ENGINES / "registry.py", ENGINES / "kind.py", ENGINES.parent / "models.py"]
    modules += (ENGINES.parents[1] / "cli").glob("*.py")
    for module in modules:
        strings = re.findall(r"[\"']([\w.:-]+)[\"']", module.read_text())
        assert not set(strings) & set(names), module


@pytest.mark.usefixtures("bird")
def test_a_file_in_the_folder_is_a_model_of_the_kind_that_claims_it(tmp_path: Path) -> None:
    (tmp_path / "wren.bird").write_text("en")
    (tmp_path / "notes.txt").write_text("no model")
    found = catalogue(tmp_path)
    assert found.find("wren") == Model("wren", "bird", str(tmp_path / "wren.bird"), languages=("en",))
    usable, broken = found.models()
    assert "notes" not in usable | broken


@pytest.mark.usefixtures("bird")
def test_a_model_is_described_again_only_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "wren.bird"
    file.write_text("en")
    calls = []
    counting = replace(BIRD, describe=lambda path: calls.append(path) or described(path))
    with mock.patch.dict(registry.kinds(), {"bird": counting}):
        found = catalogue(tmp_path)
        found.find("wren")
        found.find("wren")
        assert len(calls) == 1
        file.write_text("en fr")
        assert found.find("wren").languages == ("en", "fr")


@pytest.mark.usefixtures("bird")
def test_what_is_wrong_with_a_model_is_listed_and_told_at_a_request(tmp_path: Path) -> None:
    (tmp_path / "wren.bird").write_text("broken")
    found = catalogue(tmp_path)
    assert found.models()[1] == {"wren": "wren.bird is broken"}
    with pytest.raises(UnknownModelError, match=r"model 'wren' cannot be used: wren\.bird is broken"):
        found.find("wren")


@pytest.mark.usefixtures("bird")
def test_a_folder_that_two_kinds_claim_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wren.bird").write_text("en")
    other = replace(BIRD, name="owl")
    with mock.patch.dict(registry.kinds(), {"owl": other}):
        assert "bird and owl" in catalogue(tmp_path).models()[1]["wren"]


@pytest.mark.usefixtures("bird")
def test_a_kind_whose_packages_are_missing_says_how_to_install_them(tmp_path: Path) -> None:
    (tmp_path / "wren.bird").write_text("en")
    lacking = replace(BIRD, needs=("no_such_package",), install="pip install no-such-package")
    with mock.patch.dict(registry.kinds(), {"bird": lacking}):
        reason = catalogue(tmp_path).models()[1]["wren"]
        assert reason == "The engine 'bird' needs no_such_package, which is not installed: pip install no-such-package"


@pytest.mark.usefixtures("bird")
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("./no/such.bird", "does not exist"),
        ("/tmp", "no model of the engines"),
    ],
)
def test_a_default_that_is_no_model_is_refused_with_the_reason(tmp_path: Path, target: str, reason: str) -> None:
    with pytest.raises(UnknownModelError, match=reason):
        catalogue(tmp_path, target).find()


@pytest.mark.usefixtures("bird")
@pytest.mark.parametrize("target", ["kept/wren.bird", "./kept/wren.bird", "plain"])
def test_the_default_may_be_a_path_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "wren.bird").write_text("en")
    (tmp_path / "plain").write_text("en")
    claiming = replace(BIRD, claims=lambda path: path.name in ("wren.bird", "plain"))
    with mock.patch.dict(registry.kinds(), {"bird": claiming}):
        assert catalogue(tmp_path / "models", target).find().source == str(Path(target))


@pytest.mark.usefixtures("bird")
def test_a_model_that_can_be_fetched_is_refused_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    nest = Offer("nest", ("en",), 1, "MIT", (), {}, {})
    refused = pytest.raises(UnknownModelError, match="model 'nest' is not here; to fetch it: myna models add nest")
    with mock.patch.dict(registry.kinds(), {"bird": replace(BIRD, offers=(nest,))}), refused:
        catalogue(tmp_path, "nest").find()


@pytest.mark.usefixtures("bird")
def test_a_hub_name_is_a_model_of_the_kind_that_loads_it(tmp_path: Path) -> None:
    assert catalogue(tmp_path, "birds/robin").find() == Model("robin", "bird", "birds/robin")


@pytest.mark.usefixtures("bird")
@pytest.mark.parametrize(
    ("language", "name"),
    [("de", "wren"), ("fr", "robin"), ("multi", "robin"), ("en", "moonshine-tiny-en"), (None, "moonshine-tiny-en")],
)
def test_auto_is_the_configured_model_of_a_language_or_the_first_that_supports_it(
    tmp_path: Path, language: str | None, name: str
) -> None:
    (tmp_path / "robin.bird").write_text("de fr")
    (tmp_path / "wren.bird").write_text("de")
    found = catalogue(tmp_path, "auto", by_language={"de": "wren"})
    assert found.find(language=language).name == name
    assert found.find("auto", language=language).name == name
    assert found.find("whisper-1", or_default=True, language=language).name == name


@pytest.mark.usefixtures("bird")
def test_auto_refuses_a_language_that_no_model_supports_and_lists_those_supported(tmp_path: Path) -> None:
    (tmp_path / "wren.bird").write_text("de")
    with pytest.raises(UnknownModelError, match="no model supports the language 'fi'; the models support: de, en"):
        catalogue(tmp_path, "auto").find(language="fi")
    with pytest.raises(UnknownModelError, match="no model supports speech whose language changes"):
        catalogue(tmp_path, "auto").find(language="multi")
    with pytest.raises(UnknownModelError, match="chosen for the language fi, cannot be used: there is no such model"):
        catalogue(tmp_path, "auto", by_language={"fi": "kotka"}).find(language="fi")


async def test_the_documented_example_is_an_engine_that_a_package_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 60
    (tmp_path / "myna_scat.py").write_text(example)
    package = tmp_path / "myna_scat-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: myna-scat\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[myna.engines]\nscat = myna_scat:KIND\n")
    (tmp_path / "bird.scat").write_text('["do", "wah", "tee"]')
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MYNA_DATA", str(tmp_path / "data"))
    with local_server(str(tmp_path / "bird.scat")) as server:
        body = {"file": BytesIO(contained([recording("beckett")], "wav", "pcm_s16le"))}
        async with (
            ClientSession() as session,
            session.post(f"{server.url}/v1/audio/transcriptions", data=body) as answer,
        ):
            assert answer.status == 200
            sung = (await answer.json())["text"].split()
    assert len(sung) > 10
    assert {"do", "wah"} <= set(sung) <= {"do", "wah", "tee"}


@pytest.mark.parametrize(
    ("wanted", "expected"), [(None, 1040), (0, 0), (40, 0), (41, 80), (500, 480), (760, 480), (10_000, 1040)]
)
def test_the_nearest_trained_look_ahead_is_used_and_of_two_the_shorter(wanted: int | None, expected: int) -> None:
    trained = [1040, 480, 80, 0]
    assert trained[nearest(trained, wanted)] == expected


@pytest.fixture
def several(bird: None, tmp_path: Path) -> Catalogue:
    """Return a catalogue with five files of one name, and one whose alias is gone."""
    for number, stem in enumerate(
        ["nova-2-general.en.batch.a1b2c3", "nova-2-general.en.streaming.a1b2c4", "nova-2-general.de.all.a1b2c5",
         "2-general-nova.en.batch.a1b2c6", "wren"]
    ):  # fmt: skip
        file = tmp_path / f"{stem}.bird"
        file.write_text("xx")
        os.utime(file, (1_000_000 + number, 1_000_000 + number))
    return Catalogue(tmp_path, "wren", {"old": "gone"}, {})


@pytest.mark.parametrize("asked", ["nova-2-general", "2-general-nova"])
@pytest.mark.parametrize(
    ("language", "serves", "found"),
    [
        ("en", "streaming", "nova-2-general.en.streaming.a1b2c4"),
        ("en", "batch", "2-general-nova.en.batch.a1b2c6"),
        ("de", "batch", "nova-2-general.de.all.a1b2c5"),
        (None, "streaming", "nova-2-general.de.all.a1b2c5"),
        ("fr", "batch", "2-general-nova.en.batch.a1b2c6"),
    ],
)
def test_language_and_mode_choose_among_the_files_of_one_name(
    several: Catalogue, asked: str, language: str | None, serves: Serves, found: str
) -> None:
    assert several.find(asked, language=language, serves=serves).name == found


def test_a_file_is_found_by_its_whole_name_and_by_its_uuid(several: Catalogue) -> None:
    name = "nova-2-general.en.batch.a1b2c3"
    assert several.find(name).name == name
    assert several.find(several.find(name).uuid or name).name == name


def test_an_alias_whose_model_is_gone_is_never_the_default(several: Catalogue) -> None:
    with pytest.raises(UnknownModelError, match="'gone', which 'old' stands for, is not here"):
        several.find("old", or_default=True)
    assert several.find("nova-9", or_default=True).name == "wren"


def test_a_broken_file_is_named_whichever_of_its_names_is_asked_for(bird: None, tmp_path: Path) -> None:
    (tmp_path / "nova-2-general.en.batch.a1b2c3.bird").write_text("broken")
    (tmp_path / "wren.bird").write_text("en")
    with pytest.raises(UnknownModelError, match="is broken") as caught:
        catalogue(tmp_path).find("2-general-nova", or_default=True)
    assert caught.value.broken == "nova-2-general.en.batch.a1b2c3"
