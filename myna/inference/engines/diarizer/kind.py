"""The engine kind that tells speakers apart, with the models inside the default engine's wheel."""

from __future__ import annotations

from myna.inference.engines.kind import EngineKind, Model

MODEL = Model("speakers", "diarizer", version="community-1", uuid="5c6ae1c4-8b27-5d0f-9a3e-6b1f0c2d7e94")

KIND = EngineKind(
    name="diarizer",
    engine="myna.inference.engines.diarizer.engine:DiarizerEngine",
    summary="tells speakers apart",
    needs=("onnxruntime", "moonshine_voice"),
    install="pip install moonshine-voice==0.1.0",
    answers="voices",
    lanes="threads",
    process_bytes=110 << 20,
    lane_bytes=40 << 20,
    bundled=MODEL,
)
