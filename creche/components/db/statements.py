"""What can be asked of a database, in a transaction or without one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, overload

from .sync import only
from .work import Parameters, Result, Statement

if TYPE_CHECKING:
    from sqlalchemy.engine import Row
    from sqlalchemy.sql import Executable
    from sqlalchemy.sql.selectable import TypedReturnsRows

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Statements(ABC):
    """The methods that `Db` and `Transaction` have in common.

    Statements are SQLAlchemy 2 Core executables (``select``, ``insert``, ``update``, ``delete``, ``text``, DDL);
    `parameters` are values for their bind parameters, or a list of such for an executemany. Rows come back complete and
    detached from the connection. An ORM entity in a ``select`` yields its columns.

    All of them raise:

    * `Conflict`: a constraint forbids it, and the statement has changed nothing.
    * `StatementInvalid`: the database refused the statement.
    * `Busy`: another process held the file locked for `Config.busy_timeout`; `Unavailable`: the disk failed.
    * outside of transactions the `CallFailed` errors of any call: `NotDelivered` (never executed), `OutcomeUnknown`
      (the db actor died while executing it);
    * inside of one `TransactionLost`.

    If the caller is cancelled, a statement still waiting is never executed and one that runs is interrupted: then it
    has done nothing. (One that was done before the cancel could reach it returns its result.)
    """

    @abstractmethod
    async def _run(self, statements: tuple[Statement, ...]) -> list[Result]:
        """Execute them, as one unit."""

    async def execute(self, statement: Executable, parameters: Parameters | None = None) -> Result:
        """Execute one statement and return what it did."""
        (result,) = await self._run((Statement(statement, parameters),))
        return result

    async def execute_many(self, *statements: Executable) -> list[Result]:
        """Execute several statements in one go, which costs hardly more than one alone.

        On the database itself they are one transaction: all or nothing. Inside a transaction the first error ends the
        go; what was executed before it stands.
        """
        return await self._run(tuple(map(Statement, statements)))

    @overload
    async def first(
        self, statement: TypedReturnsRows[*Ts], parameters: Parameters | None = None
    ) -> Row[*Ts] | None: ...

    @overload
    async def first(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> Row[*tuple[Any, ...]] | None: ...

    async def first(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """The first row, or None."""
        rows = await self._rows(statement, parameters, 1)
        return rows[0] if rows else None

    @overload
    async def one(self, statement: TypedReturnsRows[*Ts], parameters: Parameters | None = None) -> Row[*Ts]: ...

    @overload
    async def one(self, statement: Executable, parameters: Parameters | None = None) -> Row[*tuple[Any, ...]]: ...

    async def one(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """The only row. Raises `RowNotFound` if there is none, `MultipleRows` if there are more."""
        rows = await self._rows(statement, parameters, 2)
        return only(rows)

    @overload
    async def all(self, statement: TypedReturnsRows[*Ts], parameters: Parameters | None = None) -> list[Row[*Ts]]: ...

    @overload
    async def all(self, statement: Executable, parameters: Parameters | None = None) -> list[Row[*tuple[Any, ...]]]: ...

    async def all(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """All rows."""
        return await self._rows(statement, parameters, None)

    @overload
    async def scalar(self, statement: TypedReturnsRows[T], parameters: Parameters | None = None) -> T | None: ...

    @overload
    async def scalar(self, statement: Executable, parameters: Parameters | None = None) -> Any: ...

    async def scalar(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """The first column of the first row, or None without a row."""
        rows = await self._rows(statement, parameters, 1)
        return rows[0][0] if rows else None

    async def _rows(self, statement: Executable, parameters: Parameters | None, limit: int | None) -> list[Any]:
        (result,) = await self._run((Statement(statement, parameters, limit),))
        return result.rows
