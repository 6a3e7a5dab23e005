"""Shards: every statement goes to the part that its key belongs to, or nowhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased
from sqlalchemy.orm import Session as OrmSession

import creche
from creche.components import db as component
from creche.components.db import Sharding, ShardRouter, shard_index
from creche.runtime.errors import SpecInvalid

from .support import raw

METADATA = sa.MetaData()
MESSAGES = sa.Table(
    "messages",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("session", sa.String, nullable=False, index=True),
    sa.Column("size", sa.Integer, nullable=False, default=0),
    sa.Index("by_size", "size"),
)
MEMBERS = sa.Table(
    "members",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("session", sa.String, nullable=False),
)
USERS = sa.Table("users", METADATA, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String))
ROUTER = ShardRouter({MESSAGES: Sharding("session", 16), MEMBERS: Sharding("session", 4)})


@asynccontextmanager
async def sharded(folder: Path, files: int = 1) -> AsyncGenerator[list[component.Db]]:
    async with creche.open_runtime("test") as runtime:
        yield [
            await runtime.start(
                component.component(
                    component.Config(path=str(folder / ("test.db" if files == 1 else f"{number}.db"))),
                    name=f"db{number}",
                    metadata=METADATA,
                    sharding=ROUTER,
                )
            )
            for number in range(files)
        ]


@pytest.mark.parametrize(
    ("key", "shards", "index"),
    [
        (0, 16, 0),
        (17, 16, 1),
        (-17, 16, 1),
        (-(2**63), 16, 0),
        (2**64 + 3, 16, 3),
        ("17", 16, 1),
        ("-17", 16, 1),
        ("a", 16, 97 % 16),
        ("ab", 16, (97 * 31 + 98) % 16),
        ("ab" * 100, 7, 1),  # more than 64 bits
        ("", 16, 0),
        ("４２", 100, (65300 * 31 + 65298) % 100),
    ],
)
def test_the_part_of_a_key_is_for_ever(key: int | str, shards: int, index: int) -> None:
    """Whoever changes this moves everybody's rows. It is never negative, whatever the key."""
    assert shard_index(key, shards) == index


@pytest.mark.parametrize("key", [True, None, 1.5, b"x"])
def test_a_key_of_another_type_is_refused(key: Any) -> None:
    """It would go somewhere by accident."""
    with pytest.raises(TypeError, match="shard key"):
        shard_index(key, 4)


def test_doubling_the_parts_moves_a_row_nowhere_or_to_one_place() -> None:
    """That is what makes growing a plan: part i divides into i and i + n."""
    for key in map(str, range(500)):
        assert shard_index(key, 32) in (shard_index(key, 16), shard_index(key, 16) + 16)


def test_keys_are_spread_evenly() -> None:
    """No part has twice its share of ids or of names."""
    for keys in ([str(number) for number in range(8000)], [f"session-{number:x}" for number in range(8000)]):
        filled = [0] * 16
        for key in keys:
            filled[shard_index(key, 16)] += 1
        assert max(filled) < 2 * 8000 / 16
        assert min(filled) > 0


async def test_each_table_has_its_own_parts(tmp_path: Path) -> None:
    """As many as it says, with their indexes; tables that are not sharded stay as they are."""
    async with sharded(tmp_path):
        pass
    with raw(tmp_path) as other:
        names = {name for (name,) in other.execute("SELECT name FROM sqlite_master")}
    assert {f"messages_{index:02d}" for index in range(16)} <= names
    assert {name for name in names if name.startswith("members")} == {f"members_{index:02d}" for index in range(4)}
    assert {"by_size_00", "by_size_15", "users"} <= names
    assert "messages" not in names


