"""The entry of OpenAI's Realtime API: a request at `/v1/realtime`, up to its upgrade or its refusal."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from myna.inference.engines.kind import Model
from myna.runtime.errors import Refusal
from myna.server.dialects.base import PlainEntry, Refused
from myna.server.dialects.openai.errors import error_body, refused
from myna.server.dialects.openai.models import PUBLIC_MODELS
from myna.server.dialects.openai.realtime import RealtimeDialect
from myna.server.dialects.openai.realtime_session import RealtimeSession
from myna.server.dialects.parameters import Parameters
from myna.server.keys import Authentication, credential
from myna.server.serving import ModelWanted
from myna.server.settings import Settings
from myna.streaming.session.jobs import EngineInfo
from myna.wire.quoting import quoted

PATH = "/v1/realtime"
_CONVERSATION_MODELS = re.compile(r"gpt-(4o-)?(mini-)?realtime(?!-whisper).*|gpt-4o-mini-realtime.*")
"""Names of OpenAI's models that converse. Such a name in the address is the session's, not that of a transcription model."""


class RealtimeEntry(PlainEntry):
    """The entry at `PATH`. `granted`: the session of the client secret; `beta`: the client uses the API's first version."""

    def __init__(self, name: str, settings: Settings, granted: Mapping[str, Any] | None, *, beta: bool) -> None:
        self.name = name
        self._settings = settings
        self._granted = granted
        self._beta = beta
        self._asked: str | None = None

    def read(self, query: Collection[tuple[str, str]]) -> ModelWanted:
        """Parse the request's parameters; return the model it asks for. Raises `Refusal`."""
        given = Parameters(query, "invalid_value")
        self._asked = given.text("model")
        if (intent := given.text("intent") or "transcription") != "transcription":
            raise refused(
                f"intent must be transcription, not {quoted(intent)}: this server transcribes and does not speak.",
                "intent",
            )
        if self._asked is None or _CONVERSATION_MODELS.fullmatch(
            self._asked
        ):  # names the session's model, not the one that transcribes
            self._asked = (self._begun(RealtimeSession()).transcription or {}).get("model")
        language = (self._begun(RealtimeSession()).transcription or {}).get("language")
        return ModelWanted.of(self._asked, PUBLIC_MODELS, language)

    def dialect(self, model: Model, engine: EngineInfo, diarizer: str = "") -> RealtimeDialect:
        """Return the translator. Raises `Refusal` for options of the client secret that the model lacks."""
        del diarizer
        names = frozenset(name for name in (model.name, engine.name, self._asked) if name)
        session = self._begun(RealtimeSession(transcription={"model": self._asked or model.name}), names)
        session.options(engine)
        return RealtimeDialect(session, self._settings, engine, names, beta=self._beta)

    def _begun(self, session: RealtimeSession, names: frozenset[str] | None = None) -> RealtimeSession:
        """Return the session with the settings of the client secret, if there is one."""
        if self._granted is None:
            return session
        return session.patched(self._granted["patch"], beta=self._granted["beta"], models=names)

    @property
    def takes_client_secrets(self) -> bool:
        """Yes: client secrets are made for this entry."""
        return True

    def refused(self, refusal: Refusal) -> Refused:
        """Return the refusal in OpenAI's error format."""
        return Refused(error_body(refusal))


def entry_of(
    name: str, settings: Settings, headers: Mapping[str, str], authentication: Authentication
) -> RealtimeEntry:
    """Return the entry of a request with these headers. One of them may say that the client uses the first version."""
    beta = "realtime=v1" in headers.get("OpenAI-Beta", "") or "openai-beta.realtime-v1" in headers.get(
        "Sec-WebSocket-Protocol", ""
    )
    return RealtimeEntry(name, settings, authentication.session(credential(headers)), beta=beta)
