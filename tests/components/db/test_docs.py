"""What the component's page says, and what importing the component costs."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from tests.pages import programs_on, run_program

from .support import raw, running

IDENTITY = sa.text("SELECT value FROM creche_meta WHERE name = 'database_id'")


def test_the_example_of_the_page_prints_what_it_says(tmp_path: Path) -> None:
    """Transferred, announced, refused: with the real log behind the relay."""
    (source,) = programs_on("docs/components/db.md")
    lines = run_program(source, tmp_path, "-W", "error")
    assert sorted(lines) == ["[('ada', 7), ('grace', 3)]", "done: ada grace 3", "unique"]


def test_importing_the_component_does_not_import_sqlalchemy(tmp_path: Path) -> None:
    """It comes with the extra, and is imported when a database is opened."""
    source = "import sys\nfrom creche.components import db\ndb.component()\nprint('sqlalchemy' in sys.modules)"
    assert run_program(source, tmp_path, "-W", "error") == ["False"]


async def test_a_copy_can_be_made_another_database(tmp_path: Path) -> None:
    """As the page says: without its identity a file gets a new one at the next start."""
    async with running(tmp_path) as (_, db):
        before = await db.scalar(IDENTITY)
    with raw(tmp_path) as other:
        other.execute("DELETE FROM creche_meta WHERE name = 'database_id'")
    async with running(tmp_path) as (_, db):
        assert await db.scalar(IDENTITY) not in (None, before)
