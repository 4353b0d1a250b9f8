"""Finds the models: those bundled with engines, those of a folder, and those named in the configuration.

A lookup lists the folder once and reads a model again only if it has changed. The catalogue loads no model, and knows no
engine: each engine kind recognises its own files and folders.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from myna.inference.engines import registry
from myna.inference.engines.file_names import Serves
from myna.inference.engines.kind import Answers, EngineKind, Model, nearest
from myna.inference.engines.model_choice import bears, files_of, fit, named, supports
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.policy import MULTIPLE
from myna.wire.quoting import quoted

_Stamp = tuple[tuple[str, int, int], ...]
_MOST_FILES = 4096
"""Limit on the files of a model folder that are looked at for changes."""


AUTO = "auto"
"""The name that stands for the model of the language spoken."""
ANY = "*"
"""The key, in the models by language, of the model for every other language and for clients that name none."""


class UnknownModelError(Exception):
    """No model of this name can be served. The message gives the reason or lists the available models.

    `broken` is the name of the model if its file is there but cannot be used.
    """

    def __init__(self, message: str, broken: str = "") -> None:
        super().__init__(message)
        self.broken = broken


class Catalogue:
    """The models of one server. Safe to use from any thread.

    `default` and the values of `aliases` are names, paths, or hub names (owner/name). Clients request a name or an alias.
    `languages` gives the languages of models whose files do not declare them; `by_language`, the model that `auto` stands for
    in each language. `look_ahead_ms` is the wanted look-ahead of streaming models. `diarizer` is the name or the folder of
    the model that tells speakers apart, which clients cannot request; empty: the first one offered that is in the folder, or
    else a bundled one.
    """

    def __init__(
        self,
        folder: Path,
        default: str,
        aliases: Mapping[str, str],
        languages: Mapping[str, Sequence[str]],
        by_language: Mapping[str, str] | None = None,
        *,
        look_ahead_ms: int | None = None,
        diarizer: str = "",
    ) -> None:
        self._folder = folder
        self._default = default
        self._aliases = dict(aliases)
        self._languages = languages
        self._by_language = dict(by_language or {})
        self._look_ahead_ms = look_ahead_ms
        self._diarizer = diarizer
        self._read: dict[Path, tuple[_Stamp, Model | str]] = {}
        self._lock = threading.Lock()

    @property
    def aliases(self) -> dict[str, str]:
        """Return alias → the name of its model."""
        return {alias: _name_of(target) for alias, target in self._aliases.items()}

    @property
    def default(self) -> str:
        """Return the name of the model for clients that request none; `auto`: it depends on the language."""
        return _name_of(self._aliases.get(self._default, self._default))

    def models(self) -> tuple[dict[str, Model], dict[str, str]]:
        """Return the usable models by name, and for each unusable model the reason."""
        usable: dict[str, Model] = {}
        broken: dict[str, str] = {}
        with self._lock:
            for kind in registry.kinds().values():
                if kind.bundled and kind.listed and kind.answers == "words" and not kind.missing:
                    usable[kind.bundled.name] = kind.bundled
            for target in [*self._files("words"), self._default, *self._aliases.values(), *self._by_language.values()]:
                name = _name_of(target)
                if name in usable or name in broken:
                    continue
                try:
                    if found := self._model(name, target):
                        _check_words(found)
                        usable[name] = found
                except EngineUnavailableError as error:
                    broken[name] = str(error)
        return usable, broken

    def find(
        self,
        name: str | None = None,
        *,
        or_default: bool = False,
        language: str | None = None,
        serves: Serves = "all",
    ) -> Model:
        """Return the model of this name, alias or uuid; without a name, the default. Raises `UnknownModelError`.

        With `or_default`, an unknown name returns the default. `language` chooses the model where the name is `auto`;
        `language` and `serves` (live streams or files) choose among several files of the name, of equal ones the newest.
        """
        wanted = _name_of(self._aliases.get(name, name)) if name else self.default
        usable, broken = self.models()
        if wanted == AUTO and AUTO not in usable:
            return self._of_language(language, usable, broken)
        if wanted in usable:
            return usable[wanted]
        if found := files_of(wanted, usable.values()):
            return max(found, key=lambda model: fit(model, language, serves))
        if name_of_file := next((each for each in broken if bears(each, wanted)), None):
            raise UnknownModelError(
                f"model {quoted(wanted)} cannot be used: {broken[name_of_file]}", broken=name_of_file
            )
        if name in self._aliases:
            raise UnknownModelError(f"model {quoted(wanted)}, which {quoted(name or '')} stands for, is not here")
        if or_default:
            return self.find(language=language, serves=serves)
        if offer := next((o for kind in _answering("words") for o in kind.offers if o.name == wanted), None):
            raise UnknownModelError(f"model {quoted(wanted)} is not here; to fetch it: myna models add {offer.name}")
        there = ", ".join(sorted({*usable, *(alias for alias, target in self.aliases.items() if target in usable)}))
        raise UnknownModelError(f"unknown model {quoted(name or self._default)}; available: {there or 'none'}")

    def supporting(self, language: str | None) -> Model | None:
        """Return a usable model that supports a language, or any language: the default if it does. None: there is none."""
        usable, _ = self.models()
        candidates = sorted(usable.values(), key=lambda model: model.name != self.default)
        return next((model for model in candidates if supports(model, language)), None)

    @property
    def names_diarizer(self) -> bool:
        """Return whether the configuration names the model that tells speakers apart."""
        return bool(self._diarizer)

    def diarizer(self) -> Model:
        """Return the model that tells speakers apart.

        Raises `UnknownModelError` if there is none, and `EngineUnavailableError` if the one to use cannot be used.
        """
        with self._lock:
            if self._diarizer:
                return self._described_diarizer(self._diarizer)
            kinds = _answering("voices")
            for offer in (offer for kind in kinds for offer in kind.offers):
                if (self._folder / offer.name).exists():
                    return self._described_diarizer(offer.name)
            for kind in kinds:
                if kind.bundled and not kind.missing:
                    return kind.bundled
            how = " or ".join(kind.install for kind in kinds)
            raise UnknownModelError(f"no model that tells speakers apart is installed; to install one: {how}")

    def diarizers(self) -> tuple[dict[str, Model], dict[str, str]]:
        """Return the usable models that tell speakers apart by name, and for each unusable one the reason."""
        usable: dict[str, Model] = {}
        broken: dict[str, str] = {}
        with self._lock:
            usable = {
                kind.bundled.name: kind.bundled for kind in _answering("voices") if kind.bundled and not kind.missing
            }
            for target in [*self._files("voices"), *([self._diarizer] if self._diarizer else [])]:
                name = _name_of(target)
                try:
                    usable[name] = self._described_diarizer(target)
                except EngineUnavailableError as error:
                    broken[name] = str(error)
        return usable, broken

    def _described_diarizer(self, target: str) -> Model:
        kinds = _answering("voices")
        for kind in kinds:
            if kind.bundled and target in (kind.name, kind.bundled.name):
                kind.check()
                return kind.bundled
        path = next((path for path in (self._folder / target, Path(target)) if path.exists()), None)
        if path is None:
            offered = any(offer.name == target for kind in kinds for offer in kind.offers)
            how = f"; to fetch it: myna models add {target}" if offered else ""
            raise EngineUnavailableError(f"there is no model and no folder {target}{how}")
        if not any(kind.answers == "voices" for kind in _claiming(path)):
            forms = " or ".join(kind.form for kind in kinds if kind.form)
            raise EngineUnavailableError(f"{path} is no model that tells speakers apart; such a model is {forms}")
        return self._described(_name_of(target), path)

    def _of_language(self, language: str | None, usable: dict[str, Model], broken: dict[str, str]) -> Model:
        """Return the model that serves a language: the configured one, else the first that supports it."""
        if target := self._by_language.get(language or ANY) or self._by_language.get(ANY):
            name = _name_of(self._aliases.get(target, target))
            if name in usable:
                return usable[name]
            reason = broken.get(name, "there is no such model")
            raise UnknownModelError(
                f"model {quoted(name)}, chosen for the language {language or ANY}, cannot be used: {reason}"
            )
        if found := next((model for model in usable.values() if language is None or supports(model, language)), None):
            return found
        known = ", ".join(sorted({code for model in usable.values() for code in model.languages}))
        asked = "speech whose language changes" if language == MULTIPLE else f"the language {quoted(language or '')}"
        raise UnknownModelError(f"no model supports {asked}; the models support: {known or 'none'}")

    def _files(self, answers: Answers) -> list[str]:
        """Return the files and folders of the models' folder that an engine with such answers claims."""
        try:
            inside = sorted(self._folder.iterdir())
        except OSError:
            return []
        return [
            str(path) for path in inside
            if not path.name.startswith(".") and any(kind.answers == answers for kind in _claiming(path))
        ]  # fmt: skip

    def _model(self, name: str, target: str) -> Model | None:
        """Return the model that a name, path or hub name refers to, or None. Raises `EngineUnavailableError`."""
        for kind in registry.kinds().values():
            if kind.bundled and target in (kind.name, kind.bundled.name):
                kind.check()
                return kind.bundled
        path = Path(target)
        named = path.suffix in _suffixes() or target.startswith((".", "/"))
        if named or (path.exists() and ("/" in target or _claiming(path))):
            return self._configured(self._described(name, path))
        if "/" not in target:
            return None
        for kind in sorted(registry.kinds().values(), key=lambda kind: kind.any_hub_name):
            if found := kind.hub(target):
                kind.check()
                return self._configured(replace(found, name=name))
        raise EngineUnavailableError(f"no engine loads {target} from a model hub")

    def _described(self, name: str, path: Path) -> Model:
        if not path.exists():
            raise EngineUnavailableError(f"{path} does not exist")
        kind = _the_claiming(path)
        kind.check()
        try:
            stamp = _stamp(path)
        except OSError as error:
            raise EngineUnavailableError(f"{path} cannot be read: {error.strerror}") from error
        known, found = self._read.get(path, ((), ""))
        if known != stamp:
            try:
                found = named(replace(kind.describe(path), name=name))
            except EngineUnavailableError as error:
                found = str(error)
            except OSError as error:
                found = f"{path} cannot be read: {error.strerror or error}"
            self._read[path] = (stamp, found)
        if isinstance(found, str):
            raise EngineUnavailableError(found)
        return found

    def _configured(self, model: Model) -> Model:
        """Replace the languages by those of the configuration, if it names the model; put the look-ahead to use first."""
        languages = tuple(self._languages.get(model.name, ())) or model.languages
        trained = list(model.look_aheads_ms)
        if trained:
            trained.insert(0, trained.pop(nearest(trained, self._look_ahead_ms)))
        return replace(model, languages=languages, look_aheads_ms=tuple(trained))


