"""Finds the models: those bundled with engines, the .nemo files of a folder, and those named in the configuration.

A lookup lists the folder once and reads a file again only if it has changed. The catalogue loads no model.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from myna.inference.engines import registry
from myna.streaming.errors import EngineUnavailableError
from myna.wire.quoting import quoted

MOONSHINE = registry.MOONSHINE.name
_OWN = {engine: kind.own for engine, kind in registry.ENGINES.items() if kind.own is not None}
"""Engine → its bundled model, which can be requested by its own name or by the engine's."""
_PUBLISHED = {
    "parakeet-tdt-0.6b-v2": ("en",),
    "parakeet-tdt-1.1b": ("en",),
    "parakeet-rnnt-0.6b": ("en",),
    "parakeet-rnnt-1.1b": ("en",),
    "parakeet-tdt_ctc-110m": ("en",),
    "parakeet-tdt_ctc-1.1b": ("en",),
    "parakeet-tdt-0.6b-v3": (
        "bg", "hr", "cs", "da", "nl", "en", "et", "fi", "fr", "de", "el", "hu", "it", "lv", "lt", "mt", "pl", "pt", "ro",
        "sk", "sl", "es", "sv", "ru", "uk",
    ),
}  # fmt: skip
"""Languages of NVIDIA's published models, from their model cards; the files do not declare them."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be loaded. `source` is a file or a hub name. Empty `languages` are unknown before loading."""

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


class UnknownModelError(Exception):
    """No model of this name can be served. The message gives the reason or lists the available models."""


class Catalogue:
    """The models of one server. Safe to use from any thread.

    `default` and the values of `aliases` are names, paths of .nemo files, or hub names (owner/name). Clients request a
    name or an alias. `languages` gives the languages of models whose files do not declare them.
    """

    def __init__(
        self, folder: Path, default: str, aliases: Mapping[str, str], languages: Mapping[str, Sequence[str]]
    ) -> None:
        self._folder = folder
        self._default = default
        self._aliases = dict(aliases)
        self._languages = languages
        self._read: dict[Path, tuple[tuple[int, int], Model | str]] = {}
        self._lock = threading.Lock()

    @property
    def aliases(self) -> dict[str, str]:
        """Return alias → the name of its model."""
        return {alias: _name_of(target) for alias, target in self._aliases.items()}

    @property
    def default(self) -> str:
        """Return the name of the model for clients that request none."""
        return _name_of(self._aliases.get(self._default, self._default))

    def models(self) -> tuple[dict[str, Model], dict[str, str]]:
        """Return the usable models by name, and for each unusable model the reason."""
        usable: dict[str, Model] = {}
        broken: dict[str, str] = {}
        with self._lock:
            if find_spec("moonshine_voice") is not None:
                usable[MOONSHINE] = _own("moonshine")
            files = sorted(self._folder.glob("*.nemo")) if self._folder.is_dir() else []
            for target in [*map(str, files), self._default, *self._aliases.values()]:
                name = _name_of(target)
                if name in usable or name in broken:
                    continue
                try:
                    if found := self._model(name, target):
                        usable[name] = found
                except EngineUnavailableError as error:
                    broken[name] = str(error)
        return usable, broken

    def find(self, name: str | None = None, *, or_default: bool = False) -> Model:
        """Return the model of this name or alias; without a name, the default. Raises `UnknownModelError`.

        With `or_default`, an unknown name returns the default.
        """
        wanted = _name_of(self._aliases.get(name, name)) if name else self.default
        usable, broken = self.models()
        if wanted in usable:
            return usable[wanted]
        if wanted in broken:
            raise UnknownModelError(f"model {quoted(wanted)} cannot be used: {broken[wanted]}")
        if or_default:
            return self.find()
        there = ", ".join(sorted({*usable, *(alias for alias, target in self.aliases.items() if target in usable)}))
        raise UnknownModelError(f"unknown model {quoted(name or self._default)}; available: {there or 'none'}")

    def _model(self, name: str, target: str) -> Model | None:
        """Return the model that a name, path or hub name refers to, or None. Raises `EngineUnavailableError`."""
        for engine, own in _OWN.items():
            if target in (engine, own.name):
                registry.check(engine)
                return _own(engine)
        if target.endswith(".nemo"):
            return self._spoken(self._file(name, Path(target)))
        if "/" in target:
            registry.check("parakeet")
            return self._spoken(Model(name, "parakeet", target))
        return None

    def _file(self, name: str, path: Path) -> Model:
        from myna.inference.engines.parakeet.checkpoint import inspect

        try:
            state = path.stat()
        except OSError as error:
            raise EngineUnavailableError(f"{path} cannot be read: {error.strerror}") from error
        registry.check("parakeet")
        stamp = (state.st_mtime_ns, state.st_size)
        known, found = self._read.get(path, (None, ""))
        if known != stamp:
            try:
                seen = inspect(path)
                mode = "streaming" if seen.streaming else "offline"
                found = Model(
                    name,
                    "parakeet",
                    str(path),
                    seen.languages,
                    seen.version,
                    mode,
                    seen.uuid,
                    seen.size,
                    int(state.st_mtime),
                )
            except EngineUnavailableError as error:
                found = str(error)
            self._read[path] = (stamp, found)
        if isinstance(found, str):
            raise EngineUnavailableError(found)
        return found

    def _spoken(self, model: Model) -> Model:
        """Add languages from the configuration or, failing that, from NVIDIA's model card."""
        languages = tuple(self._languages.get(model.name, ())) or model.languages or _PUBLISHED.get(model.name, ())
        return replace(model, languages=languages)


def _own(engine: str) -> Model:
    own = _OWN[engine]
    return Model(own.name, engine, languages=own.languages, version=own.version, uuid=own.uuid)


def _name_of(target: str) -> str:
    if target in _OWN:
        return _OWN[target].name
    return target.rsplit("/", 1)[-1].removesuffix(".nemo")
