"""Backups: made while the database is in use, checked before they count, and put back."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio

import creche
from creche.components import db as component
from creche.components.db import backup as component_backup
from creche.components.mq.message import Message

from .support import config, item, names, raw, running

IDENTITY = sa.text("SELECT value FROM creche_meta WHERE name = 'database_id'")


def size_of(path: str) -> int:
    return os.path.getsize(path)


def files(folder: Path, prefix: str) -> list[Path]:
    return list(folder.glob(f"{prefix}*"))


async def test_a_backup_is_a_database_with_what_was_committed(tmp_path: Path) -> None:
    """Not what a transaction has open, which goes on meanwhile, as the readers do."""
    async with running(tmp_path) as (_, db):
        await db.execute(item("a"))
        async with db.transaction() as tx:
            await tx.publish(Message("topic", b"x"))
            await tx.execute(item("b"))
            made = await db.backup(tmp_path / "copy.db")
        assert await names(db) == ["a", "b"]
        assert made == component.check_backup(tmp_path / "copy.db")
        assert (made.database_id, made.migration, made.unsent) == (await db.scalar(IDENTITY), None, 0)
    assert made.bytes == size_of(made.path)
    async with creche.open_runtime("test") as runtime:
        copy = await runtime.start(component.component(component.Config(path=made.path)))
        assert await names(copy) == ["a"]


async def test_a_backup_is_made_while_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one moment of the database, and comes to an end, however much is committed before it is done."""
    monkeypatch.setattr(component_backup, "_PAGES_AT_ONCE", 1)
    async with running(tmp_path) as (_, db), trio.open_nursery() as nursery:

        async def write() -> None:
            for number in range(10_000):
                await db.execute_many(item(f"{number}-1"), item(f"{number}-2"))

        await db.execute(sa.text("CREATE TABLE ballast AS SELECT zeroblob(2000000) AS b"))  # some 500 pages
        nursery.start_soon(write)
        for number in range(3):
            await db.backup(tmp_path / f"{number}.db")
        nursery.cancel_scope.cancel()
    sizes = []
    for number in range(3):
        async with creche.open_runtime("test") as runtime:
            copy = await runtime.start(component.component(component.Config(path=str(tmp_path / f"{number}.db"))))
            sizes.append(len(await names(copy)))
    assert all(size % 2 == 0 for size in sizes)
    assert sizes == sorted(sizes)


async def test_a_backup_never_replaces_a_file(tmp_path: Path) -> None:
    """It may be the last good one."""
    async with running(tmp_path) as (runtime, db):
        (tmp_path / "copy.db").write_text("precious")
        with pytest.raises(FileExistsError):
            await db.backup(tmp_path / "copy.db")
        assert (tmp_path / "copy.db").read_text() == "precious"
        assert runtime.node_of(db).incarnation == 1


async def test_a_backup_that_cannot_be_made_harms_nobody(tmp_path: Path) -> None:
    """The error is the system's own, the actor lives, and no part of a file is left."""
    async with running(tmp_path) as (runtime, db):
        with pytest.raises(creche.Unavailable):
            await db.backup(tmp_path / "nowhere" / "copy.db")
        assert runtime.node_of(db).incarnation == 1


async def test_a_cancelled_backup_leaves_no_file(tmp_path: Path) -> None:
    """Neither a whole one nor a part; the next one can be made at once."""
    async with running(tmp_path) as (_, db):
        await db.execute(sa.text("CREATE TABLE ballast (b BLOB)"))
        many = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 8000)"
        await db.execute(sa.text(f"INSERT INTO ballast {many} SELECT zeroblob(3500) FROM c"))
        with trio.move_on_after(0.001) as scope:
            await db.backup(tmp_path / "copy.db")
        assert scope.cancelled_caught
        assert files(tmp_path, "copy") == []
        await db.backup(tmp_path / "copy.db")


@pytest.mark.parametrize("damage", ["text", "page", "foreign key", "no tables"])
async def test_a_damaged_copy_is_found_out(tmp_path: Path, damage: str) -> None:
    """By reading all of it; the problems are told, and it is not put in anybody's place."""
    copy = tmp_path / "copy.db"
    async with running(tmp_path) as (_, db):
        for number in range(200):
            await db.execute(item(f"{number:0100}"))
        await db.backup(copy)
    if damage == "text":
        copy.write_bytes(b"no database" * 1000)
    elif damage == "page":
        data = bytearray(copy.read_bytes())
        data[-6000:-2000] = b"\xff" * 4000
        copy.write_bytes(data)
    else:
        with closing(sqlite3.connect(copy)) as broken:
            broken.execute(
                "INSERT INTO parts (item) VALUES (777)" if damage == "foreign key" else "DROP TABLE creche_meta"
            )
            broken.commit()
    with pytest.raises(component.BackupDamaged) as caught:
        component.check_backup(copy)
    assert caught.value.problems
    with pytest.raises(component.BackupDamaged):
        component.restore(copy, tmp_path / "restored.db")
    assert files(tmp_path, "restored") == []


async def test_a_restored_database_is_another_one_with_the_same_data(tmp_path: Path) -> None:
    """Its outbox begins anew, so it must not be taken for the one that the log knows."""
    async with running(tmp_path) as (_, db):
        await db.execute(item("a"))
        await db.backup(tmp_path / "copy.db")
        before = await db.scalar(IDENTITY)
        await db.execute(item("lost"))
    with pytest.raises(FileExistsError):
        component.restore(tmp_path / "copy.db", tmp_path / "test.db")
    for file in files(tmp_path, "test.db"):
        file.unlink()
    component.restore(tmp_path / "copy.db", tmp_path / "test.db")
    async with running(tmp_path) as (_, db):
        assert await names(db) == ["a"]
        assert await db.scalar(IDENTITY) not in (None, before)
    assert component.check_backup(tmp_path / "copy.db").database_id == before


async def test_a_missing_file_is_not_made_where_that_is_off(tmp_path: Path) -> None:
    """A mistyped path fails the start instead of beginning an empty database."""
    async with creche.open_runtime("test") as runtime:
        with pytest.raises(creche.StartFailed) as caught:
            await runtime.start(component.component(config(tmp_path, create=False)))
    assert isinstance(caught.value.__cause__, creche.ConfigInvalid)
    assert files(tmp_path, "test.db") == []
    async with running(tmp_path):
        pass
    async with running(tmp_path, create=False) as (_, db):
        assert await names(db) == []
    with raw(tmp_path) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