def _answering(answers: Answers) -> list[EngineKind]:
    return [kind for kind in registry.kinds().values() if kind.answers == answers]


def _check_words(model: Model) -> None:
    if registry.kinds()[model.engine].answers != "words":
        raise EngineUnavailableError("it tells speakers apart and writes no words; name it in diarization_model")


def _claiming(path: Path) -> list[EngineKind]:
    return [kind for kind in registry.kinds().values() if kind.claims(path)]


def _the_claiming(path: Path) -> EngineKind:
    claiming = _claiming(path)
    if not claiming:
        known = ", ".join(sorted(kind.name for kind in registry.kinds().values() if kind.listed))
        raise EngineUnavailableError(f"{path} is no model of the engines {known}")
    if len(claiming) > 1:
        names = " and ".join(kind.name for kind in claiming)
        raise EngineUnavailableError(f"{path} has the files of several engines: {names}; keep one model in a folder")
    return claiming[0]


def _suffixes() -> set[str]:
    return {suffix for kind in registry.kinds().values() for suffix in kind.suffixes}


def _stamp(path: Path) -> _Stamp:
    """Return what changes when a model's file, or a file of its folder, is replaced."""
    files = sorted(path.iterdir())[:_MOST_FILES] if path.is_dir() else [path]
    states = [(file.name, file.stat()) for file in files]
    return tuple((name, state.st_mtime_ns, state.st_size) for name, state in states)


def _name_of(target: str) -> str:
    kind = registry.kinds().get(target)
    if kind is not None and kind.bundled is not None:
        return kind.bundled.name
    name = target.rstrip("/").rsplit("/", 1)[-1]
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix in _suffixes() else name
