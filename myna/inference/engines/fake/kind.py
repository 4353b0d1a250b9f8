"""The engine kind for tests."""

from __future__ import annotations

from myna.inference.engines.kind import EngineKind, Model

KIND = EngineKind(
    name="fake",
    engine="myna.inference.engines.fake.engine:FakeEngine",
    summary="for tests: decodes amplitude",
    bundled=Model("fake", "fake", languages=("en",)),
    listed=False,
)
