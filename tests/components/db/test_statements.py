"""Statements outside of transactions: results, errors that are answers, other processes, cancels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trio
from sqlalchemy.event import listen
from trio.testing import wait_all_tasks_blocked

import creche
from creche.components import db as component
from creche.runtime.errors import NotStarted, StartFailed, Unavailable
from creche.runtime.events import Event

from .support import ENDLESS, ITEMS, METADATA, PARTS, cell_of, config, item, killed, names, raw, running

# --- results ----------------------------------------------------------------------------------------------------------


async def test_execute_tells_what_a_statement_did(tmp_path: Path) -> None:
    """Rows affected, the new row's key, the rows returned."""
    async with running(tmp_path) as (_, db):
        one = await db.execute(item("a"))
        assert (one.rowcount, one.lastrowid, one.rows) == (1, 1, [])
        two = await db.execute(sa.insert(ITEMS), [{"name": "b"}, {"name": "c"}])
        assert (two.rowcount, two.lastrowid) == (2, None)
        updated = await db.execute(sa.update(ITEMS).where(ITEMS.c.id > 1).values(size=7))
        assert (updated.rowcount, updated.lastrowid) == (2, None)
        returned = await db.execute(sa.delete(ITEMS).where(ITEMS.c.id == 3).returning(ITEMS.c.name, ITEMS.c.size))
        assert returned.rowcount == 1
        assert returned.rows == [("c", 7)]
        assert returned.rows[0].name == "c"


async def test_rows_can_be_asked_for_in_four_ways(tmp_path: Path) -> None:
    """first: a row or None; one: exactly one; all: a list; scalar: the first column of the first row, or None."""
    async with running(tmp_path) as (_, db):
        everything = sa.select(ITEMS.c.id, ITEMS.c.name).order_by(ITEMS.c.id)
        assert await db.first(everything) is None
        assert await db.scalar(everything) is None
        assert await db.all(everything) == []
        await db.execute_many(item("a"), item("b"))
        assert await db.first(everything) == (1, "a")
        assert await db.one(everything.where(ITEMS.c.name == "b")) == (2, "b")
        assert await db.all(everything) == [(1, "a"), (2, "b")]
        assert await db.scalar(sa.text("SELECT max(id) FROM items WHERE id < :limit"), {"limit": 2}) == 1


async def test_one_says_when_it_is_not_one(tmp_path: Path) -> None:
    """No row is an answer about the data; several are a mistake in the statement."""
    async with running(tmp_path) as (_, db):
        with pytest.raises(component.RowNotFound) as caught:
            await db.one(sa.select(ITEMS))
        assert isinstance(caught.value, creche.DomainError)
        assert caught.value.http_status == 404
        await db.execute_many(item("a"), item("b"))
        with pytest.raises(component.MultipleRows):
            await db.one(sa.select(ITEMS))


async def test_rows_outlive_the_connection_they_came_from(tmp_path: Path) -> None:
    """They are complete values: a crash of the actor does not reach them."""
    async with running(tmp_path) as (runtime, db):
        await db.execute(item("a"))
        rows = await db.all(sa.select(ITEMS))
        await killed(runtime, db)
        assert await names(db) == ["a"]
        assert cell_of(db).incarnation == 2
        assert (rows[0].name, rows[0]._mapping["size"]) == ("a", 0)


async def test_a_statement_of_which_only_the_first_row_is_wanted_is_finished_all_the_same(tmp_path: Path) -> None:
    """An INSERT .. RETURNING of two rows stores both, and holds no lock when `first` has returned."""
    async with running(tmp_path) as (_, db):
        insert = sa.insert(ITEMS).values([{"name": "a"}, {"name": "b"}]).returning(ITEMS.c.name)
        assert await db.first(insert) == ("a",)
        with raw(tmp_path) as other:
            other.execute("INSERT INTO items (name, size) VALUES ('c', 0)")
        assert await names(db) == ["a", "b", "c"]


async def test_execute_many_is_all_or_nothing(tmp_path: Path) -> None:
    """If one statement fails, those before it are undone too."""
    async with running(tmp_path) as (_, db):
        with pytest.raises(component.Conflict):
            await db.execute_many(item("a"), item("b"), item("a"))
        assert await names(db) == []
        results = await db.execute_many(item("a"), sa.select(ITEMS.c.name))
        assert results[1].rows == [("a",)]


# --- errors that are answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "kind", "text"),
    [
        (item("taken"), "unique", "items.name"),
        (item("other").values(id=1), "primary_key", "items.id"),
        (sa.text("INSERT INTO items (name, size) VALUES (NULL, 0)"), "not_null", "items.name"),
        (sa.insert(ITEMS).values(name="x", size=-1), "check", "size >= 0"),
        (sa.insert(PARTS).values(item=77), "foreign_key", "FOREIGN KEY"),
    ],
)
async def test_a_violated_constraint_is_a_conflict(tmp_path: Path, statement: sa.Insert, kind: str, text: str) -> None:
    """It says which sort of constraint, keeps the database's text for the logs, and harms neither data nor actor."""
    async with running(tmp_path) as (_, db):
        await db.execute(item("taken"))
        with pytest.raises(component.Conflict) as caught:
            await db.execute(statement)
        assert caught.value.kind == kind
        assert text in caught.value.constraint
        assert text not in caught.value.message  # that is for clients
        assert isinstance(caught.value, creche.DomainError)
        assert await names(db) == ["taken"]
        assert cell_of(db).incarnation == 1


