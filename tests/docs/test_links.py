"""Links on the pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import ROOT

PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def parts_of(page: Path) -> set[str]:
    """The names by which its headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    """To a page or folder of the project, and to a heading of that page if one is named."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("https://"):
            continue
        target, _, part = link.partition("#")
        there = page.parent / target if target else page
        assert there.exists(), link
        assert not part or part in parts_of(there), link
