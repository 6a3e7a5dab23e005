"""Crashes of the db actor: every transaction's outcome is what its caller was told, and nobody hangs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest
import sqlalchemy as sa
import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche.components import db as component
from creche.components.mq.message import Message
from creche.runtime.node import State

from .support import ENDLESS, cell_of, item, kill_again_and_again, killed, lease_of, names, outcome_of, running

# --- one at a time ----------------------------------------------------------------------------------------------------


async def test_a_crash_while_the_body_runs_loses_the_transaction_at_once(tmp_path: Path) -> None:
    """The body is cancelled though it is not talking to the database, and a retry succeeds."""
    async with running(tmp_path) as (runtime, db):

        async def body(tx: component.Transaction) -> None:
            await tx.execute(item("a"))
            runtime.kill(db, "test")
            await trio.sleep_forever()

        with pytest.raises(component.TransactionLost) as caught:
            await db.transact(body)
        assert caught.value.reason == "crash"
        assert await names(db) == []
        await db.transact(lambda tx: tx.execute(item("a")))
        assert await names(db) == ["a"]


async def test_a_crash_during_a_statement_of_a_transaction_loses_it(tmp_path: Path) -> None:
    """COMMIT had not been sent, so the outcome is known, though the statement was in hand."""
    async with running(tmp_path) as (runtime, db), trio.open_nursery() as nursery:

        async def body(tx: component.Transaction) -> None:
            await tx.execute(item("a"))
            await tx.scalar(ENDLESS)

        async def check() -> None:
            assert await outcome_of(lambda: db.transact(body)) == "nothing"

        nursery.start_soon(check)
        await wait_all_tasks_blocked(0.005)
        await killed(runtime, db)
        assert await names(db) == []


async def test_a_crash_during_a_statement_on_its_own_undoes_it(tmp_path: Path) -> None:
    """It is interrupted and rolled back, and its caller is told that nothing of it is stored."""
    async with running(tmp_path) as (runtime, db), trio.open_nursery() as nursery:

        async def check() -> None:
            with pytest.raises(component.TransactionLost) as caught:
                await db.scalar(ENDLESS)
            assert caught.value.reason == "crash"

        nursery.start_soon(check)
        await wait_all_tasks_blocked(0.005)
        assert runtime.kill(db, "test")


async def test_those_who_wait_in_line_queue_up_at_the_successor(tmp_path: Path) -> None:
    """Neither the dead incarnation nor a holder that cannot be cancelled keeps them, and their order stays."""
    async with running(tmp_path) as (runtime, db), trio.open_nursery() as nursery:
        over = trio.Event()

        async def stubborn() -> None:
            with pytest.raises(component.TransactionLost):
                async with db.transaction() as tx:
                    await tx.execute(item("stubborn"))
                    with trio.CancelScope(shield=True):
                        await over.wait()

        nursery.start_soon(stubborn)
        try:
            await wait_all_tasks_blocked(0.001)
            for name in "abcdef":
                fn = db.execute if name in "ace" else lambda insert: db.transact(lambda tx: tx.execute(insert))
                nursery.start_soon(fn, item(name))
                await wait_all_tasks_blocked()
            await killed(runtime, db)
            while len(stored := await names(db)) < 6:
                await trio.lowlevel.checkpoint()
            assert stored == ["a", "b", "c", "d", "e", "f"]
        finally:
            over.set()


async def test_a_statement_that_is_sent_while_the_actor_is_dying_goes_to_its_successor(tmp_path: Path) -> None:
    """It was not handled, so nobody need know: neither a statement on its own nor the first of a transaction."""
    async with running(tmp_path) as (runtime, db):
        lease_of(db).close()
        runtime.kill(db, "test")
        await db.execute(item("a"))
        async with db.transaction() as tx:
            lease_of(db).close()
            runtime.kill(db, "test")
            await tx.execute(item("b"))
        assert cell_of(db).incarnation == 3
        assert await names(db) == ["a", "b"]


async def test_a_commit_that_was_never_handled_is_known_not_to_be_stored(tmp_path: Path) -> None:
    """Sent when the connection is closing, COMMIT reaches nobody: TransactionLost, not OutcomeUnknown."""
    async with running(tmp_path) as (runtime, db):
        with pytest.raises(component.TransactionLost):
            async with db.transaction() as tx:
                await tx.execute(item("a"))
                lease_of(db).close()
                runtime.kill(db, "test")
        assert await names(db) == []


async def test_a_database_that_was_stopped_refuses(tmp_path: Path) -> None:
    """After the final stop every use raises ActorStopped."""
    async with running(tmp_path) as (runtime, db):
        await runtime.stop(db)
        with pytest.raises(creche.ActorStopped):
            await db.execute(item("a"))
        with pytest.raises(creche.ActorStopped):
            async with db.transaction() as tx:
                await tx.execute(item("a"))


async def test_a_database_that_stays_down_does_not_keep_its_callers(tmp_path: Path) -> None:
    """If it cannot come back, its callers are told after `down_wait`, with a hint when to try again."""
    with trio.fail_after(30):
        async with creche.open_runtime("test") as runtime:
            spec = component.component(component.Config(path=str(tmp_path / "test.db")))
            slow = creche.Backoff(first=1000.0, cap=1000.0, free=0)
            db = await runtime.start(spec.options(backoff=slow, down_wait=0.02))
            await killed(runtime, db)
            with pytest.raises(creche.NotDelivered) as caught:
                await db.scalar(sa.text("SELECT 1"))
            assert caught.value.retry_after is not None


async def test_a_lost_transaction_that_leaves_a_handler_does_not_crash_the_service(tmp_path: Path) -> None:
    """It is a failed call of a peer: the service lives, and its caller is told that a peer failed."""

    class Service(creche.Actor):
        async def add(self) -> None:
            async with db.transaction() as tx:
                await tx.execute(item("a"))
                runtime.kill(db, "test")
                await trio.sleep_forever()

    async with running(tmp_path) as (runtime, db):
        service = await runtime.start(creche.child(Service))
        with pytest.raises(creche.PeerFailed) as caught:
            await service.ask.add()
        assert isinstance(caught.value.cause, component.TransactionLost)
        assert runtime.node_of(service).incarnation == 1


# --- at random --------------------------------------------------------------------------------------------------------

WORKERS, TRANSACTIONS = 6, 25


class Ledger:
    """What each transaction's caller was told."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}

    async def work(self, db: component.Db, worker: int, random: Random) -> None:
        for number in range(TRANSACTIONS):
            name = f"{worker}.{number}"
            kind = random.choice([interactive, single_visit])
            self.told[name] = await outcome_of(lambda name=name, kind=kind: kind(db, name))  # type: ignore[misc]

    def contradictions(self, stored: dict[str, int]) -> list[str]:
        """Transactions of which another part is stored than was told. Two rows are a whole one."""
        allowed = {"all": {2}, "nothing": {0}, "either": {0, 2}}
        return [name for name, told in self.told.items() if stored.get(name, 0) not in allowed[told]]