async def test_statements_on_a_shard_go_to_its_part(tmp_path: Path) -> None:
    """Inserts, upserts, updates, deletes, joins, subqueries, aliases; in transactions and functions, too."""

    def in_thread(tx: component.SyncTransaction) -> int | None:
        tx.execute(sa.insert(MESSAGES).values(id=4, session="17", size=4))
        return tx.scalar(sa.select(sa.func.count()).select_from(MESSAGES))

    async with sharded(tmp_path) as (db,):
        shard = db.shard("17")
        await shard.execute(sa.insert(MESSAGES), [{"id": 1, "session": "17"}, {"id": 2, "session": "17", "size": 5}])
        await shard.execute(upsert(MESSAGES).values(id=2, session="17").on_conflict_do_update(set_={"size": 7}))
        await shard.execute(sa.update(MESSAGES).where(MESSAGES.c.id == 1).values(size=MESSAGES.c.size + 1))
        await shard.execute(sa.insert(MEMBERS).values(session="17"))
        async with shard.transaction() as tx:
            await tx.execute(sa.insert(MESSAGES).values(id=3, session="17", size=3))
            await tx.execute(sa.delete(MESSAGES).where(MESSAGES.c.id == 3))
        assert await shard.transact_sync(in_thread) == 3
        joined = (
            sa.select(MESSAGES.c.id, MEMBERS.c.session)
            .join(MEMBERS, MEMBERS.c.session == MESSAGES.c.session)
            .where(MESSAGES.c.id.in_(sa.select(MESSAGES.c.id).where(MESSAGES.c.size > 1)))
            .order_by(MESSAGES.c.id)
        )
        assert await shard.all(joined) == [(2, "17"), (4, "17")]
        other = MESSAGES.alias("other")
        assert await shard.scalar(sa.select(sa.func.max(other.c.size))) == 7
        assert await db.shard("18").all(sa.select(MESSAGES)) == []
    with raw(tmp_path) as connection:
        assert connection.execute("SELECT id, size FROM messages_01 ORDER BY id").fetchall() == [(1, 1), (2, 7), (4, 4)]


@pytest.mark.parametrize(
    "statement",
    [
        sa.select(MESSAGES),
        sa.select(USERS).where(USERS.c.id.in_(sa.select(MESSAGES.c.id))),
        sa.insert(MESSAGES).values(session="a"),
        sa.delete(MEMBERS),
        sa.text("SELECT * FROM messages"),
        sa.select(MESSAGES.alias()),
    ],
)
async def test_a_statement_that_nobody_routed_is_refused(tmp_path: Path, statement: sa.Select[tuple[int]]) -> None:
    """On the database, on its reader, in a transaction and in a function: all come past the same check."""
    async with sharded(tmp_path) as (db,):
        with pytest.raises(component.ShardKeyMissing) as caught:
            await db.execute(statement)
        assert caught.value.table in ("messages", "members")
        with pytest.raises(component.ShardKeyMissing):
            await db.reader.execute(statement)
        with pytest.raises(component.ShardKeyMissing):
            await db.transact(lambda tx: tx.execute(statement))
        with pytest.raises(component.ShardKeyMissing):
            await db.transact_sync(lambda tx: tx.execute(statement))
        await db.execute(sa.insert(USERS).values(name="messages"))  # a value is no table
        assert await db.scalar(sa.text("SELECT count(*) FROM users")) == 1


class Base(DeclarativeBase):
    """Entities on the tables above, and on a second table of a sharded name."""

    metadata = METADATA


class Entity(Base):
    __table__ = MESSAGES
    id: Mapped[int]
    session: Mapped[str]
    size: Mapped[int]


class User(Base):
    __table__ = USERS
    name: Mapped[str]


async def test_an_entity_on_a_sharded_table_is_refused_wherever_it_comes_from(tmp_path: Path) -> None:
    """In a session, in a function, on a shard; even if there is a table of that very name. Nothing is stored."""

    async def in_session(do: Callable[[component.Session], Awaitable[object]]) -> None:
        async with db.session() as session:
            session.add(User(name="undone"))
            await do(session)

    async def add(session: component.Session) -> None:
        session.add(Entity(id=1, session="a"))

    def in_thread(tx: component.SyncTransaction) -> None:
        tx.session.add(Entity(id=1, session="a"))

    def bulk(session: OrmSession) -> None:
        session.execute(sa.insert(Entity), [{"id": 1, "session": "a"}])

    def as_text(session: OrmSession) -> None:
        session.connection().exec_driver_sql("INSERT INTO Messages (id, session, size) VALUES (1, 'a', 1)")

    async with sharded(tmp_path) as (db,):
        with raw(tmp_path) as connection:
            connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, session TEXT, size INTEGER DEFAULT 0)")
        refused: list[Callable[[], Awaitable[object]]] = [
            lambda: in_session(add),
            lambda: in_session(lambda session: session.get(Entity, 1)),
            lambda: in_session(lambda session: session.scalars(sa.select(Entity))),
            lambda: in_session(lambda session: session.execute(sa.delete(Entity))),
            lambda: in_session(lambda session: session.merge(Entity(id=1, session="a"))),
            lambda: in_session(lambda session: session.run_sync(bulk)),
            lambda: in_session(lambda session: session.run_sync(as_text)),
            lambda: db.transact_sync(in_thread),
            lambda: db.all(sa.select(Entity)),
            lambda: db.all(sa.select(Entity.id)),
            lambda: db.all(sa.select(aliased(Entity))),
            lambda: db.execute(sa.insert(Entity).values(id=1, session="a")),
        ]
        for number, attempt in enumerate(refused):
            with pytest.raises(component.ShardKeyMissing):
                await attempt()
                pytest.fail(f"number {number} was not refused")
        assert await db.all(sa.select(USERS)) == []
    with raw(tmp_path) as connection:
        assert connection.execute("SELECT * FROM messages").fetchall() == []


