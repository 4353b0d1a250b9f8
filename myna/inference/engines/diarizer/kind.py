"""The engine kind that tells speakers apart: models inside the default engine's wheel, or fetched ones."""

from __future__ import annotations

from pathlib import Path

from myna.inference.engines.diarizer.offer import CAMPPLUS, OFFER, SEGMENTATION, VERSION, checked
from myna.inference.engines.kind import EngineKind, Model

EMBEDDED = Model("speakers", "diarizer", version="community-1", uuid="5c6ae1c4-8b27-5d0f-9a3e-6b1f0c2d7e94")


def _claims(path: Path) -> bool:
    return (path / CAMPPLUS).is_file()


def _describe(path: Path) -> Model:
    created = int((path / CAMPPLUS).stat().st_mtime)
    return Model(path.name, KIND.name, str(path), version=VERSION, uuid=checked(path), size=OFFER.size, created=created)


KIND = EngineKind(
    name="diarizer",
    engine="myna.inference.engines.diarizer.engine:DiarizerEngine",
    summary="tells speakers apart",
    needs=("onnxruntime", "onnx"),
    install="pip install 'myna[server]'",
    answers="voices",
    lanes="threads",
    process_bytes=110 << 20,
    lane_bytes=40 << 20,
    bundled=EMBEDDED,
    form=f"a folder with {CAMPPLUS} and {SEGMENTATION} (myna models add {OFFER.name})",
    claims=_claims,
    describe=_describe,
    offers=(OFFER,),
)
