"""The example on the page runs as it stands, and the page knows every fault."""

from __future__ import annotations

from pathlib import Path

from creche.chaos.network import Fault
from tests.pages import ROOT, programs_on, run_program

PAGE = "docs/chaos/network.md"


def test_the_example_of_the_page_prints_what_it_says(tmp_path: Path) -> None:
    (source,) = programs_on(PAGE)
    printed = (ROOT / PAGE).read_text(encoding="utf-8").partition("It prints:\n\n```\n")[2].partition("```")[0]
    assert run_program(source, tmp_path, "-W", "error") == printed.splitlines()


def test_the_page_has_all_faults() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    kinds = {kind.__name__ for kind in Fault.__subclasses__()}
    assert {kind for kind in kinds if f"| `{kind}(" not in text} == set()
