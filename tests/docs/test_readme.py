"""The README's example runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_example_prints_what_its_comments_say(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    program = tmp_path / "hello.py"
    program.write_text(source, encoding="utf-8")
    environment = {"PYTHONPATH": str(README.parent), "PYTHONUTF8": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "error", str(program)], env=environment, capture_output=True, text=True, check=True
    )
    lines = run.stdout.splitlines()
    assert lines[0] == "Hello, Ada: number 1"
    assert lines[1] == "RuntimeError('a bug')"
    assert lines[2] == "Hello, Grace: number 1"
    assert lines[4] == "└─ greeter  [running, 1 restart]"
    assert run.stderr == ""
