"""The README and the docs name modules and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EARLIER_RECORDS = {path for path in (ROOT / "docs" / "decisions").glob("0*.md") if path.name < "0100"}
"""Decision records keep the paths of their time."""
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - EARLIER_RECORDS)
A_PATH = re.compile(
    r"(?<![\w/.:-])(?:myna|tests|deploy|docs|streaming|batch|server|inference|media|clients)/[\w./-]*\w/?(?![\w*-])"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = {path for code in re.findall(r"`([^`\n]+)`", page.read_text()) for path in A_PATH.findall(code)}
    assert [path for path in sorted(named) if "/" in path and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())}
    local = {target for target in targets if target and "://" not in target}
    assert [target for target in sorted(local) if not (page.parent / target).exists()] == []


def test_the_readme_fits_on_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
