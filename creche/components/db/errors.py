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
    stays out of `message`.
    """

    http_status: ClassVar[int] = 409
    grpc_status: ClassVar[str] = "ALREADY_EXISTS"

    def __init__(self, kind: ConflictKind, constraint: str) -> None:
        super().__init__(409, "in conflict with what is stored")
        self.kind: ConflictKind = kind
        self.constraint = constraint

    def __str__(self) -> str:
        return f"{self.message}: {self.constraint}"


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
