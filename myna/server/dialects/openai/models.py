"""Models as OpenAI's API names and describes them."""

from __future__ import annotations

import re

from myna.inference.engines.catalogue import Catalogue
from myna.inference.engines.kind import Model

_SIZE = r"(tiny|base|small|medium|large|turbo)(-v\d(\.\d)?)?(-turbo)?"
_VARIANT = r"([.-](en|multi|ct2|mlx|onnx|ggml|gguf|int8|fp16|float16|q\d\w*|\dbit|latest))*"
PUBLIC_MODELS = re.compile(
    r"(openai/)?(whisper-\d|gpt(-4o|-live|-realtime)?(-mini)?-(transcribe|whisper)(-diarize)?(-\d[\d-]*|-latest)?)"
    rf"|([\w.-]+/)?((faster-|distil-)*whisper-)?(distil-)?{_SIZE}{_VARIANT}"
    r"|[Ss]ystran/[\w.-]+|([\w.-]+/)?(parakeet|canary|voxtral)-[\w.-]+",
    re.IGNORECASE,
)
"""Names of others' speech models, which stand for the default unless a model here bears them: OpenAI's (`whisper-1`,
`gpt-4o-transcribe-diarize`), Whisper's by size, with or without an owner (`turbo`, `distil-large-v3`,
`openai/whisper-large-v3-turbo`, `Systran/faster-whisper-small.en`), and those that other servers of OpenAI's API serve. A
name that somebody has given to a model of their own (`acme/whisper-of-ours`) stands for nothing."""


def described(model: Model, catalogue: Catalogue, *, loaded: bool) -> dict[str, object]:
    """Return a model as `/v1/models` lists it: OpenAI's fields, and those of this server."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "myna",
        "default": model.name == catalogue.default,
        "aliases": sorted(alias for alias, name in catalogue.aliases.items() if name == model.name),
        "engine": model.engine,
        "languages": list(model.languages),
        "mode": model.mode,
        "look_ahead_ms": model.look_aheads_ms[0] if model.look_aheads_ms else None,
        "look_aheads_ms": sorted(model.look_aheads_ms),
        "version": model.version,
        "uuid": model.uuid,
        "loaded": loaded,
    }
