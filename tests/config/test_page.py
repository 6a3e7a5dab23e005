"""The page about configuration says what happens: its programs and commands run as they stand."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from creche.runtime import config_fields
from creche.runtime.config_sources import ALIASES
from tests.pages import ROOT, programs_on, run_program

PAGE = "docs/config.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
SERVICE, SETTINGS = programs_on(PAGE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the files of the page."""
    (config,), (settings,) = programs_on(PAGE, "toml"), programs_on(PAGE, "yaml")
    for name, text in (("config.toml", config), ("settings.yaml", settings), ("service.py", SERVICE)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("source", [SERVICE, SETTINGS], ids=["app", "settings"])
def test_the_examples_print_what_the_page_says(source: str, folder: Path) -> None:
    """Each line of output stands on the page."""
    lines = run_program(source, folder)
    assert len(lines) == 2
    for line in lines:
        assert f"`{line}`" in TEXT


@pytest.mark.parametrize(("block", "status"), [*zip(programs_on(PAGE, "console"), (0, 1), strict=True)])
def test_the_commands_print_what_the_page_says(block: str, status: int, folder: Path) -> None:
    """To the letter."""
    command, _, expected = block.removeprefix("$ ").partition("\n")
    words = shlex.split(command)
    start = words.index("creche")
    done = subprocess.run(
        [sys.executable, "-m", *words[start:]],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **dict(word.split("=", 1) for word in words[:start])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (status, expected)


def test_the_page_names_all_that_is_special() -> None:
    """Other names of sections, and the names that make a value a secret."""
    for alias, section in ALIASES.items():
        assert f"`{alias}` is `{section}`" in TEXT
    for name in config_fields.SECRET_NAMES:
        assert f"`{name}`" in TEXT