@pytest.mark.parametrize(
    "statement",
    [
        sa.select(Entity),
        sa.select(Entity.id).where(Entity.size > 1),
        sa.insert(Entity).values(id=1, session="a"),
        sa.update(Entity).values(size=1),
        sa.select(sa.table("messages", sa.column("id"))),
        sa.select(sa.text("id")).select_from(sa.text("messages")),
        sa.select(sa.literal_column("(SELECT count(*) FROM messages)")),
        sa.text("SELECT * FROM MESSAGES"),
        sa.schema.DDL("UPDATE messages SET size = 1"),  # type: ignore[no-untyped-call]
    ],
)
async def test_on_a_shard_a_statement_is_routed_or_refused(tmp_path: Path, statement: Any) -> None:
    """Nothing reaches a table of the sharded name."""
    async with sharded(tmp_path) as (db,):
        with raw(tmp_path) as connection:
            connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, session TEXT, size INTEGER DEFAULT 0)")
            connection.execute("INSERT INTO messages (id, session) VALUES (77, 'trap')")
        try:
            result = await db.shard("a").execute(statement)
        except component.ShardKeyMissing:
            pass
        else:
            assert 77 not in [row[0] for row in result.rows]
    with raw(tmp_path) as connection:
        assert connection.execute("SELECT id, size FROM messages").fetchall() == [(77, 0)]


async def test_all_parts_can_be_asked_with_a_limit(tmp_path: Path) -> None:
    """Scatter and gather: part by part, no more rows than were asked for."""
    async with sharded(tmp_path) as (db,):
        for key in range(40):
            await db.shard(key).execute(sa.insert(MESSAGES).values(id=key, session=str(key)))
        shards = db.shards()
        assert sorted(row.id for row in await shards.all(sa.select(MESSAGES.c.id), limit=1000)) == list(range(40))
        assert len(await shards.all(sa.select(MESSAGES.c.id), limit=7)) == 7
        results = await shards.execute(sa.delete(MESSAGES).where(MESSAGES.c.id < 20))
        assert sum(result.rowcount for result in results) == 20
        with pytest.raises(component.StatementInvalid, match="different numbers"):
            await shards.all(sa.select(MESSAGES.c.id, MEMBERS.c.id), limit=1)
        with pytest.raises(component.StatementInvalid, match="no sharded table"):
            await shards.all(sa.select(USERS), limit=1)


async def test_shards_spread_over_several_files(tmp_path: Path) -> None:
    """A key is in one file, the same for all tables; everything together is in all of them."""
    async with sharded(tmp_path, files=4) as files:
        shards = component.Shards(files, ROUTER)
        for key in range(32):
            async with shards.shard(key).transaction() as tx:
                await tx.execute(sa.insert(MESSAGES).values(id=key, session=str(key)))
                await tx.execute(sa.insert(MEMBERS).values(id=key, session=str(key)))
        assert sorted(row.id for row in await shards.all(sa.select(MEMBERS.c.id), limit=99)) == list(range(32))
        for number, db in enumerate(files):
            rows = await db.shards().all(sa.select(MESSAGES.c.id), limit=99)
            assert {row.id % 4 for row in rows} == {number}
            assert len(rows) == 8


def test_what_cannot_be_divided_is_refused_before_anything_starts() -> None:
    """No such column, a foreign key, no parts, parts that do not fit the files."""
    child = sa.Table("child", sa.MetaData(), sa.Column("id", sa.ForeignKey(USERS.c.id)))
    for make in (
        lambda: ShardRouter({MESSAGES: Sharding("nothing", 4)}),
        lambda: ShardRouter({child: Sharding("id", 4)}),
        lambda: ShardRouter({MESSAGES: Sharding("session", 0)}),
        lambda: component.Shards([component.Db("a", ROUTER)] * 3, ROUTER),
        lambda: component.Shards([], ROUTER),
        lambda: component.Db("a").shard(1),
    ):
        with pytest.raises(SpecInvalid):
            make()
