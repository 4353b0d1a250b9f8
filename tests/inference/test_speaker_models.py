"""Which model tells speakers apart: the configured one, the fetched one, or the embedded one; what is wrong with a folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
from peer import settings
from typer.testing import CliRunner

from myna.cli import app as cli
from myna.inference.engines import registry
from myna.inference.engines.catalogue import Catalogue, UnknownModelError
from myna.inference.engines.diarizer import embedded, offer
from myna.inference.engines.diarizer.embedded import EmbeddedParts
from myna.inference.engines.diarizer.offer import CAMPPLUS, SEGMENTATION
from myna.inference.engines.survey import advice, survey
from myna.runtime.errors import ConfigurationError
from myna.server.app import running
from myna.streaming.errors import EngineUnavailableError

FILES = {name: name.encode() for name in offer.OFFER.sha256}


def catalogue(folder: Path, diarizer: str = "") -> Catalogue:
    return Catalogue(folder, "moonshine", {}, {}, diarizer=diarizer)


def laid(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def small_sums() -> Iterator[None]:
    """Let the files of `laid` have the right sums."""
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    with mock.patch.object(offer, "OFFER", replace(offer.OFFER, sha256=sums)):
        yield


def test_without_a_fetched_model_the_embedded_one_tells_speakers_apart(tmp_path: Path) -> None:
    assert catalogue(tmp_path).diarizer().name == "speakers"


@pytest.mark.usefixtures("small_sums")
def test_a_fetched_model_goes_before_the_embedded_one(tmp_path: Path) -> None:
    folder = laid(tmp_path / "diarization")
    found = catalogue(tmp_path).diarizer()
    assert (found.name, found.source) == ("diarization", str(folder))
    assert found.uuid != catalogue(tmp_path, "speakers").diarizer().uuid


@pytest.mark.usefixtures("small_sums")
@pytest.mark.parametrize("target", ["speakers", "diarizer"])
def test_the_configuration_can_choose_the_embedded_one_although_another_is_there(tmp_path: Path, target: str) -> None:
    laid(tmp_path / "diarization")
    assert catalogue(tmp_path, target).diarizer().name == "speakers"


@pytest.mark.usefixtures("small_sums")
def test_the_configuration_names_a_model_of_the_folder_or_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = laid(tmp_path / "kept" / "voices")
    monkeypatch.chdir(tmp_path)
    for target, models in [("voices", tmp_path / "kept"), (str(folder), tmp_path), ("kept/voices", tmp_path / "none")]:
        found = catalogue(models, target).diarizer()
        assert (found.name, Path(found.source).resolve()) == ("voices", folder)


@pytest.mark.usefixtures("small_sums")
@pytest.mark.parametrize("name", ["diarization", "speakers", "diarizer", "voices"])
def test_no_client_can_request_a_model_that_tells_speakers_apart(tmp_path: Path, name: str) -> None:
    laid(tmp_path / "diarization")
    laid(tmp_path / "voices")
    found = catalogue(tmp_path, "voices")
    with pytest.raises(UnknownModelError, match=f"^unknown model '{name}'"):
        found.find(name)
    assert not {"diarization", "speakers", "voices"} & found.models()[0].keys()


@pytest.mark.usefixtures("small_sums")
def test_a_model_that_tells_speakers_apart_is_no_default_model(tmp_path: Path) -> None:
    folder = laid(tmp_path / "diarization")
    with pytest.raises(UnknownModelError, match="tells speakers apart and writes no words"):
        Catalogue(tmp_path / "models", str(folder), {}, {}).find()


@pytest.mark.parametrize("name", [SEGMENTATION, CAMPPLUS, "THIRD_PARTY_LICENSES"])
def test_a_file_with_another_sum_is_named_with_the_sum_expected(tmp_path: Path, name: str) -> None:
    with mock.patch.object(offer, "OFFER", replace(offer.OFFER, sha256={name: offer.OFFER.sha256[name]})):
        folder = laid(tmp_path / "diarization")
        with pytest.raises(EngineUnavailableError) as error:
            catalogue(tmp_path).diarizer()
    found = hashlib.sha256(FILES[name]).hexdigest()
    assert f"{folder / name} ({len(name)} bytes) has the sha256 {found}, not {offer.OFFER.sha256[name]}" in str(
        error.value
    )


@pytest.mark.usefixtures("small_sums")
def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = laid(tmp_path / "diarization")
    (folder / SEGMENTATION).unlink()
    with pytest.raises(EngineUnavailableError, match=f"{SEGMENTATION} cannot be read: No such file"):
        catalogue(tmp_path).diarizer()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nowhere", "there is no model and no folder nowhere"),
        ("diarization", "there is no model and no folder diarization; to fetch it: myna models add diarization"),
        ("empty", f"is no model that tells speakers apart; such a model is a folder with {CAMPPLUS}"),
        ("words", "is no model that tells speakers apart"),
    ],
)
async def test_a_configured_model_that_cannot_be_used_is_a_start_up_error(
    tmp_path: Path, target: str, reason: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "model.bin").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=reason) as error:
        async with running(settings(model="fake", models=tmp_path, diarization_model=target)):
            pass
    assert str(error.value).startswith("setting diarization_model: ")


async def test_a_fetched_model_that_was_cut_short_is_a_start_up_error(tmp_path: Path) -> None:
    laid(tmp_path / "diarization")
    with pytest.raises(ConfigurationError, match="has the sha256"):
        async with running(settings(model="fake", models=tmp_path)):
            pass


def test_embedded_models_with_another_sum_are_not_used(tmp_path: Path) -> None:
    spec = find_spec(embedded.PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    library = next(Path(spec.origin).parent.rglob("libmoonshine.*"))
    changed = bytearray(library.read_bytes())
    at = changed.find(b"ORTM") - 4
    while hashlib.sha256(changed[at : at + embedded.EMBEDDING.size]).hexdigest() != embedded.EMBEDDING.sha256:
        at = changed.find(b"ORTM", at + 8) - 4
    changed[at + 100_000] ^= 1
    (tmp_path / library.name).write_bytes(changed)
    (tmp_path / "__init__.py").touch()
    with (
        mock.patch.object(embedded, "find_spec", return_value=mock.Mock(origin=str(tmp_path / "__init__.py"))),
        pytest.raises(EngineUnavailableError) as error,
    ):
        EmbeddedParts()
    assert f"no library in {tmp_path} holds the embedding with the sha256 {embedded.EMBEDDING.sha256}" in str(
        error.value
    )
    assert "segmentation" not in str(error.value)


@pytest.mark.usefixtures("small_sums")
def test_the_survey_and_its_advice_name_the_model_that_tells_speakers_apart(tmp_path: Path) -> None:
    before = survey(catalogue(tmp_path))
    assert "diarization" in {one.name for one in before.offered}
    assert "speakers told apart by speakers" in advice(before, "moonshine-tiny-en")
    laid(tmp_path / "diarization")
    found = survey(catalogue(tmp_path))
    assert {one.name for one in found.here if one.answers == "voices"} == {"speakers", "diarization"}
    assert "diarization" not in {one.name for one in found.offered}
    assert "speakers told apart by diarization" in advice(found, "moonshine-tiny-en")


def test_the_command_lists_the_models_that_tell_speakers_apart_and_why_one_cannot_be_used(tmp_path: Path) -> None:
    shutil.copytree(laid(tmp_path / "diarization"), tmp_path / "other")
    found = CliRunner().invoke(cli, ["models", "--folder", str(tmp_path), "--json"])
    listed = json.loads(found.stdout)
    assert {"speakers"} == {one["name"] for one in listed["here"] if one["answers"] == "voices"}
    assert {"diarization", "other"} <= listed["unusable"].keys()
    assert "speakers" in CliRunner().invoke(cli, ["models", "--folder", str(tmp_path)]).stdout


def test_every_kind_that_tells_speakers_apart_says_what_its_folders_hold() -> None:
    assert all(kind.form for kind in registry.kinds().values() if kind.answers == "voices")