@pytest.mark.parametrize(
    "statement",
    [
        sa.text("SELEC 1"),
        sa.text("SELECT * FROM nothing"),
        sa.select(sa.literal_column("nothing")),
        sa.insert(ITEMS).values(name=object()),
        "SELECT 1",
    ],
)
async def test_a_statement_that_is_wrong_crashes_nobody(tmp_path: Path, statement: sa.TextClause) -> None:
    """It is its author's mistake, told to the author; the actor that others share lives on."""
    async with running(tmp_path) as (_, db):
        with pytest.raises(component.StatementInvalid) as caught:
            await db.execute(statement)
        assert caught.value.__cause__ is not None
        assert await names(db) == []
        assert cell_of(db).incarnation == 1


async def test_a_conflict_that_leaves_a_handler_is_an_answer_of_that_handler(tmp_path: Path) -> None:
    """As a DomainError it reaches the service's own caller and does not crash the service."""

    class Service(creche.Actor):
        async def add(self, name: str) -> None:
            await db.execute(item(name))

    async with running(tmp_path) as (runtime, db):
        service = await runtime.start(creche.child(Service))
        await service.ask.add("a")
        with pytest.raises(component.Conflict):
            await service.ask.add("a")
        await service.ask.add("b")
        assert runtime.node_of(service).incarnation == 1


# --- other processes --------------------------------------------------------------------------------------------------


