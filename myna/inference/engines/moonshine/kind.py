"""The engine kind of the default model, Moonshine tiny-en."""

from __future__ import annotations

from myna.inference.engines.kind import EngineKind, Model

MODEL = Model(
    "moonshine-tiny-en",
    "moonshine",
    languages=("en",),
    version="0.1.0",  # of the wheel that ships the weights
    uuid="22595085-db37-5f6a-9d7e-311964686bc1",
)

KIND = EngineKind(
    name="moonshine",
    engine="myna.inference.engines.moonshine.engine:MoonshineEngine",
    summary="English on any CPU, 27 million parameters",
    needs=("onnxruntime", "onnx", "moonshine_voice"),
    install="pip install moonshine-voice==0.1.0",
    process_bytes=120 << 20,
    lane_bytes=110 << 20,
    bundled=MODEL,
)
