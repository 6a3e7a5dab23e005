"""The example on the component's page runs as it stands."""

from __future__ import annotations

from pathlib import Path

from tests.pages import programs_on, run_program


def test_the_example_of_the_page_answers(tmp_path: Path) -> None:
    (source,) = programs_on("docs/components/http.md")
    lines = run_program(source, tmp_path)
    assert lines[0].startswith("HTTP/1.1 200")
    assert "hello" in lines
