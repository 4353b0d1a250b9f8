"""The default policy of a stream. Every dialect starts from it."""

from __future__ import annotations

from myna.server.settings import Settings
from myna.streaming.policy import Policy
from myna.streaming.session.jobs import EngineInfo

SOFT_SHARE = 2 / 3
"""Share of the longest utterance after which a short pause suffices for a cut (8 of 12 s by default)."""


def default_policy(settings: Settings, engine: EngineInfo) -> Policy:
    """Return the policy of a client that sets no option."""
    longest_s = settings.max_utterance_s or engine.best_segment_s
    return Policy(
        endpoint_ms=settings.endpointing_ms or None,
        hard_s=longest_s,
        soft_s=longest_s * SOFT_SHARE,
        context_s=settings.context_s,
        interim_every_s=settings.interim_every_s,
        speakers_within_s=settings.speakers_within_ms / 1000,
    )
