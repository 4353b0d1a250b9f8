"""A session of OpenAI's Realtime API: what a client has set, in the shapes of its present and of its first version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from myna.server.dialects.defaults import default_policy
from myna.server.dialects.openai import realtime_parts as parts
from myna.server.dialects.openai.errors import refused
from myna.server.dialects.openai.models import PUBLIC_MODELS
from myna.server.dialects.options import primary
from myna.server.settings import Settings
from myna.streaming.audio.raw import Encoding, RawFormat
from myna.streaming.policy import Options, Policy, TurnPolicy
from myna.streaming.session.decode_window import fitted
from myna.streaming.session.jobs import EngineInfo
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
"""OpenAI's longest waits, and the thresholds that go with them here (docs/turns.md)."""
LONGEST_SESSION = 16_384
"""Characters of a session in JSON, which a client is told at each change. Fields that nobody here knows count, too: they are
kept and told again."""
_NEVER_ZERO = 0.01
"""A threshold of 0 or 1 would make everything, or nothing, speech."""


@dataclass(frozen=True, slots=True)
class RealtimeSession:
    """What is set; each part as it is told to the client. None: off."""

    format: Mapping[str, Any] = field(default_factory=lambda: _BETA_FORMATS["pcm16"])
    transcription: Mapping[str, Any] | None = None
    turn_detection: Mapping[str, Any] | None = field(default_factory=lambda: dict(parts.SERVER_VAD))
    noise_reduction: Mapping[str, Any] | None = None
    include: tuple[str, ...] = ()
    type: str = "transcription"
    """`realtime` where the client has called it so: it is transcribed all the same, and nothing is spoken."""

    @property
    def audio(self) -> RawFormat:
        """The audio that is appended. Raises `AudioError`."""
        kind = self.format["type"]
        if kind in parts.G711:
            return RawFormat(parts.G711[kind], 8000)
        return RawFormat(Encoding.LINEAR16, self.format["rate"])

    @property
    def manual(self) -> bool:
        """Whether the client alone says what belongs together."""
        return self.turn_detection is None

    @property
    def prefix_ms(self) -> int:
        """Audio that counts as an utterance's before its speech."""
        return int((self.turn_detection or {}).get("prefix_padding_ms", parts.SERVER_VAD["prefix_padding_ms"]))

    def policy(self, settings: Settings, engine: EngineInfo) -> Policy:
        """Return how the stream is cut."""
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
        """Return what is asked of the engine. Raises `Refusal` if it does not know the language."""
        given = self.transcription or {}
        languages = [given["language"]] if given.get("language") else list(given.get("languages") or ())
        for language in languages:
            if engine.languages and primary(language) not in engine.languages:
                known = ", ".join(engine.languages)
                raise refused(
                    f"The model {engine.name!r} does not know the language {quoted(language)}; it knows: {known}.",
                    "session.audio.input.transcription.language",
                )
        keywords = tuple(given.get("keywords") or ()) if engine.keyterms else ()
        return Options(languages[0] if len(languages) == 1 else None, keywords)

    def told(self, session_id: str, *, beta: bool) -> dict[str, Any]:
        """Return the session as the client is told it."""
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
        described = {
            "format": self.format,
            "transcription": self.transcription,
            "noise_reduction": self.noise_reduction,
            "turn_detection": self.turn_detection,
        }
        return {"type": self.type, **head, "audio": {"input": described}, "include": list(self.include)}

    def patched(self, patch: object, *, beta: bool, models: frozenset[str] | None = None) -> RealtimeSession:
        """Return the session with a client's changes: what is absent stays, null is off. Raises `Refusal`.

        `models`: the names that mean the model that listens; None: any will do.
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
        if (size := len(json.dumps(changed.told("", beta=False)))) > LONGEST_SESSION:
            raise refused(f"The session would have {size} characters; {LONGEST_SESSION} are possible.", "session")
        return changed

    def _kind(self, given: object, changes: Mapping[str, Any]) -> str:
        """Return the type that a client's change gives the session. Raises `Refusal`."""
        if given not in ("transcription", "realtime"):
            raise refused(f"session.type must be transcription or realtime, not {quoted(given)}.", "session.type")
        if given == "realtime" and self.type != "realtime" and not changes.get("transcription"):
            raise refused(
                "session.type realtime takes session.audio.input.transcription: this server transcribes, and does not speak.",
                "session.audio.input.transcription",
            )
        return str(given)


def _check_model(model: str | None, models: frozenset[str], where: str) -> None:
    if model and model not in models and not PUBLIC_MODELS.fullmatch(model):
        raise refused(
            f"{where}: this connection is served by {min(models)}, not by {quoted(model)}: a model is chosen when"
            " connecting, with model= in the address.",
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
        raise refused(f"session.include must be a list of texts, not {quoted(given)}.", "session.include")
    return tuple(given)
