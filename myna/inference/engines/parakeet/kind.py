"""The engine kind of NVIDIA Parakeet through NeMo: .nemo files, and names of a model hub."""

from __future__ import annotations

from pathlib import Path

from myna.inference.engines import published
from myna.inference.engines.kind import EngineKind, Model


def _claims(path: Path) -> bool:
    return path.suffix == ".nemo"


def _describe(path: Path) -> Model:
    from myna.inference.engines.parakeet.checkpoint import inspect

    seen = inspect(path)
    return Model(
        path.stem,
        KIND.name,
        str(path),
        seen.languages or published.languages(path.stem),
        seen.version,
        "streaming" if seen.streaming else "offline",
        seen.uuid,
        seen.size,
        int(path.stat().st_mtime),
        seen.look_aheads_ms,
    )


def _hub(name: str) -> Model:
    short = name.rsplit("/", 1)[-1]
    return Model(short, KIND.name, name, published.languages(short))


KIND = EngineKind(
    name="parakeet",
    engine="myna.inference.engines.parakeet.engine:ParakeetEngine",
    summary="NVIDIA Parakeet through NeMo, for a GPU",
    needs=("torch", "nemo"),
    install="pip install 'myna[parakeet]'",
    lanes="one",
    process_bytes=900 << 20,  # NeMo's import alone takes 670 MB
    suffixes=(".nemo",),
    claims=_claims,
    describe=_describe,
    hub=_hub,
    any_hub_name=True,
)
