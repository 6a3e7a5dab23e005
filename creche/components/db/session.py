"""SQLAlchemy ORM sessions, a visit to the database's thread for each step.

The objects are used in the Trio thread, the session's connection in the database's. So nothing may be fetched behind an
attribute: what is not loaded raises `StatementInvalid` instead. Load it with the query, or do several things at once in
the thread with `Session.run_sync`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, cast, final

from .outbox import Publishable, row_of
from .sync import SyncTransaction
from .unit import UnitOfWork

if TYPE_CHECKING:
    from sqlalchemy.orm import Session as OrmSession
    from sqlalchemy.sql import Executable
    from sqlalchemy.sql.selectable import TypedReturnsRows

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


@final
class Session:
    """Made by `Db.session`. For one task at a time, and for one transaction; errors are those of `Transaction`.

    After an error of the database the session is of no use any more, as in SQLAlchemy: leave the block.
    """

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit
        self._session: OrmSession | None = None
        self._added: list[object] = []  # before there was a session
        unit.before_commit = lambda tx: self._opened(tx).flush()
        unit.pending = lambda: bool(self._added)

    def __repr__(self) -> str:
        return f"<Session of {self._unit.access.path} {self._unit.state}>"

    async def run_sync(self, fn: Callable[[OrmSession, *Ts], R], *args: *Ts) -> R:
        """Run ``fn(session, *args)`` in the database's thread, with SQLAlchemy's own session, in one visit."""

        def work(tx: SyncTransaction) -> R:
            return fn(self._opened(tx), *args)

        value: R = await self._unit.execute(function=work)
        return value

    def _opened(self, tx: SyncTransaction) -> OrmSession:
        if self._session is None:
            self._session = tx.open_session()
        added, self._added = self._added, []
        self._session.add_all(added)
        return self._session

    def add(self, entity: object) -> None:
        """Store it with the next flush. Sends nothing."""
        self._added.append(entity)

    def add_all(self, entities: Iterable[object]) -> None:
        """Store all of them with the next flush."""
        self._added.extend(entities)

    async def get(self, entity: type[T], key: Any, **options: Any) -> T | None:
        """The entity with that primary key, or None. Options are those of SQLAlchemy's ``Session.get``."""
        return await self.run_sync(lambda session: session.get(entity, key, **options))

    async def scalars(self, statement: TypedReturnsRows[T], parameters: Any = None) -> Sequence[T]:
        """The first column of all rows: entities, for ``select(Entity)``."""
        return await self.run_sync(lambda session: session.scalars(statement, parameters).unique().all())

    async def scalar(self, statement: TypedReturnsRows[T], parameters: Any = None) -> T | None:
        """The first column of the first row, or None without a row."""
        return await self.run_sync(lambda session: session.scalar(statement, parameters))

    async def execute(self, statement: Executable, parameters: Any = None) -> Sequence[Any]:
        """The rows of a statement; none for one that returns none."""

        def execute(session: OrmSession) -> Sequence[Any]:
            result: Any = session.execute(statement, parameters)
            return cast("Sequence[Any]", result.all()) if getattr(result, "returns_rows", True) else []

        return await self.run_sync(execute)

    async def delete(self, entity: object) -> None:
        """Delete it with the next flush; what hangs on it is loaded for that."""
        await self.run_sync(lambda session: session.delete(entity))

    async def merge(self, entity: T) -> T:
        """The entity of this session that has the same key, with the values of this one."""
        return await self.run_sync(lambda session: session.merge(entity))

    async def refresh(self, entity: object, attributes: Iterable[str] | None = None) -> None:
        """Load it anew, or only these attributes."""
        names = None if attributes is None else list(attributes)
        await self.run_sync(lambda session: session.refresh(entity, names))

    async def flush(self) -> None:
        """Write what has changed, inside of the transaction. The end of the block does that, too."""
        await self.run_sync(lambda session: session.flush())

    async def publish(self, message: Publishable) -> None:
        """See `Transaction.publish`."""
        self._unit.publish(row_of(message))

    def close(self) -> None:
        """The block is left: its entities stay readable, as far as they were loaded. For the component's own use."""
        if self._session is not None:
            self._session.expunge_all()
