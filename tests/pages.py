"""Running the programs that stand on the pages of the documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def programs_on(page: str, language: str = "python") -> list[str]:
    """The blocks of a page, given by its path from the root of the project, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run_program(source: str, folder: Path, *flags: str) -> list[str]:
    """The lines that a program prints, run in `folder`; it must end well, and print nothing to standard error."""
    program = folder / "example.py"
    program.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *flags, str(program)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()
