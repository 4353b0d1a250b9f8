from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from myna.runtime.errors import ConfigurationError
from myna.server.settings import Settings, load

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MYNA_CONFIG", raising=False)
    return tmp_path


def test_the_documentation_lists_every_setting_with_its_default_and_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    documented = {name: (default, meaning) for name, default, meaning in rows}
    actual = {name: (str(field.default), field.description) for name, field in Settings.model_fields.items()}
    assert documented == actual


def test_flags_override_the_environment_the_file_and_the_defaults(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load([]).port == 8000
    (empty_folder / "myna.toml").write_text("port = 1\nhost = '::1'\nlanes = 1\n")
    assert load([]).port == 1
    monkeypatch.setenv("MYNA_PORT", "2")
    monkeypatch.setenv("MYNA_LANES", "2")
    assert load([]).port == 2
    settings = load(["--port", "3"])
    assert (settings.port, settings.lanes, settings.host) == (3, 2, "::1")


@pytest.mark.parametrize(
    ("written", "said"),
    [("port = 'x'", "port"), ("endpointing_ms = -5", "-5"), ("unknown = 1", "unknown"), ("port =", "cannot be read")],
)
def test_an_error_in_the_file_is_named(empty_folder: Path, written: str, said: str) -> None:
    (empty_folder / "myna.toml").write_text(written)
    with pytest.raises(ConfigurationError, match=said):
        load([])


def test_every_numeric_setting_is_bounded() -> None:
    """Without bounds there are timers that never run out and sizes that no machine has."""
    for name, field in Settings.model_fields.items():
        if field.annotation in (int, float):
            for value in (-1, 10**12, float("inf"), float("nan")):
                with pytest.raises(ValidationError, match=name):
                    Settings(**{name: value})


def test_a_maximum_utterance_shorter_than_a_word_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 2 s"):
        Settings(max_utterance_s=0.5)


def test_an_unknown_flag_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(["--prot", "1"])
    assert ended.value.code == 2
    assert "--prot" in capsys.readouterr().err
