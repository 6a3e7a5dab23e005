"""The example on the component's page runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_example_of_the_page_answers(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "components" / "http.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    program = tmp_path / "example.py"
    program.write_text(source, encoding="utf-8")
    environment = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    run = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("HTTP/1.1 200")
    assert "hello" in run.stdout
