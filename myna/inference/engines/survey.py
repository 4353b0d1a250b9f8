"""What this machine can serve, what it could, and what each model costs. Loads no model."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from myna.inference.engines import registry
from myna.inference.engines.catalogue import Catalogue, UnknownModelError
from myna.inference.engines.kind import Answers
from myna.streaming.errors import EngineUnavailableError


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that can be served, or could be. `memory` is the assumed memory of its workers, in bytes.

    `how`: the commands after which it can be served; none if it can be now.
    """

    name: str
    engine: str
    languages: tuple[str, ...]
    memory: int
    how: tuple[str, ...] = ()
    look_aheads_ms: tuple[int, ...] = ()
    """The look-aheads of a streaming model, in ms, the one in use first."""
    answers: Answers = "words"


@dataclass(frozen=True, slots=True)
class Survey:
    """The models of a machine. `unusable` gives the reason for each model that cannot be served.

    `diarizer` is the name of the model that tells speakers apart; empty if there is none.
    """

    here: list[Listed] = field(default_factory=list)
    offered: list[Listed] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    engines: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The engines that are not installed: what each is, and the command that installs it."""
    diarizer: str = ""


def survey(catalogue: Catalogue) -> Survey:
    """Return what the catalogue's folder and the installed packages have, and what the engines offer."""
    kinds, cores = registry.kinds(), os.cpu_count() or 1
    usable, unusable = catalogue.models()
    diarizers, broken = catalogue.diarizers()
    found = Survey(unusable=unusable | broken, diarizer=_diarizer(catalogue))
    for model in [*usable.values(), *diarizers.values()]:
        kind = kinds[model.engine]
        memory = kind.expected_memory(model.size, cores)
        found.here.append(
            Listed(
                model.name, model.engine, model.languages, memory,
                look_aheads_ms=model.look_aheads_ms, answers=kind.answers,
            )
        )  # fmt: skip
    for kind in kinds.values():
        if not kind.listed:
            continue
        install = (kind.install,) if kind.missing else ()
        for offer in kind.offers:
            if offer.name not in usable | diarizers:
                memory = kind.expected_memory(offer.size, cores)
                how = (*install, f"myna models add {offer.name}")
                found.offered.append(Listed(offer.name, kind.name, offer.languages, memory, how, answers=kind.answers))
        if install:
            found.engines[kind.name] = (kind.summary, kind.install)
    return found


def _diarizer(catalogue: Catalogue) -> str:
    try:
        return catalogue.diarizer().name
    except (UnknownModelError, EngineUnavailableError):
        return ""


def advice(found: Survey, default: str) -> str:
    """Return one line: the languages of the default model, and which others there are."""
    model = next((one for one in found.here if one.name == default), None)
    spoken = described_languages(model.languages) if model else "by language"
    others = [one.name for one in found.here if one.name != default and one.answers == "words"]
    could = [one.name for one in found.offered]
    parts = [f"also here: {', '.join(others)}"] if others else []
    parts += [f"speakers told apart by {found.diarizer}"] if found.diarizer else []
    parts += [f"could be added: {', '.join(could)}"] if could else []
    return "; ".join([f"{default} ({spoken})", *parts, "`myna models` lists models, their memory, and how to add them"])


def described_languages(languages: tuple[str, ...]) -> str:
    """Return the codes of a few languages, the number of many, or `unknown`."""
    if not languages:
        return "languages unknown"
    return ", ".join(languages) if len(languages) <= 3 else f"{len(languages)} languages"
