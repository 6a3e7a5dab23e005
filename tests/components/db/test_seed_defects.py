"""The weak points of the kit that this one replaces: for each a test that fails with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio

import creche
from creche.components import db as component
from creche.components import uid as ids
from creche.components.mq.message import Message
from creche.runtime.errors import ConfigInvalid
from creche.runtime.events import Event

from .support import ITEMS, METADATA, begin_and_hold, config, item, names, raw, running

ORDERS = sa.MetaData()
BOOKED = sa.Table(
    "orders", ORDERS, sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("customer", sa.BigInteger)
)
LINES = sa.Table(
    "lines", ORDERS, sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("customer", sa.BigInteger)
)
ROUTER = component.ShardRouter({BOOKED: component.Sharding("customer", 8), LINES: component.Sharding("customer", 2)})


async def sharded(runtime: creche.Runtime, path: Path, name: str = "db") -> component.Db:
    it = component.Config(path=str(path))
    return await runtime.start(component.component(it, name=name, metadata=ORDERS, sharding=ROUTER))


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


# --- shards -----------------------------------------------------------------------------------------------------------


async def test_each_table_has_its_own_number_of_parts(tmp_path: Path) -> None:
    """A table's own numbers were read and ignored: one key and one number held for all."""
    async with creche.open_runtime("test") as runtime:
        await sharded(runtime, tmp_path / "a.db")
    made = tables(tmp_path / "a.db")
    assert {name for name in made if name.startswith("orders_")} == {f"orders_{index:02d}" for index in range(8)}
    assert {name for name in made if name.startswith("lines_")} == {"lines_00", "lines_01"}


async def test_shards_may_lie_in_several_databases_and_be_asked_all_at_once(tmp_path: Path) -> None:
    """All parts were tables of one server, and no query went over them."""
    async with creche.open_runtime("test") as runtime:
        files = [await sharded(runtime, tmp_path / f"{number}.db", f"db{number}") for number in range(2)]
        shards = component.Shards(files, ROUTER)
        for customer in range(16):
            await shards.shard(customer).execute(sa.insert(BOOKED).values(id=customer, customer=customer))
        assert len(await shards.all(sa.select(BOOKED), limit=100)) == 16
        assert len(await shards.all(sa.select(BOOKED), limit=5)) == 5
    with closing(sqlite3.connect(tmp_path / "1.db")) as second:
        assert second.execute("SELECT customer FROM orders_01 ORDER BY id").fetchall() == [(1,), (9,)]


def test_no_key_has_a_negative_part() -> None:
    """The absolute value of the least 64-bit number was negative, and so was the name of its table."""
    assert [component.shard_index(key, 16) for key in (-(2**63), str(-(2**63)), 2**64 - 1)] == [0, 0, 15]


async def test_primary_keys_differ_across_parts_and_databases(tmp_path: Path) -> None:
    """Each part had a generator of its own, numbered by the table: two processes made the same keys."""
    async with creche.open_runtime("test") as runtime:
        uid = await runtime.start(ids.component(ids.Config(state_path=str(tmp_path / "uid.db"))))
        db = await sharded(runtime, tmp_path / "a.db")
        for customer in range(50):
            await db.shard(customer).execute(sa.insert(BOOKED).values(id=await uid.snowflake(), customer=customer))
        rows = await db.shards().all(sa.select(BOOKED.c.id), limit=100)
    assert len({row.id for row in rows}) == 50


async def test_a_statement_without_a_key_is_refused(tmp_path: Path) -> None:
    """One page said that it is an error, the other that all tables are scanned."""
    async with creche.open_runtime("test") as runtime:
        db = await sharded(runtime, tmp_path / "a.db")
        with pytest.raises(component.ShardKeyMissing):
            await db.all(sa.select(BOOKED))


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_values_are_told_neither_by_errors_nor_by_events(tmp_path: Path) -> None:
    """Statements were logged with their values in them, and the address with user and password."""
    seen: list[Event] = []
    secret = "hunter2"
    told: list[object] = []
    async with running(tmp_path, slow_after=1e-9) as (runtime, db):
        runtime.events.subscribe(seen.append)
        await db.execute(item(secret))
        refused: list[Callable[[], Awaitable[object]]] = [
            lambda: db.execute(item(secret)),
            lambda: db.execute(sa.insert(ITEMS).values(name=secret + "!", size=-1)),
            lambda: db.execute(sa.text("SELECT :value FROM nowhere"), {"value": secret}),
        ]
        for attempt in refused:
            with pytest.raises(creche.CrecheError) as caught:
                await attempt()
            told += [caught.value, caught.value.__cause__]
    assert any(isinstance(event, component.SlowStatement) for event in seen)
    assert secret not in "".join(f"{it!r} {it}" for it in [*seen, *told])


# --- transactions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("the body's"), KeyboardInterrupt()])
async def test_a_body_that_fails_is_no_success(tmp_path: Path, error: BaseException) -> None:
    """A panic was rolled back and swallowed: its caller was told that all was well."""

    async def body(tx: component.Transaction) -> None:
        await tx.execute(item("a"))
        raise error

    async with running(tmp_path) as (_, db):
        with pytest.raises(type(error)) as caught:
            await db.transact(body)
        assert caught.value is error
        assert await names(db) == []


