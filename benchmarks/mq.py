"""The durable log, measured against SQLite itself: ``python -m benchmarks.mq``.

Two kinds of rows. Throughput: what a record costs through the log, in what it costs when `sqlite3` is used directly, in
one thread, with the same table, the same indexes and the same durability. Latency: how long one sender waits, and how
long a record needs from its `send_sync` to its handler, in single transactions of `sqlite3`.

Threads and the disk are part of it, so everything is timed with the wall clock; all figures of a row come from the same
round, whose probes are shuffled, and a row is the median over the rounds. Values have 200 bytes.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

import creche
from creche.components import mq as m
from creche.components.mq.config import Synchronous
from creche.components.mq.schema import open_database, transaction

from . import _harness as harness
from ._harness import Probe, Row, Size

VALUE = b"x" * 200
_INSERT = "INSERT INTO records VALUES ('t', 0, ?, ?, ?, NULL, ?, NULL, 200)"
_SELECT = """
SELECT "offset", key, value, headers, time FROM records
WHERE topic = 't' AND partition = 0 AND "offset" >= ? ORDER BY "offset" LIMIT 250
"""
Body = Callable[[creche.Runtime, m.Mq, int], Awaitable[float]]


# --- SQLite itself ------------------------------------------------------------------------------------------------


def sqlite(synchronous: Synchronous, batch: int, size: Size) -> Sequence[float]:
    """Microseconds for each record, in transactions of so many."""
    operations = size.share(40) if batch == 1 else size.operations
    with tempfile.TemporaryDirectory() as folder:
        db = open_database(f"{folder}/log", synchronous, 5.0)
        began = time.perf_counter()
        for first in range(0, operations, batch):
            with transaction(db):
                rows = [(number, b"key", VALUE, 0.0) for number in range(first, first + batch)]
                db.executemany(_INSERT, rows)
        elapsed = time.perf_counter() - began
        db.close()
    return [elapsed / operations * 1e6]


def sqlite_reads(size: Size) -> Sequence[float]:
    """Microseconds for each record that is read, 250 at a time."""
    with tempfile.TemporaryDirectory() as folder:
        db = open_database(f"{folder}/log", "normal", 5.0)
        with transaction(db):
            db.executemany(_INSERT, [(number, b"key", VALUE, 0.0) for number in range(size.operations)])
        began = time.perf_counter()
        for first in range(0, size.operations, 250):
            _read(db, first)
        elapsed = time.perf_counter() - began
        db.close()
    return [elapsed / size.operations * 1e6]


def _read(db: sqlite3.Connection, first: int) -> None:
    db.execute(_SELECT, (first,)).fetchall()


# --- the log ------------------------------------------------------------------------------------------------------


def message(number: int) -> m.Message:
    return m.Message("t", VALUE, b"%d" % (number % 64))


async def senders(_: creche.Runtime, mq: m.Mq, operations: int, *, tasks: int) -> float:
    """So many tasks, each of which waits for its acknowledgement."""

    async def send(count: int) -> None:
        for number in range(count):
            await mq.send_sync(message(number))

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _task in range(tasks):
            nursery.start_soon(send, max(1, operations // tasks))
    return (time.perf_counter() - began) / (max(1, operations // tasks) * tasks)


async def accepted(_: creche.Runtime, mq: m.Mq, operations: int) -> float:
    """One task that hands everything over and waits at the end."""
    began = time.perf_counter()
    for number in range(operations):
        await mq.send(message(number))
    await mq.flush()
    return (time.perf_counter() - began) / operations


async def batches(_: creche.Runtime, mq: m.Mq, operations: int) -> float:
    began = time.perf_counter()
    for first in range(0, operations, 500):
        await mq.send_batch([message(number) for number in range(first, first + 500)])
    return (time.perf_counter() - began) / (-(-operations // 500) * 500)


async def consumed(runtime: creche.Runtime, mq: m.Mq, operations: int, *, concurrency: int) -> float:
    """What lies in the log, through handlers that do nothing, until the last one is done."""
    count, done = 0, trio.Event()

    async def handle(_record: m.Received) -> None:
        nonlocal count
        count += 1
        if count == operations:
            done.set()

    await mq.send_batch([message(number) for number in range(operations)])
    began = time.perf_counter()
    await runtime.start(m.consumer(mq, "g", "t", handle, concurrency=concurrency))
    await done.wait()
    return (time.perf_counter() - began) / operations


async def end_to_end(runtime: creche.Runtime, mq: m.Mq, operations: int) -> float:
    """From the beginning of a `send_sync` to the handler, the median of records that are sent one by one."""
    samples: list[float] = []
    handled = trio.Event()

    async def handle(_record: m.Received) -> None:
        samples.append(time.perf_counter())
        handled.set()

    await runtime.start(m.consumer(mq, "g", "t", handle))
    for number in range(operations):
        handled = trio.Event()
        began = time.perf_counter()
        await mq.send_sync(message(number))
        await handled.wait()
        samples[-1] -= began
    return harness.percentile(samples, 0.5)


def probe(figure: str, body: Body, divisor: int = 1, synchronous: Synchronous = "normal") -> Probe:
    async def main(operations: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            config = m.Config(path=f"{folder}/log", synchronous=synchronous, max_buffered=100_000)
            async with creche.open_runtime("benchmark") as runtime:
                mq = await runtime.start(m.component(config))
                return await body(runtime, mq, operations) * 1e6

    return Probe((figure,), lambda size: [trio.run(main, size.share(divisor))])


PROBES = [
    Probe(("sqlite1",), partial(sqlite, "normal", 1)),
    Probe(("sqlite500",), partial(sqlite, "normal", 500)),
    Probe(("sqlite1_full",), partial(sqlite, "full", 1)),
    Probe(("sqlite_reads",), sqlite_reads),
    probe("one", partial(senders, tasks=1), 40),
    probe("one_full", partial(senders, tasks=1), 40, "full"),
    probe("sixteen", partial(senders, tasks=16), 10),
    probe("many", partial(senders, tasks=256), 4),
    probe("many_full", partial(senders, tasks=256), 4, "full"),
    probe("send", accepted, 2),
    probe("send_batch", batches, 2),
    probe("consumed", partial(consumed, concurrency=1), 2),
    probe("consumed16", partial(consumed, concurrency=16), 2),
    probe("end_to_end", end_to_end, 40),
]
ROWS = [
    Row("one/sqlite", "one", "sqlite1", None, "latency of send_sync alone, in transactions of sqlite3 with one record"),
    Row("one/sqlite, full", "one_full", "sqlite1_full", None, "the same, where each transaction waits for the disk"),
    Row("end to end/sqlite", "end_to_end", "sqlite1", None, "latency from send_sync to the handler, in the same"),
    Row("16 tasks/sqlite", "sixteen", "sqlite1", None, "a record of 16 tasks that each wait, in the same"),
    Row("256 tasks/sqlite", "many", "sqlite1", None, "a record of 256 tasks that each wait, in the same"),
    Row("256 tasks/sqlite, full", "many_full", "sqlite1_full", None, "the same, waiting for the disk"),
    Row("send/limit", "send", "sqlite500", None, "a record of send, in records of sqlite3, 500 in a transaction"),
    Row("send_batch/limit", "send_batch", "sqlite500", None, "a record of send_batch, 500 at a time, in the same"),
    Row("consumed/limit", "consumed", "sqlite_reads", None, "a record handled, in records that sqlite3 reads"),
    Row("consumed by 16/limit", "consumed16", "sqlite_reads", None, "the same with a concurrency of 16"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    harness.command("mq", "the log", ROWS, partial(harness.evaluate, PROBES), arguments)


if __name__ == "__main__":
    main()
