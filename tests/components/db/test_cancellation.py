"""Cancels at every step: whatever the caller was doing, nothing is left half done and nothing is left held."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio
from trio.testing import wait_all_tasks_blocked

from creche.components import db as component
from creche.components.db.lease import DbLease
from creche.components.mq.message import Message

from .support import begin_and_hold, cell_of, item, lease_of, names, raw, running

Operation = Callable[[component.Db, str], Awaitable[object]]


class CancelAt(trio.abc.Instrument):
    """Cancels a scope after the n-th step of any task: in the middle of whatever its task waits for by then."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self.left = step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self._scope.cancel("the test's n-th step")


async def plain(db: component.Db, name: str) -> None:
    await db.execute_many(item(f"{name}-1"), item(f"{name}-2"))


async def transaction(db: component.Db, name: str) -> None:
    async with db.transaction() as tx:
        await tx.execute(item(f"{name}-1"))
        await tx.publish(Message("topic", name.encode()))
        await trio.lowlevel.checkpoint()
        await tx.execute(item(f"{name}-2"))


async def function(db: component.Db, name: str) -> None:
    def add(tx: component.SyncTransaction) -> None:
        tx.execute(item(f"{name}-1"))
        tx.publish(Message("topic", name.encode()))
        tx.execute(item(f"{name}-2"))

    await db.transact_sync(add)


async def session(db: component.Db, name: str) -> None:
    async with db.session() as orm:
        await orm.execute(item(f"{name}-1"))
        await orm.publish(Message("topic", name.encode()))
        await orm.flush()
        await orm.execute(item(f"{name}-2"))


async def published(db: component.Db, name: str) -> None:
    async with db.transaction() as tx:
        await tx.publish(Message("topic", f"{name}-1".encode()))
        await tx.publish(Message("topic", f"{name}-2".encode()))


async def stored(db: component.Db, name: str) -> int:
    """How much of an operation is stored."""
    items = await db.scalar(sa.text("SELECT count(*) FROM items WHERE name LIKE :like"), {"like": f"{name}%"})
    outbox = sa.text("SELECT count(*) FROM creche_outbox WHERE CAST(value AS TEXT) LIKE :like")
    return int(items + await db.scalar(outbox, {"like": f"{name}%"}))


def holds_nothing(db: component.Db, folder: Path) -> bool:
    """No turn is taken, nobody waits, and another process can write at once."""
    with raw(folder) as other:
        other.execute("BEGIN IMMEDIATE")
    return repr(lease_of(db)) == "<DbLease root/db#1 valid, 0 waiting>"


async def try_with_cancel_at(db: component.Db, operation: Operation, name: str, step: int) -> tuple[bool, bool]:
    """Whether the operation was cancelled, and whether the cancel came before it was over."""
    scope = trio.CancelScope()
    cancel = CancelAt(scope, step)
    trio.lowlevel.add_instrument(cancel)
    with scope:
        await operation(db, name)
    trio.lowlevel.remove_instrument(cancel)
    return scope.cancelled_caught, cancel.left <= 0


@pytest.mark.parametrize(
    ("operation", "whole"), [(plain, 2), (transaction, 3), (function, 3), (session, 3), (published, 2)]
)
@pytest.mark.parametrize("contended", [False, True])
async def test_cancelled_at_any_step_it_is_all_or_nothing(
    tmp_path: Path, operation: Operation, whole: int, contended: bool
) -> None:
    """Cancelled means that nothing is stored, returned that all is; either way the database serves the next one."""
    cancelled = returned = 0
    async with running(tmp_path) as (_, db), trio.open_nursery() as nursery:
        for step in range(1, 1000):
            name = f"n{step:03}"
            if contended:
                release = await nursery.start(begin_and_hold, db, f"holder-{step}")
                trio.lowlevel.current_trio_token().run_sync_soon(release)
            was_cancelled, came_in_time = await try_with_cancel_at(db, operation, name, step)
            assert await stored(db, name) == (0 if was_cancelled else whole)
            await wait_all_tasks_blocked()
            assert holds_nothing(db, tmp_path)
            cancelled += was_cancelled
            returned += not was_cancelled
            if not came_in_time:
                break
        else:
            pytest.fail("it never came to an end")
    assert cancelled >= 1 + contended  # while it is executed, and while it waits for its turn
    assert returned >= 1


class WhileCommitting(trio.abc.Instrument):
    """Does something once, while the thread has COMMIT in hand."""

    def __init__(self, db: component.Db, do: Callable[[], object]) -> None:
        self._db = db
        self._do = do
        self.done = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        lease = cell_of(self._db).granted
        step = lease.writer.turn.step if isinstance(lease, DbLease) and lease.writer.turn is not None else None
        if step is not None and step.taken and step.work.commit and not self.done:
            self.done = True
            self._do()


@contextmanager
def while_committing(db: component.Db, do: Callable[[], object]) -> Iterator[None]:
    instrument = WhileCommitting(db, do)
    trio.lowlevel.add_instrument(instrument)
    yield
    trio.lowlevel.remove_instrument(instrument)
    assert instrument.done


async def test_a_commit_under_way_is_not_interrupted(tmp_path: Path) -> None:
    """A caller cancelled during COMMIT has its commit, leaves its block normally, and is cancelled afterwards."""
    async with running(tmp_path) as (_, db):
        left_normally = False
        with trio.CancelScope() as scope:
            with while_committing(db, scope.cancel):
                async with db.transaction() as tx:
                    await tx.execute(item("a"))
            left_normally = True
            await trio.lowlevel.checkpoint()
        assert left_normally
        assert scope.cancelled_caught
        assert await names(db) == ["a"]


async def test_a_commit_under_way_when_the_actor_is_killed_is_carried_out_and_reported(tmp_path: Path) -> None:
    """The actor finishes COMMIT before it dies, so that its outcome is known."""
    async with running(tmp_path) as (runtime, db):
        with while_committing(db, lambda: runtime.kill(db, "test")):
            async with db.transaction() as tx:
                await tx.execute(item("a"))
        assert await names(db) == ["a"]
        assert cell_of(db).incarnation == 2


async def test_a_commit_under_way_is_not_timed_out(tmp_path: Path) -> None:
    """From COMMIT on the transaction timeout does not count."""
    async with running(tmp_path) as (runtime, db):
        all_is_due = partial(runtime.deadlines.expire_due, float("inf"))
        with while_committing(db, all_is_due):
            async with db.transaction() as tx:
                await tx.execute(item("a"))
        assert repr(tx).endswith(" committed>")
        assert await names(db) == ["a"]


async def test_a_caller_cancelled_before_commit_is_rolled_back(tmp_path: Path) -> None:
    """A body that ends with a cancel pending does not commit any more."""
    async with running(tmp_path) as (_, db):
        with trio.CancelScope() as scope:
            async with db.transaction() as tx:
                await tx.execute(item("a"))
                scope.cancel()
        assert scope.cancelled_caught
        assert await names(db) == []
