"""The example on the component's page runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_example_of_the_page_prints_what_it_says(tmp_path: Path) -> None:
    """Sent, acknowledged, handled."""
    page = (ROOT / "docs" / "components" / "mq.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    program = tmp_path / "example.py"
    program.write_text(source, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    assert sorted(run.stdout.splitlines()) == ["offset 0", "to ada@example.org from notifications.email high"]
    assert (tmp_path / "data" / "mq.sqlite3").exists()
