"""ORM sessions: entities in the Trio thread, the connection in its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload
from sqlalchemy.orm import Session as OrmSession

import creche
from creche.components import db as component
from creche.components.mq.message import Message

from .support import config, killed


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    books: Mapped[list[Book]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")


async def opened(runtime: creche.Runtime, folder: Path) -> component.Db:
    return await runtime.start(component.component(config(folder), metadata=Base.metadata))


async def authors(db: component.Db) -> list[str]:
    return [row.name for row in await db.all(sa.select(Author.name).order_by(Author.name))]


async def test_a_session_stores_what_was_added_and_changed(tmp_path: Path) -> None:
    """With the end of its block, in one transaction; entities stay readable afterwards."""
    async with creche.open_runtime("test") as runtime:
        db = await opened(runtime, tmp_path)
        async with db.session() as session:
            ada = Author(name="ada", books=[Book(title="notes")])
            session.add(ada)
        assert (ada.id, ada.books[0].author_id) == (1, 1)
        async with db.session() as session:
            found = await session.get(Author, 1, options=[selectinload(Author.books)])
            assert found is not None
            assert [book.title for book in found.books] == ["notes"]
            found.name = "lovelace"
            found.books.append(Book(title="letters"))
        assert await authors(db) == ["lovelace"]
        assert await db.scalar(sa.select(sa.func.count()).select_from(Book)) == 2


async def test_a_session_whose_block_raises_stores_nothing(tmp_path: Path) -> None:
    """Neither what was flushed nor what was not, nor what was published."""
    async with creche.open_runtime("test") as runtime:
        db = await opened(runtime, tmp_path)
        with pytest.raises(LookupError):
            async with db.session() as session:
                session.add(Author(name="a"))
                await session.flush()
                await session.publish(Message("topic", b"never"))
                session.add_all([Author(name="b")])
                raise LookupError
        assert await authors(db) == []
        assert await db.scalar(sa.text("SELECT count(*) FROM creche_outbox")) == 0


async def test_a_session_can_be_asked_as_sqlalchemys_own(tmp_path: Path) -> None:
    """scalars, scalar, execute, delete, merge, refresh; and several steps in one visit."""

    def rename(session: OrmSession, old: str, new: str) -> int:
        entity = session.scalars(sa.select(Author).where(Author.name == old)).one()
        entity.name = new
        return entity.id

    async with creche.open_runtime("test") as runtime:
        db = await opened(runtime, tmp_path)
        async with db.session() as session:
            session.add_all([Author(name="a"), Author(name="b"), Author(name="c")])
            everyone = sa.select(Author).order_by(Author.name)
            entities = await session.scalars(everyone)
            assert [entity.name for entity in entities] == ["a", "b", "c"]
            assert await session.scalar(sa.select(sa.func.count()).select_from(Author)) == 3
            assert await session.execute(sa.select(Author.name).where(Author.id == 1)) == [("a",)]
            assert await session.execute(sa.update(Author).where(Author.id == 2).values(name="B")) == []
            await session.refresh(entities[1])
            assert entities[1].name == "B"
            await session.delete(entities[2])
            merged = await session.merge(Author(id=1, name="A"))
            assert merged is entities[0]
            assert await session.run_sync(rename, "A", "AA") == 1
        assert await authors(db) == ["AA", "B"]


async def test_a_refused_flush_is_the_same_error_as_a_refused_statement(tmp_path: Path) -> None:
    """Whether in the middle or with COMMIT, and it stores nothing."""
    async with creche.open_runtime("test") as runtime:
        db = await opened(runtime, tmp_path)
        await db.execute(sa.insert(Author).values(name="taken"))
        for in_the_middle in (True, False):
            with pytest.raises(component.UniqueViolation):
                async with db.session() as session:
                    session.add_all([Author(name="new"), Author(name="taken")])
                    if in_the_middle:
                        await session.flush()
            assert await authors(db) == ["taken"]
        assert runtime.node_of(db).incarnation == 1


async def test_nothing_is_fetched_behind_an_attribute(tmp_path: Path) -> None:
    """The connection belongs to another thread; the error says what to do, and the session goes on."""
    async with creche.open_runtime("test") as runtime:
        db = await opened(runtime, tmp_path)
        async with db.session() as session:
            session.add(Author(name="ada", books=[Book(title="notes")]))
        async with db.session() as session:
            ada = await session.get(Author, 1)
            assert ada is not None
            with pytest.raises(component.StatementInvalid, match="selectinload"):
                _ = ada.books
            assert await session.run_sync(lambda _session: len(ada.books)) == 1


async def test_a_session_is_lost_with_the_actor(tmp_path: Path) -> None:
    """As any transaction; what it has in memory does no harm afterwards."""
    async with creche.open_runtime("test") as runtime:
        db = await opened(runtime, tmp_path)
        with pytest.raises(component.TransactionLost):
            async with db.session() as session:
                session.add(Author(name="a"))
                await session.flush()
                await killed(runtime, db)
                await session.flush()
        assert await authors(db) == []


async def test_a_function_in_the_thread_has_a_session_too(tmp_path: Path) -> None:
    """One visit for all of it: flushed when it returns, and its errors are the same."""

    def add(tx: component.SyncTransaction, name: str, commit: bool) -> Author:
        author = Author(name=name)
        tx.session.add(author)
        if commit:
            tx.session.commit()  # flushes only: the transaction is the component's
        return author

    async with creche.open_runtime("test") as runtime:
        db = await opened(runtime, tmp_path)
        for number, commit in enumerate([True, False], 1):
            author = await db.transact_sync(add, f"a{number}", commit)
            assert (author.id, author.name) == (number, f"a{number}")
            with pytest.raises(component.UniqueViolation):
                await db.transact_sync(add, f"a{number}", commit)
        assert await authors(db) == ["a1", "a2"]


async def test_an_empty_session_costs_nothing(tmp_path: Path) -> None:
    """It does not even wait for its turn."""
    async with creche.open_runtime("test") as runtime:
        db = await opened(runtime, tmp_path)
        async with db.transaction() as tx:
            await tx.execute(sa.insert(Author).values(name="a"))
            async with db.session():
                pass
        assert await authors(db) == ["a"]
