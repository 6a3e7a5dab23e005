"""What waits together goes to the thread together: one commit for many, and each with its own outcome."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche.components import db as component
from creche.components.db import sqlite as component_sqlite
from creche.components.db.line import Job
from creche.testing import run as run_deterministically

from .support import ENDLESS, ITEMS, METADATA, PARTS, begin_and_hold, config, item, names, raw, running


class Visits:
    """Counts the transactions that are committed to a file, by its write-ahead log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def commits(self) -> int:
        """In the log a commit is a frame whose header names the size of the database."""
        data = (self._folder / "test.db-wal").read_bytes()
        page = int.from_bytes(data[8:12], "big")
        frames = range(32, len(data), page + 24)
        return sum(1 for at in frames if data[at + 4 : at + 8] != bytes(4))


Work = Callable[[], Awaitable[object]]


async def together(db: component.Db, *works: Work) -> None:
    """Have all of them wait behind an open transaction, and then go at once, in their order."""
    async with trio.open_nursery() as nursery:
        release = await nursery.start(begin_and_hold, db, "first")
        for work in works:
            nursery.start_soon(work)
            await wait_all_tasks_blocked()
        release()


def adding(db: component.Db, name: str) -> Work:
    return lambda: db.execute(item(name))


async def test_what_waits_together_is_committed_together(tmp_path: Path) -> None:
    """Twenty writers, one commit: the disk is waited for once."""
    async with running(tmp_path, synchronous="FULL") as (_, db):
        await db.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
        visits = Visits(tmp_path)
        await together(db, *(adding(db, f"n{number:02}") for number in range(20)))
        assert visits.commits() == 2  # that of the one before them, and theirs
        assert await names(db) == ["first", *(f"n{number:02}" for number in range(20))]


async def test_a_deferred_constraint_of_one_does_not_take_the_others_along(tmp_path: Path) -> None:
    """It refuses the common COMMIT; then each is done by itself, and only the guilty one is refused."""
    refused: list[component.Conflict] = []

    async def guilty() -> None:
        try:
            await db.execute(sa.insert(PARTS).values(item=777))
        except component.ForeignKeyViolation as error:
            refused.append(error)

    async with running(tmp_path) as (_, db):
        await together(db, adding(db, "a"), guilty, adding(db, "b"))
        assert len(refused) == 1
        assert await names(db) == ["first", "a", "b"]
        assert await db.scalar(sa.select(sa.func.count()).select_from(PARTS)) == 0


async def test_a_cancelled_one_does_not_take_the_others_along(tmp_path: Path) -> None:
    """SQLite rolls everything back for the interrupted one; the others are done again and never know."""
    numbers = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
    endless = sa.text(f"INSERT INTO items (name, size) {numbers} SELECT x, 0 FROM c")
    scope = trio.CancelScope()

    async def guilty() -> None:
        with scope:
            await db.execute(endless)

    async with running(tmp_path) as (_, db), trio.open_nursery() as nursery:
        release = await nursery.start(begin_and_hold, db, "first")
        for work in (adding(db, "a"), guilty, adding(db, "b")):
            nursery.start_soon(work)
            await wait_all_tasks_blocked()
        release()
        await wait_all_tasks_blocked(0.01)
        scope.cancel()
        while len(stored := await names(db)) < 3:
            await trio.lowlevel.checkpoint()
        assert stored == ["first", "a", "b"]
        assert scope.cancelled_caught


async def test_one_that_makes_the_database_roll_back_does_not_take_the_others_along(tmp_path: Path) -> None:
    """Those before it in the same visit are done again by themselves, those behind it once."""

    async def guilty() -> None:
        with pytest.raises(component.UniqueViolation):
            await db.execute(sa.text("INSERT OR ROLLBACK INTO items (name, size) VALUES ('first', 0)"))

    async with running(tmp_path) as (_, db):
        await together(db, adding(db, "a"), guilty, adding(db, "b"))
        assert await names(db) == ["first", "a", "b"]


@pytest.mark.parametrize("sql", ["VACUUM", "PRAGMA optimize", "CREATE TABLE t (x)", "BEGIN"])
async def test_what_cannot_share_a_transaction_goes_by_itself(tmp_path: Path, sql: str) -> None:
    """It comes in its order, between the others."""
    async with running(tmp_path) as (_, db):
        await together(db, adding(db, "a"), lambda: db.execute(sa.text(sql)), adding(db, "b"))
        with raw(tmp_path) as other:
            assert [name for (name,) in other.execute("SELECT name FROM items ORDER BY id")] == ["first", "a", "b"]


