"""Migrations: applied once, in order, together; and never on top of another history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

import creche
from creche.components import db as component
from creche.components.db import Migration
from creche.components.db.migrations import load
from creche.runtime.errors import StartFailed

from .support import config, killed, raw

CREATE = Migration(1, "create_pets", "CREATE TABLE pets (id INTEGER PRIMARY KEY, name TEXT NOT NULL);")
FILL = Migration(
    2,
    "fill",
    "INSERT INTO pets (name) VALUES ('a;b'); -- a comment; with a semicolon\nINSERT INTO pets (name) VALUES ('c')",
)
TRIGGER = Migration(
    3,
    "trigger",
    "CREATE TRIGGER t AFTER INSERT ON pets BEGIN UPDATE pets SET name = upper(name); SELECT 1; END;"
    "INSERT INTO pets (name) VALUES ('d');",
)


async def start(folder: Path, migrations: Sequence[Migration] | None) -> list[str]:
    """Start on the file, and stop; returns the pets."""
    async with creche.open_runtime("test") as runtime:
        db = await runtime.start(component.component(config(folder), migrations=migrations))
        return [row.name for row in await db.all(sa.text("SELECT name FROM pets ORDER BY id"))]


async def refused(folder: Path, migrations: Sequence[Migration]) -> BaseException | None:
    with pytest.raises(StartFailed) as caught:
        await start(folder, migrations)
    return caught.value.__cause__


async def test_migrations_are_applied_once_and_in_order(tmp_path: Path) -> None:
    """Whatever order they are given in; later ones are added, on what is there."""
    assert await start(tmp_path, [FILL, CREATE]) == ["a;b", "c"]
    assert await start(tmp_path, [CREATE, FILL]) == ["a;b", "c"]
    assert await start(tmp_path, [CREATE, FILL, TRIGGER]) == ["A;B", "C", "D"]
    assert await start(tmp_path, None) == ["A;B", "C", "D"]


async def test_a_restart_of_the_actor_applies_nothing_again(tmp_path: Path) -> None:
    """It checks, and goes on."""
    async with creche.open_runtime("test") as runtime:
        db = await runtime.start(component.component(config(tmp_path), migrations=[CREATE, FILL]))
        await killed(runtime, db)
        assert await db.scalar(sa.text("SELECT count(*) FROM pets")) == 2


@pytest.mark.parametrize(
    ("migrations", "version"),
    [
        ([CREATE, Migration(2, "fill", "INSERT INTO pets (name) VALUES ('other')")], 2),
        ([CREATE, Migration(2, "renamed", FILL.sql)], 2),
        ([CREATE], 2),
        ([], 1),
        ([Migration(0, "before", "SELECT 1"), CREATE, FILL], 0),
    ],
)
async def test_another_history_is_refused_and_nothing_is_changed(
    tmp_path: Path, migrations: list[Migration], version: int
) -> None:
    """Changed, renamed, gone, or inserted before: the error names the first one that differs."""
    await start(tmp_path, [CREATE, FILL])
    error = await refused(tmp_path, migrations)
    assert isinstance(error, component.MigrationsDiffer)
    assert error.version == version
    assert await start(tmp_path, [CREATE, FILL]) == ["a;b", "c"]


async def test_how_lines_end_is_no_difference(tmp_path: Path) -> None:
    """A checkout on another system must not be refused."""
    await start(tmp_path, [CREATE, FILL])
    await start(tmp_path, [CREATE, Migration(2, "fill", FILL.sql.replace("\n", "\r\n"))])


async def test_a_migration_that_fails_undoes_all_of_this_start(tmp_path: Path) -> None:
    """Those before it, too: the next start begins where this one did."""
    broken = Migration(3, "broken", "INSERT INTO pets (name) VALUES ('x'); INSERT INTO nothing VALUES (1);")
    error = await refused(tmp_path, [CREATE, FILL, broken])
    assert isinstance(error, component.MigrationFailed)
    assert (error.version, error.name) == (3, "broken")
    with raw(tmp_path) as other:
        assert other.execute("SELECT name FROM sqlite_master WHERE name = 'pets'").fetchall() == []
    assert await start(tmp_path, [CREATE]) == []


async def test_a_migration_that_ends_its_transaction_is_refused(tmp_path: Path) -> None:
    """Nobody could undo it."""
    error = await refused(tmp_path, [CREATE, Migration(2, "commit", "COMMIT")])
    assert isinstance(error, component.MigrationFailed)


def test_migrations_come_from_a_folder(tmp_path: Path) -> None:
    """The number and the name are those of the file; other files are left alone."""
    (tmp_path / "0002_fill.sql").write_text(FILL.sql)
    (tmp_path / "0001_create_pets.sql").write_text(CREATE.sql)
    (tmp_path / "README.md").write_text("about")
    assert load(tmp_path) == (CREATE, FILL)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"create.sql": "SELECT 1"}, "0001_what_they_do"),
        ({"1_a.sql": "SELECT 1", "01_b.sql": "SELECT 2"}, "number 1"),
        ({"1_a.sql": "-- nothing yet\n"}, "no statement"),
    ],
)
def test_files_that_are_wrong_are_refused_before_anything_starts(
    tmp_path: Path, files: dict[str, str], match: str
) -> None:
    """When the component is made."""
    for name, sql in files.items():
        (tmp_path / name).write_text(sql)
    with pytest.raises(component.MigrationInvalid, match=match):
        component.component(migrations=tmp_path)


def test_a_folder_that_is_not_there_is_refused() -> None:
    """It would look like an empty history."""
    with pytest.raises(component.MigrationInvalid, match="folder"):
        component.component(migrations="nowhere")
