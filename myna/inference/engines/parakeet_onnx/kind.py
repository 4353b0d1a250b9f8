"""The engine kind of NVIDIA Parakeet on onnxruntime: folders of exported graphs."""

from __future__ import annotations

from pathlib import Path

from myna.inference.engines import published
from myna.inference.engines.kind import EngineKind, Model


def _claims(path: Path) -> bool:
    from myna.inference.engines.parakeet_onnx.layouts import claims

    return claims(path)


def _describe(path: Path) -> Model:
    from myna.inference.engines.parakeet_onnx.inspection import find

    export = find(path)
    assert export is not None, f"{path} is claimed"
    return Model(
        path.name,
        KIND.name,
        str(path),
        export.languages or published.languages(path.name.removeprefix("sherpa-onnx-nemo-")),
        export.version,
        "streaming" if export.chunks else "offline",
        export.uuid,
        export.size,
        int(export.encoder.stat().st_mtime),
        export.look_aheads_ms,
    )


KIND = EngineKind(
    name="parakeet_onnx",
    engine="myna.inference.engines.parakeet_onnx.engine:ParakeetOnnxEngine",
    summary="NVIDIA Parakeet exported as ONNX, for a CPU",
    needs=("onnxruntime", "onnx"),
    install="pip install 'myna[server]'",
    lanes="threads",
    process_bytes=120 << 20,
    lane_bytes=150 << 20,
    weight_factor=1.8,  # of int8: 666 MB on disk, 1,436 MB at the peak; fp32 needs 1.1 times its size
    claims=_claims,
    describe=_describe,
)