async def interactive(db: component.Db, name: str) -> None:
    async with db.transaction() as tx:
        await tx.execute(item(f"{name}-1"))
        await tx.publish(Message("topic", name.encode()))
        await tx.execute(item(f"{name}-2"))


async def single_visit(db: component.Db, name: str) -> None:
    await db.execute_many(item(f"{name}-1"), item(f"{name}-2"))


async def stored_rows(db: component.Db) -> dict[str, int]:
    """What is there when the last of many kills has come into force: it may have been down for too long meanwhile."""
    while cell_of(db).state is not State.RUNNING:
        await cell_of(db).wait_for_change()
    counted: dict[str, int] = {}
    for name in await names(db):
        transaction = name.partition("-")[0]
        counted[transaction] = counted.get(transaction, 0) + 1
    return counted


@pytest.mark.parametrize("seed", range(4))
async def test_killed_at_random_every_outcome_is_what_was_told(tmp_path: Path, seed: int) -> None:
    """Reported as done: all of it is stored. Lost or not delivered: nothing. Unknown: either. And it goes on."""
    random = Random(seed)
    ledger = Ledger()
    async with running(tmp_path) as (runtime, db):
        async with trio.open_nursery() as killing:
            killing.start_soon(kill_again_and_again, runtime, db, random)
            async with trio.open_nursery() as nursery:
                for worker in range(WORKERS):
                    nursery.start_soon(ledger.work, db, worker, random)
            killing.cancel_scope.cancel()
        stored = await stored_rows(db)
        assert ledger.contradictions(stored) == []
        published = await db.all(sa.text("SELECT CAST(value AS TEXT) FROM creche_outbox"))
        assert {value for (value,) in published} <= set(stored)
        assert len(published) == len(set(published))
        assert len(ledger.told) == WORKERS * TRANSACTIONS
        assert {"all", "nothing"} <= set(ledger.told.values())
        assert cell_of(db).incarnation > 3
        await interactive(db, "afterwards")


Body = Callable[[component.Transaction], Awaitable[object]]


@pytest.mark.parametrize("seed", range(2))
async def test_killed_at_random_under_cancelled_callers_nothing_is_left_held(tmp_path: Path, seed: int) -> None:
    """Crashes and cancels together: at the end the database serves, and what is stored is whole."""
    random = Random(seed)
    async with running(tmp_path) as (runtime, db):

        async def impatient(worker: int) -> None:
            for number in range(TRANSACTIONS):
                with trio.move_on_after(random.uniform(0, 0.01)):
                    await outcome_of(lambda name=f"{worker}.{number}": interactive(db, name))  # type: ignore[misc]

        async with trio.open_nursery() as killing:
            killing.start_soon(kill_again_and_again, runtime, db, random)
            async with trio.open_nursery() as nursery:
                for worker in range(WORKERS):
                    nursery.start_soon(impatient, worker)
            killing.cancel_scope.cancel()
        assert set((await stored_rows(db)).values()) <= {2}
        await interactive(db, "afterwards")
