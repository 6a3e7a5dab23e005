"""The README's example runs as it stands."""

from __future__ import annotations

from pathlib import Path

from tests.pages import programs_on, run_program


def test_the_example_prints_what_its_comments_say(tmp_path: Path) -> None:
    (source,) = programs_on("README.md")
    lines = run_program(source, tmp_path, "-W", "error")
    assert lines[0] == "Hello, Ada: number 1"
    assert lines[1] == "RuntimeError('a bug')"
    assert lines[2] == "Hello, Grace: number 1"
    assert lines[4] == "└─ greeter  [running, 1 restart]"