async def test_readers_among_the_writers_are_not_held_up_by_another_process(tmp_path: Path) -> None:
    """The lock is for those who write; who only reads has its answer."""
    answers: list[object] = []

    async def read() -> None:
        answers.append(await db.scalar(sa.select(sa.func.count()).select_from(ITEMS)))
        nursery.cancel_scope.cancel()

    async with running(tmp_path, busy_timeout=20.0) as (_, db):
        with raw(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(db.execute, item("a"))
                nursery.start_soon(read)
        assert answers == [0]


async def test_a_slow_one_does_not_hold_up_those_that_came_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A visit begins with nothing more when its time is up: the rest stays first in line, and can still leave."""
    monkeypatch.setattr(component_sqlite, "VISIT_BUDGET", 0.0)
    async with running(tmp_path) as (_, db):
        await together(db, *(adding(db, f"n{number}") for number in range(5)))
        assert await names(db) == ["first", "n0", "n1", "n2", "n3", "n4"]


async def test_a_function_runs_in_the_database_s_thread_and_may_run_again(tmp_path: Path) -> None:
    """When a common COMMIT is refused: so it should only use its transaction."""
    threads: list[int] = []

    def add(tx: component.SyncTransaction, name: str) -> None:
        threads.append(threading.get_ident())
        tx.execute(item(name))

    async def guilty() -> None:
        with pytest.raises(component.ForeignKeyViolation):
            await db.transact_sync(lambda tx: tx.execute(sa.insert(PARTS).values(item=777)))

    async with running(tmp_path) as (_, db):
        await together(db, lambda: db.transact_sync(add, "a"), guilty)
        assert await names(db) == ["first", "a"]
        assert len(threads) == 2
        assert threading.get_ident() not in threads


async def test_a_function_cannot_be_used_for_what_it_is_not(tmp_path: Path) -> None:
    """Its transaction ends with it, and it neither commits nor rolls back itself."""
    kept: list[component.SyncTransaction] = []
    async with running(tmp_path) as (_, db):
        await db.transact_sync(kept.append)
        with pytest.raises(trio.ClosedResourceError):
            kept[0].execute(item("late"))
        for sql in ("COMMIT", "ROLLBACK", "begin", " end"):
            with pytest.raises(component.StatementInvalid, match="leaves BEGIN"):
                await db.transact_sync(lambda tx, sql=sql: tx.execute(sa.text(sql)))  # type: ignore[misc]
        assert await names(db) == []


async def test_a_function_that_swallows_its_interruption_has_stored_nothing(tmp_path: Path) -> None:
    """Cancelled is cancelled: COMMIT is not sent for it."""

    def stubborn(tx: component.SyncTransaction) -> None:
        tx.execute(item("a"))
        try:
            tx.scalar(ENDLESS)
        except Exception:
            begun.set()

    begun = threading.Event()
    async with running(tmp_path) as (_, db):
        with trio.move_on_after(0.02) as scope:
            await db.transact_sync(stubborn)
        assert begun.is_set()
        assert scope.cancelled_caught
        assert await names(db) == []


async def test_a_transaction_may_do_several_things_in_one_visit(tmp_path: Path) -> None:
    """`run_sync` inside of it: part of the transaction, undone with it."""

    def add(tx: component.SyncTransaction) -> int:
        tx.execute(item("a"))
        return tx.scalar(sa.select(sa.func.count()).select_from(ITEMS)) or 0

    async with running(tmp_path) as (_, db):
        async with db.transaction() as tx:
            await tx.execute(item("b"))
            assert await tx.run_sync(add) == 2
        with pytest.raises(component.UniqueViolation):
            async with db.transaction() as tx:
                await tx.execute(item("c"))
                await tx.run_sync(add)
        assert await names(db) == ["b", "a"]


async def test_several_reads_in_one_go_see_one_moment(tmp_path: Path) -> None:
    """Whatever is committed between them."""

    def look_twice(tx: component.SyncTransaction) -> tuple[object, object]:
        count = sa.select(sa.func.count()).select_from(ITEMS)
        first = tx.scalar(count)
        with raw(tmp_path) as other:
            other.execute("INSERT INTO items (name, size) VALUES ('x', 0)")
        return first, tx.scalar(count)

    async with running(tmp_path) as (_, db):
        assert await db.reader.transact_sync(look_twice) == (0, 0)
        assert await names(db) == ["x"]


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    def __init__(self) -> None:
        self.count = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1

    async def of(self, work: Work) -> int:
        before = self.count
        trio.lowlevel.add_instrument(self)
        await work()
        trio.lowlevel.remove_instrument(self)
        return self.count - before


async def test_a_lone_job_takes_no_other_task_s_time(tmp_path: Path) -> None:
    """Its caller goes to the thread itself, in fewer steps than `trio.to_thread.run_sync`; in a transaction, too."""
    steps = Steps()
    async with running(tmp_path) as (_, db):
        bare = await steps.of(lambda: trio.to_thread.run_sync(int))
        assert await steps.of(adding(db, "a")) < bare
        async with db.transaction() as tx:
            await tx.execute(item("b"))
            assert await steps.of(lambda: tx.execute(item("c"))) < bare


async def test_a_visit_that_fails_crashes_the_actor_and_its_caller_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a bug, so nobody knows what is stored; the next incarnation serves those who waited."""
    bugs = [RuntimeError("a bug")]
    visit = component_sqlite.Sqlite.visit

    def failing(self: component_sqlite.Sqlite, jobs: Sequence[Job], roll_back: bool = False) -> None:
        if jobs and bugs:
            raise bugs.pop()
        visit(self, jobs, roll_back)

    monkeypatch.setattr(component_sqlite.Sqlite, "visit", failing)
    async with running(tmp_path) as (_, db):
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await db.execute(item("a"))
        assert isinstance(caught.value.__cause__, RuntimeError)
        await db.execute(item("b"))
        assert (await db.statistics()).incarnation == 2
        assert await names(db) == ["b"]


async def test_without_a_thread_to_be_had_callers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may be out of threads; the actor crashes of it, and is there again when there are some."""

    def none_left(*_args: object) -> None:
        raise RuntimeError("can't start new thread")

    async with running(tmp_path) as (_, db):
        with monkeypatch.context() as patch:
            patch.setattr(trio.lowlevel, "start_thread_soon", none_left)
            with pytest.raises(creche.OutcomeUnknown):
                await db.execute(item("a"))
        await db.execute(item("b"))
        assert await names(db) == ["b"]


async def test_the_readers_may_be_none(tmp_path: Path) -> None:
    """Then the connection that writes does their work, in turn."""
    async with running(tmp_path, pool_size=0) as (_, db):
        await db.execute(item("a"))
        assert await db.reader.scalar(sa.select(ITEMS.c.name)) == "a"


async def test_the_lines_can_be_seen(tmp_path: Path) -> None:
    """As states, not sums: who waits now, and whether a transaction is open."""
    async with running(tmp_path) as (_, db), trio.open_nursery() as nursery:
        assert await db.statistics() == component.Statistics(0, 0, False, 1)
        release = await nursery.start(begin_and_hold, db, "first")
        nursery.start_soon(db.execute, item("a"))
        await wait_all_tasks_blocked()
        assert await db.statistics() == component.Statistics(1, 0, True, 1)
        release()


def test_it_works_in_a_deterministic_run(tmp_path: Path) -> None:
    """Without threads, and the same each time: cancels and kills included."""

    async def scene(folder: Path) -> list[str]:
        async with creche.open_runtime("test") as runtime:
            db = await runtime.start(component.component(config(folder), metadata=METADATA))
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(db.execute, item(f"n{number}"))
            async with db.transaction() as tx:
                await tx.execute(item("t"))
            runtime.kill(db, "test")
            await db.reader.scalar(sa.text("SELECT 1"))
            return await names(db)

    first = run_deterministically(scene, tmp_path / "a", seed=1)
    assert first == run_deterministically(scene, tmp_path / "b", seed=1)
    assert sorted(first) == [*(f"n{number}" for number in range(10)), "t"]


PROGRAM = """
import sys, trio, creche, sqlalchemy as sa
from creche.components import db as c
metadata = sa.MetaData()
rows = sa.Table("rows", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("half", sa.Integer))

async def write(db, worker):
    number = 0
    while True:
        key = worker * 1000000 + number
        if number % 2:
            await db.execute_many(*[sa.insert(rows).values(id=2 * key + half, half=half + 1) for half in (0, 1)])
        else:
            async with db.transaction() as tx:
                await tx.execute(sa.insert(rows).values(id=2 * key, half=1))
                await tx.execute(sa.insert(rows).values(id=2 * key + 1, half=2))
        print(key, flush=True)
        number += 1

async def main():
    async with creche.open_runtime("test") as runtime:
        db = await runtime.start(c.component(c.Config(path=sys.argv[1], synchronous="FULL"), metadata=metadata))
        async with trio.open_nursery() as nursery:
            for worker in range(4):
                nursery.start_soon(write, db, worker)

trio.run(main)
"""


def test_killed_with_signal_9_all_that_was_reported_is_stored_and_nothing_half_done(tmp_path: Path) -> None:
    """The process is gone between two instructions; the file has each reported transaction, and only whole ones."""
    path = tmp_path / "test.db"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(60)]
    process.kill()
    reported += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.stdout.close()
    process.wait()
    with closing(sqlite3.connect(path)) as after:
        stored = [row_id for (row_id,) in after.execute("SELECT id FROM rows")]
        assert after.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    whole = {row_id // 2 for row_id in stored}
    assert sorted(stored) == sorted(2 * key + half for key in whole for half in (0, 1))
    assert set(reported) <= whole
