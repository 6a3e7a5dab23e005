"""Pages that are sessions at a terminal: files to save, commands to type, and what they print.

A block of Python or INI whose first line is a comment with a file name is that file. A block of ``console`` has
commands, each after ``$ ``, and below each what it prints.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.pages import ROOT

_BLOCK = re.compile(r"^```(python|ini|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What differs from run to run: times of day, how long a run of pytest took, in which folder it was.
_VARIABLE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z| in \d+\.\d+s|\b[0-9a-f]{32}\b")


@dataclass(frozen=True)
class File:
    """A file to save."""

    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command to type, and the lines that it prints."""

    line: str
    output: list[str]


def steps_of(page: str) -> list[File | Command]:
    """The files and commands of a page, given by its path from the root of the project, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [step for language, block in _BLOCK.findall(text) for step in _steps(language, block)]


def _steps(language: str, block: str) -> Iterator[File | Command]:
    if language != "console":
        first = block.partition("\n")[0]
        assert re.fullmatch(r"# [\w.]+", first), f"a block must begin with the name of its file, not with {first!r}"
        yield File(first.removeprefix("# "), block)
        return
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, *output = part.splitlines()
        yield Command(line, comparable(output))


def comparable(lines: list[str]) -> list[str]:
    """Lines without what differs from run to run."""
    return [_VARIABLE.sub("…", line).rstrip() for line in lines]


def save(file: File, folder: Path) -> None:
    """Save a file of a page."""
    (folder / file.name).write_text(file.text, encoding="utf-8")


def environment(**more: str) -> dict[str, str]:
    """The environment of a command: creche is found, and nothing of the tests' own environment counts."""
    return {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}


def output_of(command: Command, folder: Path) -> list[str]:
    """Type a command (`python` or `pytest`); the lines that it prints. It must end well and complain of nothing."""
    program, *arguments = shlex.split(command.line)
    how = {"python": ["-W", "error"], "pytest": ["-W", "error", "-m", "pytest", "-p", "no:cacheprovider"]}
    done = subprocess.run(
        [sys.executable, *how[program], *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return comparable(done.stdout.splitlines())