async def test_a_lock_held_by_another_process_for_too_long_is_reported_as_busy(tmp_path: Path) -> None:
    """After `busy_timeout`; nothing was done, and a transaction is refused in the same way."""
    async with running(tmp_path, busy_timeout=0.02) as (_, db):
        with raw(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(component.Busy) as caught:
                await db.execute(item("a"))
            assert isinstance(caught.value, Unavailable)
            assert caught.value.retry_after == 0.02
            with pytest.raises(component.Busy):
                async with db.transaction() as tx:
                    await tx.execute(item("a"))
            assert await names(db) == []  # readers are not in the way of a writer
        await db.execute(item("b"))
        assert await names(db) == ["b"]


async def test_a_lock_held_by_another_process_is_waited_for(tmp_path: Path) -> None:
    """The statement is executed as soon as the other process is done."""
    async with running(tmp_path, busy_timeout=20.0) as (_, db), trio.open_nursery() as nursery:
        with raw(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")
            nursery.start_soon(db.execute, item("a"))
            nursery.start_soon(db.transact, lambda tx: tx.execute(item("b")))
            await wait_all_tasks_blocked()
            other.execute("ROLLBACK")
        while len(await names(db)) < 2:
            await wait_all_tasks_blocked()


async def test_the_wait_for_another_process_can_be_cancelled(tmp_path: Path) -> None:
    """The caller leaves at once, and so does the next one's statement go through at once."""
    async with running(tmp_path, busy_timeout=20.0) as (_, db):
        with raw(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(db.execute, item("a"))
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert await names(db) == []


# --- cancels, slow statements -----------------------------------------------------------------------------------------


async def test_a_running_statement_ends_with_its_caller(tmp_path: Path) -> None:
    """A query that would never end is interrupted, and the connection serves the next caller."""
    async with running(tmp_path) as (_, db):
        with trio.move_on_after(0.02) as scope:
            await db.scalar(ENDLESS)
        assert scope.cancelled_caught
        assert await names(db) == []
        assert cell_of(db).incarnation == 1


async def test_an_interrupted_write_has_written_nothing(tmp_path: Path) -> None:
    """SQLite undoes the statement that was interrupted, also outside of transactions."""
    numbers = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
    slow = sa.text(f"INSERT INTO items (name, size) {numbers} SELECT x, 0 FROM c")
    async with running(tmp_path) as (_, db):
        with trio.move_on_after(0.02) as scope:
            await db.execute(slow)
        assert scope.cancelled_caught
        assert await names(db) == []


async def test_a_deadline_on_a_handler_reaches_the_statement_it_waits_for(tmp_path: Path) -> None:
    """The time given to the service's caller ends the query, and nothing is left behind."""

    class Service(creche.Actor):
        async def count(self) -> int:
            return int(await db.scalar(ENDLESS))

    async with running(tmp_path) as (runtime, db):
        service = await runtime.start(creche.child(Service))
        with pytest.raises(creche.DeadlineExceeded):
            await service.within(0.02).call(Service.count)
        assert await names(db) == []


async def test_a_slow_statement_is_an_event_without_its_values(tmp_path: Path) -> None:
    """The event shows the SQL with placeholders: values may be secrets."""
    seen: list[Event] = []
    async with running(tmp_path, slow_after=1e-9) as (runtime, db):
        runtime.events.subscribe(seen.append)
        await db.execute(item("secret"))
    (event,) = [event for event in seen if isinstance(event, component.SlowStatement)]
    assert event.sql.startswith("INSERT INTO items")
    assert "secret" not in event.sql
    assert event.seconds > 0
    assert event.path == "root/db"


async def test_a_statement_that_is_fast_enough_is_no_event(tmp_path: Path) -> None:
    """Only what takes longer than `slow_after` is reported."""
    seen: list[Event] = []
    async with running(tmp_path, slow_after=1000.0) as (runtime, db):
        runtime.events.subscribe(seen.append)
        await db.execute(item("a"))
    assert not [event for event in seen if isinstance(event, component.SlowStatement)]


# --- starting ---------------------------------------------------------------------------------------------------------


async def test_tables_are_created_once_and_data_survive_a_restart(tmp_path: Path) -> None:
    """Starting again on the same file, by crash or by a new runtime, keeps what is there."""
    async with running(tmp_path / "new" / "folder") as (runtime, db):
        await db.execute(item("a"))
        await killed(runtime, db)
        assert await names(db) == ["a"]
        identity = await db.scalar(sa.text("SELECT value FROM creche_meta WHERE name = 'database_id'"))
    async with running(tmp_path / "new" / "folder") as (_, db):
        assert await names(db) == ["a"]
        assert await db.scalar(sa.text("SELECT value FROM creche_meta WHERE name = 'database_id'")) == identity


async def test_the_connection_is_set_up_as_the_config_says(tmp_path: Path) -> None:
    """WAL, foreign keys, the chosen durability."""
    async with running(tmp_path, synchronous="FULL") as (_, db):
        assert await db.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert await db.scalar(sa.text("PRAGMA foreign_keys")) == 1
        assert await db.scalar(sa.text("PRAGMA synchronous")) == 2


async def test_a_handle_that_is_not_started_says_so(tmp_path: Path) -> None:
    """Before the component runs, every use raises NotStarted."""
    handle = component.component(config(tmp_path), name="orders").new_handle()
    with pytest.raises(NotStarted, match="orders"):
        await handle.execute(item("a"))
    with pytest.raises(NotStarted, match="orders"):
        async with handle.transaction() as tx:
            await tx.execute(item("a"))


async def test_a_file_that_is_no_database_fails_the_start(tmp_path: Path) -> None:
    """The start fails with the reason; nothing is left open."""
    (tmp_path / "test.db").write_bytes(b"this is no database at all" * 100)
    async with creche.open_runtime("test") as runtime:
        with pytest.raises(StartFailed) as caught:
            await runtime.start(component.component(config(tmp_path), metadata=METADATA))
    assert isinstance(caught.value.__cause__, Unavailable)


async def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to guess which package to install."""
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    async with creche.open_runtime("test") as runtime:
        with pytest.raises(StartFailed, match=r"creche\[db\]"):
            await runtime.start(component.component(config(tmp_path)))


async def test_tables_that_are_there_are_left_as_they_are(tmp_path: Path) -> None:
    """Whichever way their names are written; only what is missing is made, and SQLAlchemy's events come each time."""
    before, after = sa.MetaData(), sa.MetaData()
    sa.Table("Plain", before, sa.Column("id", sa.Integer, primary_key=True))
    sa.Table("elsewhere", before, sa.Column("id", sa.Integer, primary_key=True), schema="main")
    sa.Table("PLAIN", after, sa.Column("id", sa.Integer, primary_key=True), sa.Column("new", sa.Integer))
    sa.Table("elsewhere", after, sa.Column("id", sa.Integer, primary_key=True), schema="main")
    sa.Table("late", after, sa.Column("id", sa.Integer, primary_key=True, index=True))
    made: list[list[str]] = []
    listen(after, "after_create", lambda _target, _connection, tables, **_: made.append([*map(str, tables)]))
    for metadata in (before, after, after):
        async with creche.open_runtime("test") as runtime:
            await runtime.start(component.component(config(tmp_path), metadata=metadata))
    assert made == [["late"], []]
    with raw(tmp_path) as file:
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert {"Plain", "elsewhere", "late"} <= set(tables)
        assert "PLAIN" not in tables
        assert [column[1] for column in file.execute("PRAGMA table_info(plain)")] == ["id"]
        assert file.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'late'").fetchall()


async def test_what_is_compiled_once_is_kept_across_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One SQLAlchemy engine for all connections and all lives, where the compiled statements are."""
    engines: list[sa.Engine] = []
    create = sa.create_engine

    def noting(*args: Any, **options: Any) -> sa.Engine:
        engines.append(create(*args, **options))
        return engines[-1]

    monkeypatch.setattr(sa, "create_engine", noting)
    async with running(tmp_path) as (runtime, db):
        for name in ("a", "b"):
            await db.execute(item(name))
            assert name in [row.name for row in await db.reader.all(sa.select(ITEMS.c.name))]
            await killed(runtime, db)
        assert await names(db) == ["a", "b"]
    assert len(engines) == 1
