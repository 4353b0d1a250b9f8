"""A session of OpenAI's Realtime API: the client's settings, in the fields of the present and of the first version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from myna.server.dialects.defaults import default_policy
from myna.server.dialects.openai import realtime_parts as parts
from myna.server.dialects.openai.errors import refused
from myna.server.dialects.openai.models import PUBLIC_MODELS
from myna.server.dialects.spoken_formatting import asked, spoken
from myna.server.language_tags import primary, spoken_language, unknown_language
from myna.server.settings import Settings
from myna.streaming.audio.raw import Encoding, RawFormat
from myna.streaming.policy import Options, Policy, TurnPolicy
from myna.streaming.session.decode_window import fitted
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.text.formatting import Formatting
from myna.wire.quoting import quoted

LOGPROBS = "item.input_audio_transcription.logprobs"
_BETA_FORMATS: dict[str, dict[str, Any]] = {
    "pcm16": {"type": "audio/pcm", "rate": parts.RATE},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}
_EAGERNESS = {
    "low": TurnPolicy(end=0.85, timeout_ms=8000),
    "medium": TurnPolicy(end=0.7, timeout_ms=4000),
    "high": TurnPolicy(end=0.5, timeout_ms=2000),
}
"""OpenAI's longest waits, each with a threshold of this server (docs/turns.md)."""
LONGEST_SESSION = 16_384
"""Characters of a session in JSON, which the client is sent at each change. Unknown fields count, too: they are kept and
sent back."""
_NEVER_ZERO = 0.01
"""The smallest distance of a threshold from 0 and 1: at these all audio, or none, would be speech."""


