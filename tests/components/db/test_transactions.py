"""Transactions: all or nothing, one at a time, in order of arrival."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio
from trio.testing import wait_all_tasks_blocked

from creche.components import db as component

from .support import ENDLESS, PARTS, begin_and_hold, cell_of, item, lease_of, names, raw, running


class Stop(Exception):
    """Raised by the bodies of these tests."""


# --- all or nothing ---------------------------------------------------------------------------------------------------


async def test_a_transaction_is_stored_when_its_block_ends(tmp_path: Path) -> None:
    """It sees its own writes before, and everybody sees them afterwards."""
    async with running(tmp_path) as (_, db):
        async with db.transaction() as tx:
            await tx.execute(item("a"))
            await tx.execute_many(item("b"), item("c"))
            assert await tx.scalar(sa.text("SELECT count(*) FROM items")) == 3
            with raw(tmp_path) as other:
                assert other.execute("SELECT count(*) FROM items").fetchone() == (0,)
        assert await names(db) == ["a", "b", "c"]


async def test_a_transaction_whose_body_raises_is_rolled_back(tmp_path: Path) -> None:
    """The error comes out as it is; the file is free for other processes before anything else happens here."""
    async with running(tmp_path) as (_, db):
        with pytest.raises(Stop):
            async with db.transaction() as tx:
                await tx.execute(item("a"))
                raise Stop
        assert await names(db) == []
        with raw(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")


async def test_an_abandoned_transaction_is_rolled_back_though_nobody_else_comes(tmp_path: Path) -> None:
    """The rollback is not left to the next caller: another process can write."""
    async with running(tmp_path) as (_, db):
        with pytest.raises(Stop):
            async with db.transaction() as tx:
                await tx.execute(item("a"))
                raise Stop
        with raw(tmp_path) as other:
            while not can_write(other):
                await trio.lowlevel.checkpoint()


def can_write(other: sqlite3.Connection) -> bool:
    try:
        other.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    return True


async def test_transact_runs_a_function_in_a_transaction(tmp_path: Path) -> None:
    """Its arguments go in, its result comes out; if it raises, nothing is stored."""

    async def add(tx: component.Transaction, name: str, size: int) -> int | None:
        return (await tx.execute(item(name).values(size=size))).lastrowid

    async def fail(tx: component.Transaction) -> None:
        await tx.execute(item("b"))
        raise Stop

    async with running(tmp_path) as (_, db):
        assert await db.transact(add, "a", 3) == 1
        with pytest.raises(Stop):
            await db.transact(fail)
        assert await names(db) == ["a"]


async def test_a_transaction_in_which_nothing_is_executed_costs_no_message(tmp_path: Path) -> None:
    """It neither waits for the connection nor asks the actor anything."""
    async with running(tmp_path) as (_, db), trio.open_nursery() as nursery:
        release = await nursery.start(begin_and_hold, db, "a")
        handled = cell_of(db).handled
        async with db.transaction():
            pass
        assert cell_of(db).handled == handled
        release()


async def test_a_transaction_goes_on_after_an_error_that_its_body_catches(tmp_path: Path) -> None:
    """A refused statement undoes itself and nothing else."""
    async with running(tmp_path) as (_, db):
        async with db.transaction() as tx:
            await tx.execute(item("a"))
            with pytest.raises(component.Conflict):
                await tx.execute(item("a"))
            with pytest.raises(component.StatementInvalid):
                await tx.execute(sa.text("SELEC 1"))
            await tx.execute(item("b"))
        assert await names(db) == ["a", "b"]


async def test_a_transaction_whose_first_statement_fails_goes_on_too(tmp_path: Path) -> None:
    """BEGIN travels with the first statement, but does not fail with it."""
    async with running(tmp_path) as (_, db):
        await db.execute(item("a"))
        async with db.transaction() as tx:
            with pytest.raises(component.Conflict):
                await tx.execute(item("a"))
            await tx.execute(item("b"))
        assert await names(db) == ["a", "b"]


async def test_a_constraint_that_refuses_commit_is_a_conflict_and_a_rollback(tmp_path: Path) -> None:
    """A deferred foreign key speaks up at COMMIT; nothing of the transaction is stored then."""
    async with running(tmp_path) as (_, db):
        with pytest.raises(component.Conflict) as caught:
            async with db.transaction() as tx:
                await tx.execute(item("a"))
                await tx.execute(sa.insert(PARTS).values(item=77))
        assert caught.value.kind == "foreign_key"
        with raw(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")  # rolled back by now, not when the next one comes
        assert await names(db) == []
        assert cell_of(db).incarnation == 1


@pytest.mark.parametrize("sql", ["ROLLBACK", "COMMIT"])
async def test_a_transaction_ended_by_its_own_statement_is_lost(tmp_path: Path, sql: str) -> None:
    """What comes after it is not executed outside of any transaction: it is refused."""
    async with running(tmp_path) as (_, db):
        with pytest.raises(component.TransactionLost) as caught:
            async with db.transaction() as tx:
                await tx.execute(item("a"))
                await tx.execute(sa.text(sql))
                await tx.execute(item("b"))
        assert caught.value.reason == "rolled_back"
        assert "b" not in await names(db)


async def test_a_begin_left_open_by_a_statement_is_cleared_away(tmp_path: Path) -> None:
    """An author's own BEGIN outside of a transaction holds up nobody and swallows nobody's writes."""
    async with running(tmp_path) as (_, db):
        await db.execute(sa.text("BEGIN IMMEDIATE"))
        await db.execute(item("a"))
        with raw(tmp_path) as other:
            assert other.execute("SELECT name FROM items").fetchall() == [("a",)]


# --- one at a time ----------------------------------------------------------------------------------------------------


async def test_a_transaction_that_has_only_read_so_far_cannot_be_overtaken(tmp_path: Path) -> None:
    """It has the write lock from its first statement, so that its later writes cannot be refused."""
    async with running(tmp_path) as (_, db):
        async with db.transaction() as tx:
            await tx.scalar(sa.text("SELECT count(*) FROM items"))
            with raw(tmp_path) as other:
                assert not can_write(other)
            await tx.execute(item("a"))
        assert await names(db) == ["a"]


async def test_everybody_waits_for_an_open_transaction_in_order_of_arrival(tmp_path: Path) -> None:
    """Plain statements and transactions queue up together; nobody overtakes, nobody gets into it."""
    order: list[str] = []

    async def plain(db: component.Db, name: str) -> None:
        await db.execute(item(name))
        order.append(name)

    async def transacted(db: component.Db, name: str) -> None:
        async with db.transaction() as tx:
            await tx.execute(item(name))
            await tx.scalar(sa.text("SELECT 1"))
            order.append(name)

    async with running(tmp_path) as (_, db), trio.open_nursery() as nursery:
        release = await nursery.start(begin_and_hold, db, "first")
        for number, kind in enumerate([plain, transacted, plain, transacted, transacted, plain]):
            nursery.start_soon(kind, db, str(number))
            await wait_all_tasks_blocked()
        assert order == []
        release()
        while len(order) < 6:
            await trio.lowlevel.checkpoint()
        assert order == ["0", "1", "2", "3", "4", "5"]
        assert await names(db) == ["first", *order]


async def test_a_caller_that_gives_up_waiting_is_passed_over(tmp_path: Path) -> None:
    """Its place in the line is gone, those behind it move up, and its statement is never executed."""
    async with running(tmp_path) as (_, db), trio.open_nursery() as nursery:
        release = await nursery.start(begin_and_hold, db, "first")
        gone = trio.CancelScope()

        async def give_up() -> None:
            with gone:
                await db.execute(item("gone"))

        nursery.start_soon(give_up)
        await wait_all_tasks_blocked()
        nursery.start_soon(db.execute, item("second"))
        await wait_all_tasks_blocked()
        gone.cancel()
        await wait_all_tasks_blocked()
        release()
        while len(stored := await names(db)) < 2:
            await trio.lowlevel.checkpoint()
        assert stored == ["first", "second"]


async def test_using_the_database_beside_ones_own_transaction_is_refused(tmp_path: Path) -> None:
    """It would wait for itself; the error says what to do, and the transaction is unharmed."""
    async with running(tmp_path) as (_, db):
        async with db.transaction() as tx:
            await tx.execute(item("a"))
            with pytest.raises(component.TransactionNested, match="methods of `tx`"):
                await db.execute(item("b"))
            with pytest.raises(component.TransactionNested):
                async with db.transaction() as inner:
                    await inner.execute(item("b"))
        assert await names(db) == ["a"]


async def test_a_transaction_serves_one_task_at_a_time(tmp_path: Path) -> None:
    """A second task is refused before anything is sent."""
    async with running(tmp_path) as (_, db), trio.open_nursery() as nursery:
        release = await nursery.start(begin_and_hold, db, "first")
        async with db.transaction() as tx, trio.open_nursery() as inside:
            inside.start_soon(tx.execute, item("a"))
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await tx.execute(item("b"))
            release()
        assert await names(db) == ["first", "a"]


async def test_a_transaction_cannot_be_used_after_its_block(tmp_path: Path) -> None:
    """Neither after COMMIT nor after a rollback."""
    async with running(tmp_path) as (_, db):
        async with db.transaction() as tx:
            await tx.execute(item("a"))
        with pytest.raises(trio.ClosedResourceError):
            await tx.execute(item("b"))
        assert repr(tx).endswith("committed>")


# --- losing it --------------------------------------------------------------------------------------------------------


async def test_a_forgotten_transaction_is_rolled_back_and_its_body_cancelled(tmp_path: Path) -> None:
    """After `transaction_timeout` whoever waits gets the connection, and the body learns that it has lost it."""
    async with running(tmp_path, transaction_timeout=0.05) as (_, db), trio.open_nursery() as nursery:

        async def forget() -> None:
            async with db.transaction() as tx:
                await tx.execute(item("forgotten"))
                await trio.sleep_forever()

        async def check() -> None:
            with pytest.raises(component.TransactionLost) as caught:
                await forget()
            assert caught.value.reason == "timeout"

        nursery.start_soon(check)
        await wait_all_tasks_blocked(0.001)
        await db.execute(item("next"))
        assert await names(db) == ["next"]


async def test_a_body_that_cannot_be_cancelled_cannot_keep_the_connection(tmp_path: Path) -> None:
    """The turn is taken away all the same, and what the body tries afterwards is refused, not executed."""
    async with running(tmp_path, transaction_timeout=0.05) as (_, db):
        with pytest.raises(component.TransactionLost) as caught:
            async with db.transaction() as tx:
                await tx.execute(item("stubborn"))
                with trio.CancelScope(shield=True):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(db.execute, item("next"))
                    await tx.execute(item("late"))
        assert caught.value.reason == "timeout"
        assert await names(db) == ["next"]


async def test_a_statement_that_outlasts_the_transaction_timeout_is_interrupted(tmp_path: Path) -> None:
    """A query that never ends does not hold the connection for ever."""
    async with running(tmp_path, transaction_timeout=0.05) as (_, db):
        with pytest.raises(component.TransactionLost):
            async with db.transaction() as tx:
                await tx.scalar(ENDLESS)
        assert await names(db) == []


async def test_waiting_in_line_does_not_count_as_being_open(tmp_path: Path) -> None:
    """The time starts with the turn: a transaction is not lost because others were slow."""
    async with running(tmp_path, transaction_timeout=0.5) as (_, db), trio.open_nursery() as nursery:

        async def slow(name: str) -> None:
            async with db.transaction() as tx:
                await tx.execute(item(name))
                with trio.move_on_after(0.15):
                    await trio.sleep_forever()

        for name in "abcd":
            nursery.start_soon(slow, name)
        await wait_all_tasks_blocked(0.001)
        assert sorted(await names(db)) == ["a", "b", "c", "d"]


async def test_a_transaction_of_which_a_statement_was_cancelled_is_lost(tmp_path: Path) -> None:
    """Nobody can say how far the statement came, so nothing of the transaction may be stored."""
    async with running(tmp_path) as (_, db):
        with pytest.raises(component.TransactionLost) as caught:
            async with db.transaction() as tx:
                await tx.execute(item("a"))
                with trio.move_on_after(0.02):
                    await tx.scalar(ENDLESS)
                with raw(tmp_path) as other:
                    other.execute("BEGIN IMMEDIATE")  # rolled back by now, not when the block ends
                await tx.execute(item("b"))
        assert caught.value.reason == "cancelled"
        assert await names(db) == []


async def test_a_lost_transaction_whose_body_goes_on_without_the_database_is_not_reported_as_stored(
    tmp_path: Path,
) -> None:
    """A body that swallows the loss still gets it at the end of its block."""
    async with running(tmp_path) as (_, db):
        with pytest.raises(component.TransactionLost):
            async with db.transaction() as tx:
                await tx.execute(item("a"))
                with trio.move_on_after(0.02):
                    await tx.scalar(ENDLESS)
        assert await names(db) == []


async def test_the_line_can_be_seen(tmp_path: Path) -> None:
    """The lease's repr tells how many wait: for people, and for these tests."""
    async with running(tmp_path) as (_, db), trio.open_nursery() as nursery:
        release = await nursery.start(begin_and_hold, db, "a")
        nursery.start_soon(db.execute, item("b"))
        await wait_all_tasks_blocked()
        assert repr(lease_of(db)) == "<DbLease root/db#1 valid, 1 waiting>"
        release()
