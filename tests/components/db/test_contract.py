"""What every backend must do: through the handle only, on each backend of `conftest`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche.components import db as component
from creche.components.mq.message import Message

from .conftest import Backend
from .support import ITEMS, PARTS, item, kill_again_and_again, killed, names, outcome_of

Writing = Callable[[component.Db, str], Awaitable[object]]


def add_two(tx: component.SyncTransaction, name: str) -> None:
    tx.execute(item(f"{name}-1"))
    tx.execute(item(f"{name}-2"))


async def by_statements(db: component.Db, name: str) -> None:
    await db.execute_many(item(f"{name}-1"), item(f"{name}-2"))


async def by_parameters(db: component.Db, name: str) -> None:
    await db.execute(sa.insert(ITEMS), [{"name": f"{name}-1"}, {"name": f"{name}-2"}])


async def by_function(db: component.Db, name: str) -> None:
    await db.transact_sync(add_two, name)


async def by_block(db: component.Db, name: str) -> None:
    async with db.transaction() as tx:
        await tx.execute(item(f"{name}-1"))
        await tx.execute(item(f"{name}-2"))


WRITINGS = [by_statements, by_parameters, by_function, by_block]


async def count(db: component.Db, name: str) -> int:
    query = sa.select(sa.func.count()).select_from(ITEMS).where(ITEMS.c.name.startswith(name))
    return await db.scalar(query) or 0


# --- statements -------------------------------------------------------------------------------------------------------


async def test_what_was_written_can_be_read(backend: Backend) -> None:
    """By each of the four ways to ask, and of the four ways to write."""
    async with backend.running() as (_, db):
        for number, writing in enumerate(WRITINGS):
            await writing(db, f"n{number}")
        assert len(await names(db)) == 8
        query = sa.select(ITEMS.c.name).where(ITEMS.c.name == "n0-1")
        assert await db.one(query) == ("n0-1",)
        assert await db.first(query) == ("n0-1",)
        assert await db.all(query) == [("n0-1",)]
        assert await db.scalar(query) == "n0-1"
        assert await db.first(query.where(sa.false())) is None
        with pytest.raises(component.RowNotFound):
            await db.one(query.where(sa.false()))
        with pytest.raises(component.MultipleRows):
            await db.one(sa.select(ITEMS.c.name))


@pytest.mark.parametrize(
    ("statement", "error", "kind"),
    [
        (item("taken"), component.UniqueViolation, "unique"),
        (item("other").values(id=1), component.UniqueViolation, "primary_key"),
        (sa.insert(ITEMS).values(name=sa.null()), component.NotNullViolation, "not_null"),
        (sa.insert(ITEMS).values(name="x", size=-1), component.CheckViolation, "check"),
        (sa.insert(PARTS).values(item=77), component.ForeignKeyViolation, "foreign_key"),
    ],
)
async def test_each_constraint_has_its_own_error(
    backend: Backend, statement: sa.Insert, error: type[component.Conflict], kind: str
) -> None:
    """With the constraint in it; a service need not read texts to know which it was."""
    async with backend.running() as (_, db):
        await db.execute(item("taken"))
        with pytest.raises(error) as caught:
            await db.execute(statement)
        assert (caught.value.kind, bool(caught.value.constraint)) == (kind, True)
        assert await names(db) == ["taken"]


async def test_a_unique_violation_names_its_columns(backend: Backend) -> None:
    """So that the author can say which value is taken."""
    async with backend.running() as (_, db):
        await db.execute(item("taken"))
        with pytest.raises(component.UniqueViolation) as caught:
            await db.execute(item("taken"))
        assert caught.value.columns == ("items.name",)


async def test_errors_do_not_tell_values(backend: Backend) -> None:
    """Neither in their text nor in that of their causes: both are logged, and values may be secrets."""
    async with backend.running() as (_, db):
        await db.execute(item("s3cret"))
        for statement in (item("s3cret"), sa.text("SELECT :name FROM nothing").bindparams(name="s3cret")):
            with pytest.raises((component.Conflict, component.StatementInvalid)) as caught:
                await db.execute(statement)
            error: BaseException | None = caught.value
            while error is not None:
                assert "s3cret" not in str(error)
                error = error.__cause__


# --- all or nothing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writing", WRITINGS)
async def test_it_is_all_or_nothing_when_its_second_half_is_refused(backend: Backend, writing: Writing) -> None:
    """A list of parameters, too: the rows before the refused one are not stored."""
    async with backend.running() as (_, db):
        await db.execute(item("n-2"))
        with pytest.raises(component.UniqueViolation):
            await writing(db, "n")
        assert await names(db) == ["n-2"]


@pytest.mark.parametrize("writing", WRITINGS)
async def test_a_refused_one_does_not_harm_those_who_write_at_the_same_time(backend: Backend, writing: Writing) -> None:
    """Though they may share a visit and a commit: each has its own outcome."""
    outcomes: dict[str, str] = {}

    async def write(name: str) -> None:
        try:
            await writing(db, name)
            outcomes[name] = "stored"
        except component.UniqueViolation:
            outcomes[name] = "refused"

    async with backend.running() as (_, db):
        await db.execute(item("n03-2"))
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(write, f"n{number:02}")
        assert {name for name, outcome in outcomes.items() if outcome == "refused"} == {"n03"}
        assert [await count(db, name) for name in sorted(outcomes)] == [2, 2, 2, 1, 2, 2, 2, 2]


async def test_a_list_of_parameters_that_is_refused_inside_a_transaction_undoes_itself_only(backend: Backend) -> None:
    """As any refused statement does, though the driver executes it row by row."""
    async with backend.running() as (_, db):
        async with db.transaction() as tx:
            await tx.execute(item("a"))
            with pytest.raises(component.UniqueViolation):
                await tx.execute(sa.insert(ITEMS), [{"name": "b"}, {"name": "a"}])
            await tx.execute(item("c"))
        assert await names(db) == ["a", "c"]


async def test_a_body_that_raises_has_stored_nothing_and_its_error_comes_out(backend: Backend) -> None:
    """A transaction that failed never looks like one that succeeded."""

    async def fail(tx: component.Transaction) -> None:
        await tx.execute(item("a"))
        raise LookupError

    def fail_in_thread(tx: component.SyncTransaction) -> None:
        tx.execute(item("a"))
        raise LookupError

    async with backend.running() as (runtime, db):
        for running in (partial(db.transact, fail), partial(db.transact_sync, fail_in_thread)):
            with pytest.raises(LookupError):
                await running()
        assert await names(db) == []
        assert runtime.node_of(db).incarnation == 1


async def test_a_transaction_is_tried_again_on_the_errors_that_are_named(backend: Backend) -> None:
    """All of it, from the beginning; with other errors it is not."""
    attempts: list[int] = []

    async def body(tx: component.Transaction, failing: int) -> str:
        attempts.append(1)
        await tx.execute(item(f"a{len(attempts)}"))
        if len(attempts) <= failing:
            raise LookupError
        return "done"

    async with backend.running() as (_, db):
        assert await db.transact(body, 2, retry_on=LookupError) == "done"
        assert await names(db) == ["a3"]
        with pytest.raises(LookupError):
            await db.transact(body, 99, retry_on=(LookupError,))
        assert len(attempts) == 3 + 5
        with pytest.raises(LookupError):
            await db.transact(body, 99, retry_on=KeyError)
        assert len(attempts) == 3 + 5 + 1


async def test_an_isolation_level_that_does_not_exist_is_refused(backend: Backend) -> None:
    """Before anything begins; the existing ones are accepted."""
    chaos: Any = "chaos"
    async with backend.running() as (_, db):
        with pytest.raises(creche.SpecInvalid, match="isolation"):
            async with db.transaction(isolation=chaos):
                pass
        async with db.transaction(isolation="read committed") as tx:
            await tx.execute(item("a"))
        assert await names(db) == ["a"]


# --- readers ----------------------------------------------------------------------------------------------------------


async def test_a_reader_sees_what_its_own_task_has_committed(backend: Backend) -> None:
    """Read your writes, without waiting for anything."""
    async with backend.running() as (_, db):
        for number in range(30):
            await db.execute(item(str(number)))
            assert await db.reader.scalar(sa.select(sa.func.count()).select_from(ITEMS)) == number + 1


async def test_a_reader_waits_for_no_transaction_and_sees_nothing_of_it(backend: Backend) -> None:
    """It goes on while one is open, also in the task that has it open."""
    async with backend.running() as (_, db):
        async with db.transaction() as tx:
            await tx.execute(item("a"))
            assert await db.reader.all(sa.select(ITEMS.c.name)) == []
        assert await db.reader.all(sa.select(ITEMS.c.name)) == [("a",)]


async def test_a_reader_refuses_to_write(backend: Backend) -> None:
    """By each of its ways; nothing is stored and nobody is harmed."""
    async with backend.running() as (runtime, db):
        with pytest.raises(component.StatementInvalid):
            await db.reader.execute(item("a"))
        with pytest.raises(component.StatementInvalid):
            await db.reader.transact_sync(add_two, "a")
        assert await names(db) == []
        assert runtime.node_of(db).incarnation == 1


async def test_a_reader_is_interrupted_with_its_caller(backend: Backend) -> None:
    """And serves the next one."""
    async with backend.running() as (_, db):
        for _ in range(5):
            with trio.move_on_after(0.01) as scope:
                await db.reader.scalar(backend.endless)
            assert scope.cancelled_caught
        assert await db.reader.all(sa.select(ITEMS.c.name)) == []


# --- cancels and crashes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writing", WRITINGS)
async def test_cancelled_at_random_among_many_each_is_stored_if_and_only_if_it_returned(
    backend: Backend, writing: Writing
) -> None:
    """Cancelled means that nothing of it is stored, though others of the same visit are."""
    random = Random(1)
    returned: set[str] = set()

    async def impatient(name: str) -> None:
        with trio.move_on_after(random.uniform(0, 0.004)):
            await writing(db, name)
            returned.add(name)

    async with backend.running() as (_, db):
        for attempt in range(6):
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(impatient, f"{attempt}.{number:02}")
        stored = {name.partition("-")[0] for name in await names(db)}
        assert stored == returned
        assert len(await names(db)) == 2 * len(returned)


@pytest.mark.parametrize("seed", range(3))
async def test_crashes_under_load_lose_nothing_committed_and_show_nothing_half_done(
    backend: Backend, seed: int
) -> None:
    """Every call has one outcome, and what it says is what is stored."""
    random = Random(seed)
    told: dict[str, str] = {}

    async def work(worker: int) -> None:
        for number in range(10):
            name = f"{worker}.{number:02}"
            writing = random.choice(WRITINGS)
            told[name] = await outcome_of(lambda: writing(db, name))  # noqa: B023
            seen = Counter(row.name.partition("-")[0] for row in await looked_at())
            assert set(seen.values()) <= {2}

    async def looked_at() -> list[sa.Row[tuple[str]]]:
        while True:
            try:
                return await db.reader.all(sa.select(ITEMS.c.name))
            except creche.CallFailed:
                await trio.sleep(0.001)  # not a mere checkpoint: threads do not get Python's lock from a loop of those

    async with backend.running() as (runtime, db):
        async with trio.open_nursery() as killing:
            killing.start_soon(kill_again_and_again, runtime, db, random)
            async with trio.open_nursery() as nursery:
                for worker in range(6):
                    nursery.start_soon(work, worker)
            killing.cancel_scope.cancel()
        assert runtime.node_of(db).incarnation > 2
        for name, outcome in told.items():
            assert await count(db, name) in {"all": {2}, "nothing": {0}, "either": {0, 2}}[outcome]
        assert "all" in told.values()


async def test_what_was_stored_is_there_when_the_database_is_started_again(backend: Backend) -> None:
    """After a stop, and after a crash."""
    async with backend.running() as (runtime, db):
        await db.execute(item("a"))
        await killed(runtime, db)
        assert await names(db) == ["a"]
    async with backend.running() as (_, db):
        assert await names(db) == ["a"]


async def test_a_graceful_stop_serves_those_who_wait(backend: Backend) -> None:
    """What was accepted before the stop is done and reported; an open transaction may end."""
    outcomes: list[str] = []

    async def write(name: str) -> None:
        outcomes.append(await outcome_of(lambda: by_block(db, name)))

    async with backend.running() as (runtime, db), trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(write, str(number))
        await wait_all_tasks_blocked()
        await runtime.stop(db)
    assert outcomes == ["all"] * 5
    async with backend.running() as (_, db):
        assert len(await names(db)) == 10


# --- the outbox -------------------------------------------------------------------------------------------------------


async def test_a_function_in_the_thread_publishes_with_its_transaction(backend: Backend) -> None:
    """Stored if and only if it commits; whoever waits for the outbox is woken."""

    def publish(tx: component.SyncTransaction, fail: bool) -> None:
        tx.execute(item(f"a{fail}"))
        tx.publish(Message("topic", b"value"))
        if fail:
            raise LookupError

    async with backend.running() as (_, db):
        changed = await db.outbox_changed()
        with pytest.raises(LookupError):
            await db.transact_sync(publish, True)
        assert not changed.is_set()
        await db.transact_sync(publish, False)
        assert changed.is_set()
        assert await db.scalar(sa.text("SELECT count(*) FROM creche_outbox")) == 1
