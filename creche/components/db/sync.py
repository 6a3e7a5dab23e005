"""What a plain function gets that `transact_sync` runs in the database's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, final, overload

import trio

from .errors import MultipleRows, RowNotFound
from .outbox import Publishable, row_of
from .work import OutboxRow, Parameters, Result, Statement

if TYPE_CHECKING:
    from sqlalchemy.engine import Row
    from sqlalchemy.orm import Session as OrmSession
    from sqlalchemy.sql import Executable
    from sqlalchemy.sql.selectable import TypedReturnsRows

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@final
class SyncTransaction:
    """A transaction for one visit to the thread: the same methods as `Transaction`, without ``await``.

    Errors are the same, too. It ends with the function; using it afterwards raises `trio.ClosedResourceError`.
    """

    def __init__(
        self,
        execute: Callable[[Statement], Result],
        publish: Callable[[OutboxRow], None],
        open_session: Callable[[], OrmSession],
    ) -> None:
        self._execute = execute
        self._publish = publish
        self._open_session = open_session
        self._route: Callable[[Executable], Executable] = lambda statement: statement
        self._session: OrmSession | None = None
        self._over = False

    @property
    def session(self) -> OrmSession:
        """An SQLAlchemy ORM session in this transaction. It is flushed when the function returns, and closed then.

        Its objects stay readable afterwards, as far as they were loaded. Its ``commit()`` only flushes.
        """
        self._check()
        if self._session is None:
            self._session = self._open_session()
        return self._session

    def open_session(self) -> OrmSession:
        """One that outlives the visit. For the component's own use."""
        return self._open_session()

    def routed(self, route: Callable[[Executable], Executable]) -> SyncTransaction:
        """Itself, with statements changed on their way from now on. For the component's own use."""
        self._route = route
        return self

    def execute(self, statement: Executable, parameters: Parameters | None = None) -> Result:
        """Execute one statement and return what it did."""
        self._check()
        return self._execute(Statement(self._route(statement), parameters))

    @overload
    def first(self, statement: TypedReturnsRows[*Ts], parameters: Parameters | None = None) -> Row[*Ts] | None: ...

    @overload
    def first(self, statement: Executable, parameters: Parameters | None = None) -> Row[*tuple[Any, ...]] | None: ...

    def first(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """The first row, or None."""
        rows = self._rows(statement, parameters, 1)
        return rows[0] if rows else None

    @overload
    def one(self, statement: TypedReturnsRows[*Ts], parameters: Parameters | None = None) -> Row[*Ts]: ...

    @overload
    def one(self, statement: Executable, parameters: Parameters | None = None) -> Row[*tuple[Any, ...]]: ...

    def one(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """The only row. Raises `RowNotFound` if there is none, `MultipleRows` if there are more."""
        return only(self._rows(statement, parameters, 2))

    @overload
    def all(self, statement: TypedReturnsRows[*Ts], parameters: Parameters | None = None) -> list[Row[*Ts]]: ...

    @overload
    def all(self, statement: Executable, parameters: Parameters | None = None) -> list[Row[*tuple[Any, ...]]]: ...

    def all(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """All rows."""
        return self._rows(statement, parameters, None)

    @overload
    def scalar(self, statement: TypedReturnsRows[T], parameters: Parameters | None = None) -> T | None: ...

    @overload
    def scalar(self, statement: Executable, parameters: Parameters | None = None) -> Any: ...

    def scalar(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """The first column of the first row, or None without a row."""
        rows = self._rows(statement, parameters, 1)
        return rows[0][0] if rows else None

    def publish(self, message: Publishable) -> None:
        """Put a message into the outbox. See `Transaction.publish`."""
        self._check()
        self._publish(row_of(message))

    def finish(self) -> None:
        """The function has returned: write what its session still holds. For the component's own use."""
        if self._session is not None:
            self._session.flush()

    def close(self) -> None:
        """The visit is over. For the component's own use."""
        self._over = True
        if self._session is not None:
            self._session.close()

    def _rows(self, statement: Executable, parameters: Parameters | None, limit: int | None) -> list[Any]:
        self._check()
        return self._execute(Statement(self._route(statement), parameters, limit)).rows

    def _check(self) -> None:
        if self._over:
            raise trio.ClosedResourceError("the transaction has ended: its function has returned")


def only(rows: list[Any]) -> Any:
    """The only row. Raises `RowNotFound` or `MultipleRows`."""
    if not rows:
        raise RowNotFound
    if len(rows) > 1:
        raise MultipleRows
    return rows[0]
