"""The one seam where errors of the driver and of SQLAlchemy become ours."""

from __future__ import annotations

import re
import sqlite3
from typing import NoReturn, final

from ...runtime.errors import CrecheError, Unavailable
from .errors import (
    Busy,
    CheckViolation,
    Conflict,
    ConflictKind,
    ForeignKeyViolation,
    NotNullViolation,
    StatementInvalid,
    UniqueViolation,
)

_CONFLICTS: dict[str, tuple[type[Conflict], ConflictKind]] = {
    "SQLITE_CONSTRAINT_UNIQUE": (UniqueViolation, "unique"),
    "SQLITE_CONSTRAINT_PRIMARYKEY": (UniqueViolation, "primary_key"),
    "SQLITE_CONSTRAINT_ROWID": (UniqueViolation, "primary_key"),
    "SQLITE_CONSTRAINT_FOREIGNKEY": (ForeignKeyViolation, "foreign_key"),
    "SQLITE_CONSTRAINT_NOTNULL": (NotNullViolation, "not_null"),
    "SQLITE_CONSTRAINT_CHECK": (CheckViolation, "check"),
}
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DISK = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_DISK_RETRY_AFTER = 1.0  # seconds
_COLUMN = re.compile(r"\w+\.\w+")


class LockedAtStart(Busy):
    """Locked before anything was done: the whole work may be tried again. Never leaves the actor."""


@final
class Faults:
    """Translates errors. `name` is the component's; `busy_timeout` the hint that goes with `Busy`, in seconds."""

    def __init__(self, name: str, busy_timeout: float) -> None:
        self._name = name
        self._busy_timeout = busy_timeout

    def translated(self, error: Exception, *, nothing_done: bool = False) -> CrecheError | ImportError:
        """What the caller is to see for an error of the driver, of SQLAlchemy, or of the values it was given."""
        if isinstance(error, (CrecheError, ImportError)):
            return error
        driver = driver_error(error)
        found = (
            StatementInvalid(f"{type(error).__name__}: {error}") if driver is None else self._of(driver, nothing_done)
        )
        found.__cause__ = error
        return found

    def raise_translated(self, error: Exception) -> NoReturn:
        """Raise it."""
        raise self.translated(error)

    def _of(self, driver: sqlite3.Error, nothing_done: bool) -> CrecheError:
        code = getattr(driver, "sqlite_errorcode", 0) & 0xFF
        text = str(driver)
        if code == sqlite3.SQLITE_CONSTRAINT:
            kind, name = _CONFLICTS.get(driver.sqlite_errorname, (Conflict, "other"))
            return kind(name, text, tuple(_COLUMN.findall(text.partition(":")[2])))
        if code in _LOCKED:
            return (LockedAtStart if nothing_done else Busy)(self._name, text, self._busy_timeout)
        if code in _DISK:
            return Unavailable(self._name, text, _DISK_RETRY_AFTER)
        return StatementInvalid(text)


def driver_error(error: BaseException) -> sqlite3.Error | None:
    """The error of the driver that this one is, or wraps."""
    inner = getattr(error, "orig", None) or error
    return inner if isinstance(inner, sqlite3.Error) else None
