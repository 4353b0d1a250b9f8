"""The engines that exist. Finding them imports none; the heavy import happens when an engine is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from myna.inference.engines.port import Engine, ModelOptions
from myna.streaming.errors import EngineUnavailableError


@dataclass(frozen=True, slots=True)
class OwnModel:
    """The model that is bundled with an engine."""

    name: str
    languages: tuple[str, ...]
    version: str = ""
    uuid: str = ""


MOONSHINE = OwnModel(
    "moonshine-tiny-en",
    ("en",),
    version="0.1.0",  # of the wheel that ships the weights
    uuid="22595085-db37-5f6a-9d7e-311964686bc1",
)


@dataclass(frozen=True, slots=True)
class EngineKind:
    """An engine: where its class is, the packages it needs, and how to install them."""

    module: str
    class_name: str
    needs: tuple[str, ...] = ()
    hint: str = ""
    one_lane: bool = False
    """Whether one thread owns the model and uses all cores; otherwise each core has a model."""
    own: OwnModel | None = None


ENGINES = {
    "moonshine": EngineKind(
        "myna.inference.engines.moonshine.engine",
        "MoonshineEngine",
        needs=("onnxruntime", "onnx", "moonshine_voice"),
        hint="pip install moonshine-voice==0.1.0",
        own=MOONSHINE,
    ),
    "parakeet": EngineKind(
        "myna.inference.engines.parakeet.engine",
        "ParakeetEngine",
        needs=("torch", "nemo"),
        hint="pip install 'myna[parakeet]'",
        one_lane=True,
    ),
    "fake": EngineKind("myna.inference.engines.fake.engine", "FakeEngine", own=OwnModel("fake", ("en",))),
}


def check(name: str) -> None:
    """Raise `EngineUnavailableError` if a package that the engine needs is not installed."""
    kind = ENGINES[name]
    missing = [package for package in kind.needs if find_spec(package) is None]
    if missing:
        raise EngineUnavailableError(
            f"The engine {name!r} needs {', '.join(missing)}, which is not installed: {kind.hint}"
        )


def builder(name: str) -> Callable[[ModelOptions], Engine]:
    """Import the engine and return its constructor. Raises `EngineUnavailableError`."""
    check(name)
    build: Callable[[ModelOptions], Engine] = getattr(import_module(ENGINES[name].module), ENGINES[name].class_name)
    return build
