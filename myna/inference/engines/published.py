"""The languages of NVIDIA's published models, from their model cards; the files do not declare them."""

from __future__ import annotations

_EUROPEAN = (
    "bg", "hr", "cs", "da", "nl", "en", "et", "fi", "fr", "de", "el", "hu", "it", "lv", "lt", "mt", "pl", "pt", "ro",
    "sk", "sl", "es", "sv", "ru", "uk",
)  # fmt: skip
_BY_NAME: dict[str, tuple[str, ...]] = {
    "parakeet-tdt-0.6b-v2": ("en",),
    "parakeet-tdt-1.1b": ("en",),
    "parakeet-rnnt-0.6b": ("en",),
    "parakeet-rnnt-1.1b": ("en",),
    "parakeet-tdt_ctc-110m": ("en",),
    "parakeet-tdt_ctc-1.1b": ("en",),
    "parakeet_realtime_eou_120m": ("en",),
    "nemotron-speech-streaming-en-0.6b": ("en",),
    "parakeet-unified-en-0.6b": ("en",),
    "parakeet-tdt-0.6b-v3": _EUROPEAN,
}


def languages(name: str) -> tuple[str, ...]:
    """Return the languages of a published model, by its name or a name that begins with it, such as `…-v3-onnx`."""
    fitting = [known for known in _BY_NAME if name.lower().startswith(known.lower())]
    return _BY_NAME[max(fitting, key=len)] if fitting else ()
