"""Reflector's clients where they share an address with OpenAI's: which requests are theirs.

Its live client asks `/v1/audio/transcriptions` through OpenAI's SDK for `verbose_json` and joins the words with nothing
between them. Nothing in such a request differs from others of the SDK but where it is sent to: Reflector's own compose file
calls the service `transcription` (github.com/GreyhavenHQ/reflector, docker-compose.selfhosted.yml, `TRANSCRIPT_URL`).
"""

from __future__ import annotations

from collections.abc import Sequence

PREFIX = "/reflector"
"""Begins the addresses that are Reflector's alone: `TRANSCRIPT_URL` may end in it, since its clients append to it."""
_ANY = "*"


def is_theirs(path: str, host: str, names: Sequence[str]) -> bool:
    """Return whether a request is Reflector's: at an address of its own, or to this server by one of these names.

    `host` is the header of that name.
    """
    if path.startswith(f"{PREFIX}/") or _ANY in names:
        return True
    return host.lower().partition(":")[0] in {name.lower() for name in names}
