"""The settings of a Flux stream that `Configure` can change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from myna.runtime.errors import Refusal
from myna.server.dialects.deepgram.flux_request import ENGLISH, MULTILINGUAL, FluxRequest, texts_of, thresholds_of
from myna.server.dialects.deepgram.listen_request import checked_keyterms, options_of
from myna.server.dialects.parameters import refused
from myna.server.dialects.spoken_formatting import spoken
from myna.streaming.policy import MULTIPLE, Options, TurnPolicy
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.text.formatting import Formatting
from myna.wire.quoting import quoted


@dataclass(frozen=True, slots=True)
class FluxSettings:
    """The settings of a stream. `multilingual`: its client uses the model whose messages name languages."""

    engine: EngineInfo
    multilingual: bool
    turns: TurnPolicy
    keyterms: tuple[str, ...]
    language_hints: tuple[str, ...]
    formatting: Formatting

    @classmethod
    def of(cls, request: FluxRequest, engine: EngineInfo) -> FluxSettings:
        """Return the settings of a request. Raises `Refusal` for options that the engine lacks."""
        formatting = spoken(request.formatting, _only(request.language_hints), engine)
        multilingual = request.model == MULTILINGUAL
        settings = cls(engine, multilingual, request.turns, request.keyterms, request.language_hints, formatting)
        settings.options()
        return settings

    def options(self) -> Options:
        """Return the engine's options. Raises `Refusal` for options that the engine lacks."""
        language = _only(self.language_hints)
        if language is None and self.engine.detects_language:
            language = MULTIPLE if self.multilingual else ENGLISH
        return options_of(self.engine, language, self.language_hints, self.keyterms)

    def changed(self, message: Mapping[str, Any]) -> FluxSettings:
        """Return the settings after a `Configure` message; absent and null fields change nothing. Raises `Refusal`."""
        now = self
        if (thresholds := message.get("thresholds")) is not None:
            now = replace(now, turns=thresholds_of(thresholds, now.turns))
        if (terms := message.get("keyterms")) is not None:
            now = replace(now, keyterms=self._keyterms(terms))
        if (hints := message.get("language_hints")) is not None:
            if not self.multilingual:
                raise refused(f"language_hints require the model {MULTILINGUAL}.", "language_hints_not_supported")
            hinted = texts_of("language_hints", hints)
            now = replace(now, language_hints=hinted, formatting=spoken(now.formatting, _only(hinted), self.engine))
        if message.get("redact"):
            raise refused("redact is a parameter of the address and cannot be changed later.", "redact_not_supported")
        if (numerals := _flag(message, "numerals")) is not None:
            now = replace(now, formatting=replace(now.formatting, numerals=numerals))
        if (filtered := _flag(message, "profanity_filter")) is not None:
            now = replace(now, formatting=replace(now.formatting, profanity=not filtered))
        return now

    def described(self) -> dict[str, object]:
        """Return the settings as `ConfigureSuccess` repeats them."""
        thresholds = {"eot_threshold": self.turns.end, "eot_timeout_ms": self.turns.timeout_ms}
        if self.turns.eager is not None:
            thresholds["eager_eot_threshold"] = self.turns.eager
        described: dict[str, object] = {"thresholds": thresholds, "keyterms": list(self.keyterms)}
        if self.multilingual:
            described["language_hints"] = list(self.language_hints)
        return {**described, "numerals": self.formatting.numerals}

    def _keyterms(self, given: object) -> tuple[str, ...]:
        if given and not self.engine.keyterms:
            raise refused(f"The model {self.engine.name} does not support keyterms.", "keyterms_not_supported")
        try:
            return checked_keyterms(texts_of("keyterms", given))
        except Refusal as refusal:
            code = "keyterm_limit_exceeded" if refusal.code == "keyterm_limit" else refusal.code
            raise refused(refusal.message, code) from refusal


def _flag(message: Mapping[str, Any], name: str) -> bool | None:
    value = message.get(name)
    if value is not None and not isinstance(value, bool):
        raise refused(f"{name} must be true or false, not {quoted(value)}.", f"invalid_{name}")
    return value


def _only(hints: Sequence[str]) -> str | None:
    """Return the only language hinted at, or that of a stream whose language changes if there are several."""
    return hints[0] if len(hints) == 1 else MULTIPLE if hints else None
