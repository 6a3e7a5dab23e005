"""What the component's page says, and what importing the component costs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

from .support import raw, running

ROOT = Path(__file__).parents[3]
IDENTITY = sa.text("SELECT value FROM creche_meta WHERE name = 'database_id'")


def run(folder: Path, source: str) -> list[str]:
    """The lines that a program prints; it must print nothing to standard error."""
    program = folder / "example.py"
    program.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_example_of_the_page_prints_what_it_says(tmp_path: Path) -> None:
    """Transferred, announced, refused: with the real log behind the relay."""
    page = (ROOT / "docs" / "components" / "db.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    lines = run(tmp_path, source)
    assert sorted(lines) == ["[('ada', 7), ('grace', 3)]", "done: ada grace 3", "unique"]


def test_importing_the_component_does_not_import_sqlalchemy(tmp_path: Path) -> None:
    """It comes with the extra, and is imported when a database is opened."""
    source = "import sys\nfrom creche.components import db\ndb.component()\nprint('sqlalchemy' in sys.modules)"
    assert run(tmp_path, source) == ["False"]


async def test_a_copy_can_be_made_another_database(tmp_path: Path) -> None:
    """As the page says: without its identity a file gets a new one at the next start."""
    async with running(tmp_path) as (_, db):
        before = await db.scalar(IDENTITY)
    with raw(tmp_path) as other:
        other.execute("DELETE FROM creche_meta WHERE name = 'database_id'")
    async with running(tmp_path) as (_, db):
        assert await db.scalar(IDENTITY) not in (None, before)
