"""Models that `myna models add` fetches, for tests that need the real weights."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from myna.inference.engines.kind import Offer
from myna.inference.engines.offers import add, offered


def fetched(name: str | Offer) -> Path:
    """Return the folder of a model that an engine offers; it is fetched once on a machine."""
    offer = offered(name) if isinstance(name, str) else name
    folder = Path(os.environ.get("MYNA_TEST_MODELS") or platformdirs.user_cache_path("myna") / "test-models")
    return folder / offer.name if (folder / offer.name).is_dir() else add(offer, folder)
