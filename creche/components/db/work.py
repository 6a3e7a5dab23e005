"""What travels between the handle, the line and the threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.engine import Row
    from sqlalchemy.sql import Executable

    from .sync import SyncTransaction

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]
# (topic, key, value, headers as JSON)
OutboxRow = tuple[str, bytes | None, bytes, str]

# What may stand at the beginning of a text that shares a transaction with the work of others. All else (VACUUM,
# PRAGMA, BEGIN, DDL ...) is executed by itself.
_SHARING_TEXTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "VALUES", "WITH")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement to execute, the values for its placeholders, and how many rows are wanted at most (None: all)."""

    executable: Executable
    parameters: Parameters | None = None
    limit: int | None = None

    @property
    def many(self) -> bool:
        """Whether the driver executes it once for each of a list of parameters, and so could stop in the middle."""
        return self.parameters is not None and not isinstance(self.parameters, Mapping)

    @property
    def reads(self) -> bool:
        """Whether it is known to write nothing."""
        return bool(getattr(self.executable, "is_select", False)) or self._text().startswith("SELECT")

    @property
    def shares(self) -> bool:
        """Whether it may be executed inside a transaction that it shares with others."""
        return self._is_known or self._text().startswith(_SHARING_TEXTS)

    @property
    def controls(self) -> bool:
        """Whether it begins or ends transactions."""
        return not self._is_known and self._text().startswith(("BEGIN", "COMMIT", "END", "ROLLBACK"))

    @property
    def _is_known(self) -> bool:
        """Whether it reads or changes rows, and nothing else."""
        return bool(getattr(self.executable, "is_select", False) or getattr(self.executable, "is_dml", False))

    def _text(self) -> str:
        text: object = getattr(self.executable, "text", None)
        return text.lstrip()[:8].upper() if isinstance(text, str) else ""


@dataclass(frozen=True, slots=True)
class Result:
    """What one statement did.

    `rowcount`: rows affected, or returned; -1 where the database does not say. `lastrowid`: the key of the row that a
    single ``insert()`` made, else None. `rows`: those it returned, detached from the connection; empty for a statement
    that returns none.
    """

    rowcount: int
    lastrowid: int | None
    rows: list[Row[*tuple[Any, ...]]]


@dataclass(frozen=True)
class Work:
    """What one caller wants of one visit to the thread, in this order: begin, statements, function, outbox, commit.

    What neither begins nor commits is one statement on its own, or a step of the open transaction (`inside`).
    The value is that of the function, or without one the results of the statements.
    """

    statements: tuple[Statement, ...] = ()
    function: Callable[[SyncTransaction], Any] | None = None
    published: tuple[OutboxRow, ...] = ()
    begin: bool = False
    inside: bool = False
    commit: bool = False

    @property
    def opens(self) -> bool:
        """Whether a transaction stays open after it."""
        return self.begin and not self.commit

    @property
    def shares(self) -> bool:
        """Whether it may share a visit, and a transaction, with the work of others."""
        return not (self.inside or self.opens) and all(statement.shares for statement in self.statements)

    @property
    def reads(self) -> bool:
        """Whether it is known to write nothing."""
        return (
            self.function is None
            and not self.published
            and not self.opens
            and all(statement.reads for statement in self.statements)
        )

    @property
    def single(self) -> bool:
        """Whether it is undone as a whole by the database itself if it fails."""
        return self.function is None and len(self.statements) == 1 and not self.statements[0].many


def unit(statements: tuple[Statement, ...]) -> Work:
    """Statements that are a transaction of their own, all or nothing."""
    plain = len(statements) == 1 and not statements[0].many
    return Work(statements, begin=not plain, commit=not plain)
