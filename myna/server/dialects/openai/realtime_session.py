"""A session of OpenAI's Realtime API: what a client has set, in the shapes of its present and of its first version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from myna.server.dialects.defaults import default_policy
from myna.server.dialects.openai.errors import refused
from myna.server.dialects.openai.models import PUBLIC_MODELS
from myna.server.dialects.options import LONGEST_KEYTERM, MOST_KEYTERMS, primary
from myna.server.settings import Settings
from myna.streaming.audio.raw import AudioError, Encoding, RawFormat
from myna.streaming.policy import Options, Policy, TurnPolicy
from myna.streaming.session.decode_window import fitted
from myna.streaming.session.jobs import EngineInfo
from myna.wire.quoting import quoted

LOGPROBS = "item.input_audio_transcription.logprobs"
RATE = 24_000
"""Samples per second of audio/pcm."""
_G711 = {"audio/pcmu": Encoding.MULAW, "audio/pcma": Encoding.ALAW}
_BETA_FORMATS: dict[str, dict[str, Any]] = {
    "pcm16": {"type": "audio/pcm", "rate": RATE}, "g711_ulaw": {"type": "audio/pcmu"}, "g711_alaw": {"type": "audio/pcma"},
}  # fmt: skip
_SERVER_VAD = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
_EAGERNESS = {
    "low": TurnPolicy(end=0.85, timeout_ms=8000),
    "medium": TurnPolicy(end=0.7, timeout_ms=4000),
    "high": TurnPolicy(end=0.5, timeout_ms=2000),
}
"""OpenAI's longest waits, and the thresholds that go with them here (docs/turns.md)."""
_LONGEST_MS = 60_000
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
    turn_detection: Mapping[str, Any] | None = field(default_factory=lambda: dict(_SERVER_VAD))
    noise_reduction: Mapping[str, Any] | None = None
    include: tuple[str, ...] = ()
    type: str = "transcription"
    """`realtime` where the client has called it so: it is transcribed all the same, and nothing is spoken."""

    @property
    def audio(self) -> RawFormat:
        """The audio that is appended. Raises `AudioError`."""
        kind = self.format["type"]
        if kind in _G711:
            return RawFormat(_G711[kind], 8000)
        return RawFormat(Encoding.LINEAR16, self.format["rate"])

    @property
    def manual(self) -> bool:
        """Whether the client alone says what belongs together."""
        return self.turn_detection is None

    @property
    def prefix_ms(self) -> int:
        """Audio that counts as an utterance's before its speech."""
        return int((self.turn_detection or {}).get("prefix_padding_ms", _SERVER_VAD["prefix_padding_ms"]))

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
        parts = {
            "format": self.format,
            "transcription": self.transcription,
            "noise_reduction": self.noise_reduction,
            "turn_detection": self.turn_detection,
        }
        return {"type": self.type, **head, "audio": {"input": parts}, "include": list(self.include)}

    def patched(self, patch: object, *, beta: bool, models: frozenset[str] | None = None) -> RealtimeSession:
        """Return the session with a client's changes: what is absent stays, null is off. Raises `Refusal`.

        `models`: the names that mean the model that listens; None: any will do.
        """
        given = _object("session", patch)
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
            audio = _object("session.audio", given.get("audio") or {})
            changes = dict(_object("session.audio.input", audio.get("input") or {}))
            kind = self._kind(given.get("type", self.type), changes)
        parts: dict[str, Any] = {
            name: change(self, changes[name], f"{where}{name}") for name, change in _PARTS.items() if name in changes
        }
        if models is not None and parts.get("transcription"):
            _check_model(parts["transcription"].get("model"), models, f"{where}transcription.model")
        if "include" in given:
            parts["include"] = _includes(given["include"])
        changed = replace(self, **parts, type=kind)
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


def _format(session: RealtimeSession, given: object, where: str) -> Mapping[str, Any]:
    if given is None:
        return session.format
    wanted = _object(where, given)
    kind = wanted.get("type", "audio/pcm")
    if isinstance(kind, str) and kind in _G711:
        return {"type": kind}
    if kind != "audio/pcm":
        raise refused(f"{where}.type must be audio/pcm, audio/pcmu or audio/pcma, not {quoted(kind)}.", f"{where}.type")
    rate = wanted.get("rate", RATE)
    try:
        if not isinstance(rate, int) or isinstance(rate, bool):
            raise refused(f"{where}.rate must be a whole number, not {quoted(rate)}.", f"{where}.rate")
        RawFormat(Encoding.LINEAR16, rate)
    except AudioError as error:
        raise refused(f"{where}.rate: {error}.", f"{where}.rate") from error
    return {"type": kind, "rate": rate}


