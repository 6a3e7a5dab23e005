"""What travels between the handle, the actor and the worker thread: plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.engine import Row
    from sqlalchemy.sql import Executable

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]
# (topic, key, value, headers as JSON)
OutboxRow = tuple[str, bytes | None, bytes, str]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement to execute, the values for its placeholders, and how many rows are wanted at most (None: all)."""

    executable: Executable
    parameters: Parameters | None = None
    limit: int | None = None


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


@dataclass(frozen=True, slots=True)
class Work:
    """What one turn of the worker thread does, in this order: begin, statements, outbox rows, commit.

    `epoch` and `turn` say on whose right: the incarnation's lease and the turn taken on it. A work that neither
    begins nor commits is either one statement on its own (`inside` False) or the next step of the open transaction.
    """

    epoch: int
    turn: int
    statements: tuple[Statement, ...]
    published: tuple[OutboxRow, ...] = ()
    begin: bool = False
    inside: bool = False
    commit: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The results of a work, and which statements were slow: (SQL, seconds)."""

    results: list[Result]
    slow: list[tuple[str, float]]