@dataclass(frozen=True, slots=True)
class RealtimeSession:
    """The settings, each part as the client is sent it. None: off."""

    format: Mapping[str, Any] = field(default_factory=lambda: _BETA_FORMATS["pcm16"])
    transcription: Mapping[str, Any] | None = None
    turn_detection: Mapping[str, Any] | None = field(default_factory=lambda: dict(parts.SERVER_VAD))
    noise_reduction: Mapping[str, Any] | None = None
    include: tuple[str, ...] = ()
    type: str = "transcription"
    """`realtime` if the client names it so. The session transcribes all the same, and never speaks."""

    @property
    def audio(self) -> RawFormat:
        """The format of appended audio. Raises `AudioError`."""
        kind = self.format["type"]
        if kind in parts.G711:
            return RawFormat(parts.G711[kind], 8000)
        return RawFormat(Encoding.LINEAR16, self.format["rate"])

    @property
    def manual(self) -> bool:
        """Whether the client alone commits items."""
        return self.turn_detection is None

    @property
    def prefix_ms(self) -> int:
        """Milliseconds before its speech that belong to an item."""
        return int((self.turn_detection or {}).get("prefix_padding_ms", parts.SERVER_VAD["prefix_padding_ms"]))

    def policy(self, settings: Settings, engine: EngineInfo) -> Policy:
        """Return the policy of the stream."""
        policy = replace(
            default_policy(settings, engine), endpoint_ms=None, interim_every_s=None, lead_s=self.prefix_ms / 1000
        )
        detection = self.turn_detection or {}
        if detection.get("type") == "semantic_vad":
            eagerness = detection["eagerness"]
            policy = replace(policy, turns=_EAGERNESS["medium" if eagerness == "auto" else eagerness])
        elif detection:
            onset = min(max(detection["threshold"], _NEVER_ZERO), 1 - _NEVER_ZERO)
            policy = replace(policy, endpoint_ms=max(1, detection["silence_duration_ms"]), onset=onset)
        return fitted(policy, engine)

    def options(self, engine: EngineInfo) -> Options:
        """Return the engine's options. Raises `Refusal` if the engine does not support the language."""
        given = self.transcription or {}
        if unknown := unknown_language(engine, self._languages):
            known = ", ".join(engine.languages)
            raise refused(
                f"The model {engine.name!r} does not support the language {quoted(unknown)}; it supports: {known}.",
                "session.audio.input.transcription.language",
            )
        keywords = tuple(given.get("keywords") or ()) if engine.keyterms else ()
        prompt = (given.get("prompt") or "") if engine.prompts else ""
        return Options(self._language, keywords, tuple(map(primary, self._languages)), prompt=prompt)

    def formatting(self, engine: EngineInfo) -> Formatting:
        """Return how words are written, an extension. Raises `Refusal` if the redactions are not possible."""
        given = self.transcription or {}
        wanted = asked(
            smart_format=bool(given.get("smart_format")),
            numerals=bool(given.get("numerals")),
            profanity_filter=bool(given.get("profanity_filter")),
            redact=given.get("redact") or (),
        )
        return spoken(wanted, self._language, engine)

    @property
    def _languages(self) -> Sequence[str]:
        given = self.transcription or {}
        return [given["language"]] if given.get("language") else list(given.get("languages") or ())

    @property
    def _language(self) -> str | None:
        """The language that is spoken, if the client names only one."""
        return spoken_language(self._languages[0]) if len(self._languages) == 1 else None

    def described(self, session_id: str, *, beta: bool) -> dict[str, Any]:
        """Return the session as the client is sent it."""
        kind = "realtime.session" if self.type == "realtime" else "realtime.transcription_session"
        head = {"id": session_id, "object": kind, "expires_at": None}
        if beta:
            names = {shape["type"]: name for name, shape in _BETA_FORMATS.items()}
            return {
                **head,
                "input_audio_format": names[self.format["type"]],
                "input_audio_transcription": self.transcription,
                "turn_detection": self.turn_detection,
                "input_audio_noise_reduction": self.noise_reduction,
                "include": list(self.include),
            }
        input_parts = {
            "format": self.format,
            "transcription": self.transcription,
            "noise_reduction": self.noise_reduction,
            "turn_detection": self.turn_detection,
        }
        return {"type": self.type, **head, "audio": {"input": input_parts}, "include": list(self.include)}

    def patched(self, patch: object, *, beta: bool, models: frozenset[str] | None = None) -> RealtimeSession:
        """Return the session after a client's changes. An absent part does not change; null turns it off. Raises `Refusal`.

        `models`: the names of the model that serves the session; None: every name is accepted.
        """
        given = parts.object_in(patch, "session")
        kind = self.type
        if beta:
            where = "session.input_audio_"
            changes: dict[str, Any] = {
                name: given[f"input_audio_{name}"] for name in _PARTS if f"input_audio_{name}" in given
            }
            if isinstance(changes.get("format"), str):
                changes["format"] = _BETA_FORMATS.get(changes["format"], {"type": changes["format"]})
            if "turn_detection" in given:
                changes["turn_detection"] = given["turn_detection"]
        else:
            where = "session.audio.input."
            audio = parts.object_in(given.get("audio") or {}, "session.audio")
            changes = dict(parts.object_in(audio.get("input") or {}, "session.audio.input"))
            kind = self._kind(given.get("type", self.type), changes)
        changed_parts: dict[str, Any] = {
            name: change(getattr(self, name), changes[name], f"{where}{name}")
            for name, change in _PARTS.items()
            if name in changes
        }
        if models is not None and changed_parts.get("transcription"):
            _check_model(changed_parts["transcription"].get("model"), models, f"{where}transcription.model")
        if "include" in given:
            changed_parts["include"] = _includes(given["include"])
        changed = replace(self, **changed_parts, type=kind)
        if (size := len(json.dumps(changed.described("", beta=False)))) > LONGEST_SESSION:
            raise refused(f"The session must have at most {LONGEST_SESSION} characters in JSON, not {size}.", "session")
        return changed

    def _kind(self, given: object, changes: Mapping[str, Any]) -> str:
        """Return the session's type after a client's change. Raises `Refusal`."""
        if given not in ("transcription", "realtime"):
            raise refused(f"session.type must be transcription or realtime, not {quoted(given)}.", "session.type")
        if given == "realtime" and self.type != "realtime" and not changes.get("transcription"):
            raise refused(
                "session.type realtime requires session.audio.input.transcription: this server does not speak.",
                "session.audio.input.transcription",
            )
        return str(given)


def _check_model(model: str | None, models: frozenset[str], where: str) -> None:
    if model and model not in models and not PUBLIC_MODELS.fullmatch(model):
        raise refused(
            f"{where}: this connection is served by {min(models)}, not by {quoted(model)}. Choose a model with model= in"
            " the address when connecting.",
            where,
            code="model_not_found",
        )


_PARTS = {
    "format": parts.audio_format,
    "transcription": parts.transcription,
    "noise_reduction": parts.noise_reduction,
    "turn_detection": parts.turn_detection,
}


def _includes(given: object) -> tuple[str, ...]:
    if given is None:
        return ()
    if not (isinstance(given, list) and all(isinstance(name, str) for name in given)):
        raise refused(f"session.include must be a list of strings, not {quoted(given)}.", "session.include")
    return tuple(given)