def _transcription(session: RealtimeSession, given: object, where: str) -> Mapping[str, Any] | None:
    if given is None:
        return None
    wanted = _object(where, given)
    for name, kind, called in (
        ("model", str, "a text"), ("language", str, "a text"), ("prompt", str, "a text"), ("delay", str, "a text"),
        ("languages", list, "a list"), ("keywords", list, "a list"),
    ):  # fmt: skip
        if wanted.get(name) is not None and not isinstance(wanted[name], kind):
            raise refused(f"{where}.{name} must be {called}, not {quoted(wanted[name])}.", f"{where}.{name}")
    for name in ("languages", "keywords"):
        if not all(isinstance(text, str) for text in wanted.get(name) or ()):
            raise refused(f"{where}.{name} must be a list of texts.", f"{where}.{name}")
        if (count := len(wanted.get(name) or ())) > MOST_KEYTERMS:
            raise refused(f"{where}.{name} has {count} texts; {MOST_KEYTERMS} are possible.", f"{where}.{name}")
        if (longest := max(map(len, wanted.get(name) or ()), default=0)) > LONGEST_KEYTERM:
            raise refused(
                f"{where}.{name} has a text of {longest} characters; {LONGEST_KEYTERM} are possible.", f"{where}.{name}"
            )
    return {**(session.transcription or {}), **wanted}


def _turn_detection(session: RealtimeSession, given: object, where: str) -> Mapping[str, Any] | None:
    if given is None:
        return None
    wanted = _object(where, given)
    now = session.turn_detection or {}
    kind = wanted.get("type", now.get("type", "server_vad"))
    if kind not in ("server_vad", "semantic_vad"):
        raise refused(f"{where}.type must be server_vad or semantic_vad, not {quoted(kind)}.", f"{where}.type")
    base = now if now.get("type") == kind else _SERVER_VAD if kind == "server_vad" else {"eagerness": "auto"}
    merged = {**base, **{name: value for name, value in wanted.items() if value is not None}, "type": kind}
    if kind == "semantic_vad":
        if merged["eagerness"] not in (*_EAGERNESS, "auto"):
            raise refused(
                f"{where}.eagerness must be low, medium, high or auto, not {quoted(merged['eagerness'])}.",
                f"{where}.eagerness",
            )
        return merged
    for name, most in (("threshold", 1), ("prefix_padding_ms", _LONGEST_MS), ("silence_duration_ms", _LONGEST_MS)):
        value = merged[name]
        whole = name == "threshold" or isinstance(value, int)
        if isinstance(value, bool) or not isinstance(value, int | float) or not whole or not 0 <= value <= most:
            raise refused(f"{where}.{name} must be from 0 to {most}, not {quoted(value)}.", f"{where}.{name}")
    return merged


def _noise_reduction(session: RealtimeSession, given: object, where: str) -> Mapping[str, Any] | None:
    return None if given is None else {**(session.noise_reduction or {}), **_object(where, given)}


def _check_model(model: str | None, models: frozenset[str], where: str) -> None:
    if model and model not in models and not PUBLIC_MODELS.fullmatch(model):
        raise refused(
            f"{where}: this connection is served by {min(models)}, not by {quoted(model)}: a model is chosen when"
            " connecting, with model= in the address.",
            where,
            code="model_not_found",
        )


_PARTS = {
    "format": _format,
    "transcription": _transcription,
    "noise_reduction": _noise_reduction,
    "turn_detection": _turn_detection,
}


def _includes(given: object) -> tuple[str, ...]:
    if given is None:
        return ()
    if not (isinstance(given, list) and all(isinstance(name, str) for name in given)):
        raise refused(f"session.include must be a list of texts, not {quoted(given)}.", "session.include")
    return tuple(given)


def _object(where: str, given: object) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise refused(f"{where} must be an object, not {quoted(given)}.", where)
    return given
