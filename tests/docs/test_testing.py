"""The example on the page about testing runs as it stands."""

from __future__ import annotations

from pathlib import Path

from tests.pages import programs_on, run_program


def test_the_example_tells_one_story_from_one_seed(tmp_path: Path) -> None:
    """It prints what happened to the three visitors, and that a seed tells one story."""
    (source,) = programs_on("docs/testing.md")
    lines = run_program(source, tmp_path, "-W", "error")
    assert lines[0] == "0.000000 demo:root#1 Started"
    assert sum("Hello, " in line for line in lines) == 2
    assert sum(line.endswith("will never know") for line in lines) == 1
    assert lines[-1] == "True False"
