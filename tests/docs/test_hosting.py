"""The examples on the hosting page run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "hosting.md").read_text(encoding="utf-8")
EXAMPLES = dict(zip(("twisted", "asyncio"), re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), strict=True))


@pytest.mark.parametrize("source", EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_greet(source: str, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(source, encoding="utf-8")
    environment = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    run = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "Hello, world\n", "")