async def test_a_transaction_is_tried_again_where_that_is_safe(tmp_path: Path) -> None:
    """There was no retry: each deadlock reached the user."""
    tries = 0

    async def body(tx: component.Transaction) -> None:
        nonlocal tries
        tries += 1
        await tx.execute(item("a"))
        if tries < 3:
            runtime.kill(db, "test")
            await trio.sleep_forever()

    async with running(tmp_path) as (runtime, db):
        await db.transact(body, retry_on=component.TransactionLost)
        assert (tries, await names(db)) == (3, ["a"])


async def test_isolation_and_a_limit_of_time_can_be_asked_for(tmp_path: Path) -> None:
    """There was neither."""
    async with running(tmp_path, transaction_timeout=0.05) as (_, db):
        async with db.transaction(isolation="repeatable read") as tx:
            await tx.execute(item("a"))
        with pytest.raises(component.TransactionLost) as caught:
            async with db.transaction() as tx:
                await tx.execute(item("b"))
                await trio.sleep_forever()
        assert caught.value.reason == "timeout"
        assert await names(db) == ["a"]


async def test_a_transaction_inside_of_a_transaction_is_refused(tmp_path: Path) -> None:
    """Nothing said what it meant."""
    async with running(tmp_path) as (_, db):
        async with db.transaction() as tx:
            await tx.execute(item("a"))
            with pytest.raises(component.TransactionNested):
                await db.execute(item("b"))
        assert await names(db) == ["a"]


async def test_a_message_goes_with_its_transaction(tmp_path: Path) -> None:
    """There was no outbox: a crash between database and log lost the message, or told of what was rolled back."""
    async with running(tmp_path) as (_, db):
        with pytest.raises(ZeroDivisionError):
            async with db.transaction() as tx:
                await tx.publish(Message("undone", b""))
                await tx.execute(item(str(1 // 0)))
        async with db.transaction() as tx:
            await tx.publish(Message("done", b""))
            await tx.execute(item("a"))
        assert await db.all(sa.text("SELECT topic FROM creche_outbox")) == [("done",)]


# --- readers, health, config ------------------------------------------------------------------------------------------


async def test_readers_are_apart_from_the_writer_and_see_what_their_task_has_written(tmp_path: Path) -> None:
    """The split was promised and not there."""
    async with running(tmp_path) as (_, db), trio.open_nursery() as nursery:
        await db.writer.execute(item("a"))
        release = await nursery.start(begin_and_hold, db, "b")
        assert await db.reader.scalar(sa.select(ITEMS.c.name)) == "a"
        with pytest.raises(component.StatementInvalid):
            await db.reader.execute(item("c"))
        release()


async def test_what_was_waited_for_long_ago_is_no_reason_to_be_ill(tmp_path: Path) -> None:
    """Health looked at sums that never fall, and took an idle pool for a broken one."""
    async with running(tmp_path) as (runtime, db):
        assert runtime.ready  # nobody has used it yet
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(db.execute, item(f"n{number}"))
        assert await db.statistics() == component.Statistics(0, 0, False, 1)
        assert runtime.ready


async def test_a_missing_row_is_no_error_of_the_database(tmp_path: Path) -> None:
    """It was one to be filtered out of the log: here it is None, or an answer with its own name."""
    async with running(tmp_path) as (_, db):
        assert await db.first(sa.select(ITEMS)) is None
        with pytest.raises(component.RowNotFound) as caught:
            await db.one(sa.select(ITEMS))
        assert isinstance(caught.value, creche.DomainError)


class Service(creche.Config, frozen=True, kw_only=True):
    db: component.Config = component.Config()


def test_times_are_written_for_people(tmp_path: Path) -> None:
    """A duration in a file was a number of nanoseconds."""
    file = tmp_path / "service.toml"
    file.write_text('[db]\npath = "x.db"\nslow_after = "250ms"\nbusy_timeout = 2\n')
    loaded = creche.load_config(file, type=Service, variables={}).db
    assert (loaded.slow_after, loaded.busy_timeout) == (0.25, 2)


@pytest.mark.parametrize("values", [{"backend": "mysql"}, {"pool_size": -1}, {"slow_after": 0}, {"path": ""}])
def test_a_config_is_validated_before_anything_starts(tmp_path: Path, values: dict[str, object]) -> None:
    """`ValidateConfig` was there to be called, and nobody did."""
    with pytest.raises(ConfigInvalid) as caught:
        component.component(config(tmp_path, **values) if "path" not in values else component.Config(path=""))
    assert next(iter(values)) in caught.value.path


async def test_metadata_is_created_at_the_start_and_changes_nothing_that_is_there(tmp_path: Path) -> None:
    """AutoMigrate altered tables as it saw fit; migrations are files with checksums, applied once."""
    with raw(tmp_path) as before:
        before.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)")
    async with running(tmp_path) as (_, db):
        columns = await db.all(sa.text("SELECT name FROM pragma_table_info('items')"))
        assert [row.name for row in columns] == ["id", "name"]
        assert "parts" in METADATA.tables
        assert await db.scalar(sa.text("SELECT count(*) FROM parts")) == 0
