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


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.+?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, heading = target.partition("#")
        if "://" not in name:
            assert (page.parent / name).exists() or not name, target
            assert not heading or heading in anchors(page.parent / name if name else page), target


def test_the_readme_fits_on_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
