"""What the database answers when it does not answer with rows."""

from __future__ import annotations

from typing import ClassVar, Literal

from ...runtime.errors import CallFailed, CrecheError, DomainError, Unavailable

ConflictKind = Literal["unique", "primary_key", "foreign_key", "not_null", "check", "other"]
LostReason = Literal["crash", "timeout", "cancelled", "rolled_back"]


class RowNotFound(DomainError):
    """`one` found no row. Contrast `first`, which returns None."""

    http_status: ClassVar[int] = 404
    grpc_status: ClassVar[str] = "NOT_FOUND"

    def __init__(self) -> None:
        super().__init__(404, "no such row")


class Conflict(DomainError):
    """A constraint forbids what the statement would store, so it stored nothing.

    `kind` is the sort of constraint; `constraint` the database's own text, which names tables and columns and so
    stays out of `message`; `columns` those that it names, as ``table.column``. The usual kinds have classes of their
    own.
    """

    http_status: ClassVar[int] = 409
    grpc_status: ClassVar[str] = "FAILED_PRECONDITION"

    def __init__(self, kind: ConflictKind, constraint: str, columns: tuple[str, ...] = ()) -> None:
        super().__init__(409, "in conflict with what is stored")
        self.kind: ConflictKind = kind
        self.constraint = constraint
        self.columns = columns

    def __str__(self) -> str:
        return f"{self.message}: {self.constraint}"


class UniqueViolation(Conflict):
    """There is such a row already: `kind` is ``unique`` or ``primary_key``."""

    grpc_status: ClassVar[str] = "ALREADY_EXISTS"


class ForeignKeyViolation(Conflict):
    """It refers to a row that is not there, or others refer to it. A deferred one is raised by COMMIT."""


class NotNullViolation(Conflict):
    """A value is missing."""


class CheckViolation(Conflict):
    """A value is none of those that the table's CHECK allows."""


class MultipleRows(CrecheError):
    """`one` found more than one row: the statement asks for less than its author thinks. Contrast `RowNotFound`."""

    def __init__(self) -> None:
        super().__init__("more than one row; use first() if any of them will do")


class StatementInvalid(CrecheError):
    """The database refused the statement itself: unknown table, wrong syntax, a value it cannot store.

    A bug of whoever wrote the statement, not of the database, which lives on. `__cause__` is the driver's error.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ShardKeyMissing(StatementInvalid):
    """The statement names a sharded table, but not through a shard, so nobody can tell which table is meant."""

    def __init__(self, table: str) -> None:
        super().__init__(
            f"table {table!r} is sharded: execute the statement on `db.shard(key)`, or on all `db.shards()`"
        )
        self.table = table


class Busy(Unavailable):
    """Another process held the database locked for longer than `Config.busy_timeout`. Nothing was done."""


class TransactionLost(CallFailed):
    """The transaction was rolled back before COMMIT was sent: nothing of it is stored, and a retry is safe.

    `reason`: ``crash`` (the db's incarnation ended), ``timeout`` (open for longer than
    `Config.transaction_timeout`), ``cancelled`` (one of its statements was), ``rolled_back`` (by the database itself
    or by a ROLLBACK in the body). Contrast `OutcomeUnknown`, where COMMIT had been sent.
    """

    def __init__(self, path: str, reason: LostReason) -> None:
        super().__init__(path, f"transaction lost ({reason}): it was rolled back, a retry is safe")
        self.reason: LostReason = reason


class TransactionNested(CrecheError):
    """A task that is inside a transaction used the database beside it, which would wait for itself."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path}: this task has a transaction open; inside `async with db.transaction() as tx:` "
            "call the methods of `tx`, not those of the database"
        )
        self.path = path


class MigrationInvalid(CrecheError, ValueError):
    """The migrations themselves are wrong: a file without a number, a number given twice, no SQL in a file."""


class MigrationsDiffer(CrecheError):
    """The database has been migrated by other migrations than these, so the start is refused and nothing is changed.

    `version` is that of the first difference.
    """

    def __init__(self, version: int, difference: str) -> None:
        super().__init__(
            f"migration {version}: {difference}; migrations that have been applied stay as they are: restore it, "
            "and put what is new into a migration with a higher number"
        )
        self.version = version
        self.difference = difference


class MigrationFailed(CrecheError):
    """A migration was refused by the database. It and those after it have been undone; `__cause__` says why."""

    def __init__(self, version: int, name: str, reason: str) -> None:
        super().__init__(f"migration {version} ({name}): {reason}")
        self.version = version
        self.name = name
        self.reason = reason


class BackupDamaged(CrecheError):
    """The file is no sound copy of a database. `problems` are what the checks found."""

    def __init__(self, path: str, problems: tuple[str, ...]) -> None:
        super().__init__(f"{path}: {'; '.join(problems[:3])}")
        self.path = path
        self.problems = problems
