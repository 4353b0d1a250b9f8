from __future__ import annotations

from pathlib import Path

import community
import pytest


@pytest.fixture(scope="session")
def community_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in community-1's layout, with its weights."""
    return community.made(tmp_path_factory.mktemp("pipelines") / "community-1")
