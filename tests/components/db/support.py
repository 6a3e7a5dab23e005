"""Tables and helpers that the tests of the db component share."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from random import Random
from typing import Any, cast

import sqlalchemy as sa
import trio

import creche
from creche import Runtime
from creche.components import db as component
from creche.components.db.lease import DbLease
from creche.runtime.cell import Cell
from creche.runtime.node import State

METADATA = sa.MetaData()
ITEMS = sa.Table(
    "items",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),
    sa.Column("size", sa.Integer, sa.CheckConstraint("size >= 0"), nullable=False, default=0),
)
PARTS = sa.Table(
    "parts",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("item", sa.ForeignKey("items.id", deferrable=True, initially="DEFERRED"), nullable=False),
)

NAMES = sa.select(ITEMS.c.name).order_by(ITEMS.c.id)
# Never ends by itself.
ENDLESS = sa.text("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c")
MANY_RESTARTS = creche.Intensity(restarts=1_000_000, window=1.0)
AT_ONCE = creche.Backoff(first=0.0, cap=0.0)


def item(name: str) -> sa.Insert:
    return sa.insert(ITEMS).values(name=name)


def config(folder: Path, **values: Any) -> component.Config:
    return component.Config(path=str(folder / "test.db"), **values)


@asynccontextmanager
async def running(folder: Path, **values: Any) -> AsyncGenerator[tuple[Runtime, component.Db]]:
    """A runtime with a database in it, under a limit that a correct test never reaches."""
    with trio.fail_after(120):  # the random ones take that long on a machine that is busy otherwise
        async with creche.open_runtime("test", intensity=MANY_RESTARTS) as runtime:
            spec = component.component(config(folder, **values), metadata=METADATA)
            yield runtime, await runtime.start(spec.options(backoff=AT_ONCE))


async def names(db: component.Db) -> list[str]:
    return [row.name for row in await db.all(NAMES)]


def raw(folder: Path) -> closing[sqlite3.Connection]:
    """Another process's connection: it never waits for a lock."""
    return closing(sqlite3.connect(folder / "test.db", timeout=0, isolation_level=None))


def cell_of(db: component.Db) -> Cell:
    return cast("Cell", db._node)


def lease_of(db: component.Db) -> DbLease:
    return cast("DbLease", cell_of(db).granted)


async def killed(runtime: Runtime, db: component.Db) -> None:
    """Kill the actor and wait until that incarnation is over."""
    lease = lease_of(db)
    assert runtime.kill(db, "test")
    while cell_of(db).granted is lease:
        await cell_of(db).wait_for_change()


async def kill_again_and_again(runtime: Runtime, db: component.Db, random: Random) -> None:
    """Mostly when it is up again: where a start takes longer than the time between two kills, it never would be."""
    while True:
        await trio.sleep(random.uniform(0, 0.004))
        runtime.kill(db, "chaos")
        while random.random() < 0.7 and cell_of(db).state is not State.RUNNING:
            await cell_of(db).wait_for_change()


async def begin_and_hold(
    db: component.Db, name: str, task_status: trio.TaskStatus[Callable[[], None]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Store `name` in a transaction that stays open until the function handed to the starter is called."""
    release = trio.Event()
    async with db.transaction() as tx:
        await tx.execute(item(name))
        task_status.started(release.set)
        await release.wait()


async def outcome_of(fn: Callable[[], Awaitable[object]]) -> str:
    """How a transaction ended, as its caller was told: it must be stored ``all``, ``nothing`` of it, or ``either``."""
    try:
        await fn()
    except (component.TransactionLost, creche.NotDelivered):
        return "nothing"
    except creche.OutcomeUnknown:
        return "either"
    return "all"
