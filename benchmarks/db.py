"""The database component, measured: ``python -m benchmarks.db``.

Transactions, reads, and statements in one go, against raw `sqlite3` in one thread, which no server could be, and
against one visit to a thread for each statement, which is what a plain async wrapper does. All in one run, rounds
interleaved; see `_harness`. Times are wall times, because the work is done in threads: run it on a machine that is
otherwise idle.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal

import sqlalchemy as sa
import trio

import creche
from creche.components import db as c

from . import _harness as harness
from ._harness import Probe, Row

CALLERS = 64
IN_ONE_GO = 50
METADATA = sa.MetaData()
ITEMS = sa.Table(
    "items", METADATA, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String, nullable=False)
)
INSERT = sa.insert(ITEMS)
BY_ID = sa.select(ITEMS.c.name).where(ITEMS.c.id == sa.bindparam("wanted"))
RAW_INSERT = "INSERT INTO items (name) VALUES (?)"
RAW_BY_ID = "SELECT name FROM items WHERE id = ?"

Step = Callable[[c.Db], Awaitable[object]]


# --- ours -----------------------------------------------------------------------------------------------------


async def one_insert(db: c.Db) -> None:
    await db.execute(INSERT, {"name": "x"})


async def transaction(db: c.Db) -> None:
    async with db.transaction() as tx:
        await tx.execute(INSERT, {"name": "x"})
        await tx.execute(INSERT, {"name": "y"})


def two_inserts(tx: c.SyncTransaction) -> None:
    tx.execute(INSERT, {"name": "x"})
    tx.execute(INSERT, {"name": "y"})


async def transact_sync(db: c.Db) -> None:
    await db.transact_sync(two_inserts)


async def read(db: c.Db) -> None:
    await db.scalar(BY_ID, {"wanted": 1})


async def read_by_reader(db: c.Db) -> None:
    await db.reader.scalar(BY_ID, {"wanted": 1})


async def many_in_one_go(db: c.Db) -> None:
    await db.execute(INSERT, [{"name": "x"}] * IN_ONE_GO)


def ours(step: Step, callers: int, synchronous: Literal["NORMAL", "FULL"] = "NORMAL") -> Callable[[int], float]:
    """Microseconds for each step, so many callers at once."""

    async def main(operations: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            async with creche.open_runtime("bench") as runtime:
                config = c.Config(path=f"{folder}/bench.db", synchronous=synchronous)
                db = await runtime.start(c.component(config, metadata=METADATA))
                await one_insert(db)
                return await crowd(lambda: step(db), callers, operations)

    return lambda operations: trio.run(main, operations)


async def crowd(step: Callable[[], Awaitable[object]], callers: int, operations: int) -> float:
    each = max(operations // callers, 1)

    async def caller() -> None:
        for _ in range(each):
            await step()

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(caller)
    return (time.perf_counter() - began) * 1e6 / (each * callers)


# --- rivals ---------------------------------------------------------------------------------------------------


def connect(folder: str, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{folder}/bench.db", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name VARCHAR NOT NULL)")
    connection.execute(RAW_INSERT, ("x",))
    return connection


RawStep = Callable[[sqlite3.Connection], object]


def raw_insert(connection: sqlite3.Connection) -> None:
    connection.execute(RAW_INSERT, ("x",))


def raw_transaction(connection: sqlite3.Connection) -> None:
    for sql, values in (("BEGIN IMMEDIATE", ()), (RAW_INSERT, ("x",)), (RAW_INSERT, ("y",)), ("COMMIT", ())):
        connection.execute(sql, values)


def raw_read(connection: sqlite3.Connection) -> None:
    connection.execute(RAW_BY_ID, (1,)).fetchone()


def raw_many(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(RAW_INSERT, [("x",)] * IN_ONE_GO)
    connection.execute("COMMIT")


def raw(step: RawStep, synchronous: str = "NORMAL") -> Callable[[int], float]:
    """Microseconds for each step in one thread that does nothing else."""

    def run(operations: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            connection = connect(folder, synchronous)
            began = time.perf_counter()
            for _ in range(operations):
                step(connection)
            took = time.perf_counter() - began
            connection.close()
            return took * 1e6 / operations

    return run


def visiting(statements: int, sql: str, callers: int) -> Callable[[int], float]:
    """A visit to a thread for each statement; what makes a transaction of several is BEGIN, them, COMMIT."""

    async def main(operations: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            connection = connect(folder, "NORMAL")
            limiter, turn = trio.CapacityLimiter(1), trio.Lock()

            async def visit(text: str, values: tuple[object, ...] = ()) -> None:
                await trio.to_thread.run_sync(lambda: connection.execute(text, values).fetchall(), limiter=limiter)

            async def step() -> None:
                async with turn:
                    if statements == 1:
                        await visit(sql, (1,))
                        return
                    await visit("BEGIN IMMEDIATE")
                    for _ in range(statements):
                        await visit(sql, ("x",))
                    await visit("COMMIT")

            took = await crowd(step, callers, operations)
            connection.close()
            return took

    return lambda operations: trio.run(main, operations)


# --- rows -----------------------------------------------------------------------------------------------------

MEASURED: dict[str, Callable[[int], float]] = {
    "insert": ours(one_insert, CALLERS),
    "insert_full": ours(one_insert, CALLERS, "FULL"),
    "insert_c1": ours(one_insert, 1),
    "transaction": ours(transaction, CALLERS),
    "transact_sync": ours(transact_sync, CALLERS),
    "transact_sync_c1": ours(transact_sync, 1),
    "read": ours(read, CALLERS),
    "read_c1": ours(read, 1),
    "reader": ours(read_by_reader, CALLERS),
    "go": ours(many_in_one_go, 1),
    "raw_insert": raw(raw_insert),
    "raw_insert_full": raw(raw_insert, "FULL"),
    "raw_transaction": raw(raw_transaction),
    "raw_read": raw(raw_read),
    "raw_go": raw(raw_many),
    "visit_insert": visiting(1, RAW_INSERT, CALLERS),
    "visit_transaction": visiting(2, RAW_INSERT, CALLERS),
    "visit_read": visiting(1, RAW_BY_ID, CALLERS),
}
DEAR = {"go": 20, "raw_go": 20, "insert_full": 4, "raw_insert_full": 4}

ROWS = [
    Row("insert_raw", "insert", "raw_insert", None, f"one insert, {CALLERS} callers, vs raw sqlite3 in one thread"),
    Row("insert_visit", "insert", "visit_insert", 0.5, "the same vs a visit to a thread for each statement"),
    Row("insert_full_raw", "insert_full", "raw_insert_full", None, "synchronous=FULL: one insert vs raw sqlite3"),
    Row("insert_c1_raw", "insert_c1", "raw_insert", None, "one insert, one caller, vs raw sqlite3"),
    Row("transaction_raw", "transaction", "raw_transaction", None, "async with, two inserts, vs raw sqlite3"),
    Row("transaction_visit", "transaction", "visit_transaction", None, "the same vs a visit for each statement"),
    Row("sync_raw", "transact_sync", "raw_transaction", None, "transact_sync, two inserts, vs raw sqlite3"),
    Row("sync_visit", "transact_sync", "visit_transaction", 0.25, "the same vs a visit for each statement"),
    Row("sync_c1_raw", "transact_sync_c1", "raw_transaction", None, "one caller, vs raw sqlite3"),
    Row("read_raw", "read", "raw_read", None, f"read by key, {CALLERS} callers, vs raw sqlite3"),
    Row("read_visit", "read", "visit_read", 0.5, "the same vs a visit for each statement"),
    Row("read_c1_raw", "read_c1", "raw_read", None, "the same, one caller, vs raw sqlite3"),
    Row("reader_visit", "reader", "visit_read", 0.75, "the same on db.reader vs a visit for each statement"),
    Row("go_raw", "go", "raw_go", None, f"{IN_ONE_GO} inserts in one go vs raw executemany"),
]


def probes() -> list[Probe]:
    def probe(name: str, run: Callable[[int], float]) -> Probe:
        return Probe((name,), lambda size: [run(max(size.operations // 10 // DEAR.get(name, 1), CALLERS))])

    return [probe(name, run) for name, run in MEASURED.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    harness.command("db", "the database component", ROWS, partial(harness.evaluate, probes(), seed=1), arguments)


if __name__ == "__main__":
    main()
