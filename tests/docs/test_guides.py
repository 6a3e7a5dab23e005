"""The guides: each program runs as it stands, and prints what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.session import Command, File, output_of, save, steps_of

PAGES = {
    page: steps_of(f"docs/guides/{page}.md")
    for page in (
        "retry",
        "dynamic",
        "watching",
        "pools",
        "processes",
        "chaos",
        "state_machines",
        "stuck",
        "trees",
        "pipelines",
        "dead_letters",
    )
}
COMMANDS = [(page, step) for page, steps in PAGES.items() for step in steps if isinstance(step, Command)]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {step.line}" for page, step in COMMANDS])
def test_a_program_prints_what_the_page_says(page: str, command: Command, tmp_path: Path) -> None:
    """Each command of the page, in a folder with the page's files."""
    for step in PAGES[page]:
        if isinstance(step, File):
            save(step, tmp_path)
    assert output_of(command, tmp_path) == command.output


@pytest.mark.parametrize("page", PAGES)
def test_every_program_is_run(page: str) -> None:
    """Nothing on the page is left out: a file is run, or imported by one that is."""
    files = {step.name: step.text for step in PAGES[page] if isinstance(step, File)}
    run = {step.line.split()[-1] for step in PAGES[page] if isinstance(step, Command)}
    imported = {name for name in files if any(f"from {Path(name).stem} import" in files[other] for other in run)}
    assert run | imported == set(files)
