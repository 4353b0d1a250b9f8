"""Models as Deepgram's API names and describes them."""

from __future__ import annotations

import re
from typing import Any

from myna.inference.engines.kind import Model
from myna.streaming.session.jobs import EngineInfo

PUBLIC_MODELS = re.compile(r"(nova(-[23])?|enhanced|base|whisper|custom|flux)(-[a-z0-9-]+)?")
"""Deepgram's model names. They stand for the default model, unless the configuration gives a model one of them."""


def described(model: Model) -> dict[str, object]:
    """Return a model as `/v1/models` lists it for Deepgram's clients."""
    return {
        "name": model.called or model.name,
        "canonical_name": model.called or model.name,
        "architecture": model.engine,
        "languages": list(model.languages),
        "version": model.version,
        "uuid": model.uuid,
        "batch": model.serves in ("all", "batch"),
        "streaming": model.serves in ("all", "streaming"),
        "formatted_output": model.formatted,
    }


def model_metadata(model: Model, engine: EngineInfo) -> dict[str, Any]:
    """Return the model as each live result names it."""
    return {
        "model_info": {"name": engine.name, "version": engine.version or "unknown", "arch": model.engine},
        "model_uuid": engine.uuid or model.uuid,
    }


def models_used(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the same as the metadata of a whole request has it."""
    uuid = metadata["model_uuid"]
    return {"models": [uuid], "model_info": {uuid: metadata["model_info"]}}
