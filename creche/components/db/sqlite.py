"""The connection to SQLite: everything that blocks, and nothing else. Runs in worker threads, one call at a time.

Transactions are ours: the driver and SQLAlchemy are both told to leave them alone (AUTOCOMMIT), and BEGIN IMMEDIATE,
COMMIT and ROLLBACK are sent as they are. IMMEDIATE takes the write lock at once: a transaction that read first and
wrote later could be refused in the middle.

A cancel reaches a running statement through SQLite's progress handler, which asks Trio every few milliseconds of work
whether the task that waits for this thread has been cancelled. Contrast `sqlite3.Connection.interrupt()` from the event
loop: a call that comes between two statements is forgotten by SQLite, so it would need a handler like this one beside
it. What is interrupted is rolled back here, in the same visit to the thread.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast, final

import trio

from ...runtime.errors import ConfigInvalid, Unavailable
from . import outbox
from .config import Config
from .errors import Busy, Conflict, ConflictKind, StatementInvalid
from .work import Done, Result, Statement, Work

if TYPE_CHECKING:
    from types import ModuleType

    from sqlalchemy import MetaData
    from sqlalchemy.engine import Connection, CursorResult

# Instructions of SQLite's virtual machine between two looks for a cancel: 5 to 10 ms of work, and less than a
# thousandth of it in cost. Each look takes the GIL, so it must not be much oftener.
CANCEL_CHECK_EVERY = 500_000

_CONFLICTS: dict[str, ConflictKind] = {
    "SQLITE_CONSTRAINT_UNIQUE": "unique",
    "SQLITE_CONSTRAINT_PRIMARYKEY": "primary_key",
    "SQLITE_CONSTRAINT_ROWID": "primary_key",
    "SQLITE_CONSTRAINT_FOREIGNKEY": "foreign_key",
    "SQLITE_CONSTRAINT_NOTNULL": "not_null",
    "SQLITE_CONSTRAINT_CHECK": "check",
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


class LockedAtStart(Busy):
    """Locked before anything was done: the whole work may be tried again."""


def sqlalchemy() -> ModuleType:
    """The package, imported when a database is opened and not before."""
    try:
        import sqlalchemy as package
    except ImportError as error:
        raise ImportError("creche.components.db needs SQLAlchemy 2: pip install 'creche[db]'") from error
    return package


@final
class Sqlite:
    """One connection. `name` is the component's, for errors; `metadata` the tables to create if they are missing."""

    def __init__(
        self,
        name: str,
        config: Config,
        metadata: MetaData | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._name = name
        self._config = config
        self._metadata = metadata
        self._clock = clock
        self._connection: Connection | None = None
        self._raw: sqlite3.Connection | None = None
        self._cancelled: trio.Cancelled | None = None  # what the progress handler has seen

    # --- opening and closing ------------------------------------------------------------------------------------------

    def open(self, database_id: str) -> None:
        """Open the file and make what is missing in it. A new file becomes the database of that id."""
        sa = sqlalchemy()
        Path(self._config.path).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=self._config.path),
            poolclass=sa.NullPool,
            # Opening may wait for other processes in the thread; later it is the actor that waits, cancellably.
            connect_args={"check_same_thread": False, "timeout": self._config.busy_timeout},
        )
        try:
            connection: Connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._connection = connection
            self._raw = cast("sqlite3.Connection", connection.connection.dbapi_connection)
            self._set_up()
            self._create(database_id)
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                self._raise_translated(error)
            raise

    def close(self) -> None:
        """Close the connection. What has not been committed is rolled back."""
        connection, self._connection, self._raw = self._connection, None, None
        if connection is not None:
            connection.close()

    def _set_up(self) -> None:
        raw = self._opened()
        (mode,) = raw.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigInvalid("$.path", self._config.path, "its file system does not support SQLite's WAL mode")
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute(f"PRAGMA synchronous = {self._config.synchronous}")
        raw.set_progress_handler(self._look_for_cancel, CANCEL_CHECK_EVERY)

    def _create(self, database_id: str) -> None:
        raw = self._opened()
        # In one transaction: another process may be looking for what is missing at the same time.
        raw.execute("BEGIN IMMEDIATE")
        for statement in outbox.SCHEMA:
            raw.execute(statement)
        raw.execute(outbox.SET_DATABASE_ID, (database_id,))
        if self._metadata is not None:
            assert self._connection is not None
            self._metadata.create_all(self._connection)
        raw.execute("COMMIT")
        raw.execute("PRAGMA busy_timeout = 0")

    def _opened(self) -> sqlite3.Connection:
        assert self._raw is not None
        return self._raw

    # --- work ---------------------------------------------------------------------------------------------------------

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open. To be asked while no work is under way."""
        return self._raw is not None and self._raw.in_transaction

    def run(self, work: Work) -> Done:
        """Do a work and return its results.

        Raises the declared errors of `Db`. Then a work that was to commit has been rolled back; of another one's open
        transaction only the failing statement has been undone, unless it was cancelled: then all of it, and
        `trio.Cancelled` is raised.
        """
        slow: list[tuple[str, float]] = []
        self._cancelled = None
        try:
            results = self._steps(work, slow)
        except Exception as error:
            cancelled, self._cancelled = self._cancelled, None
            if self.in_transaction and (work.commit or cancelled is not None):
                self.rollback()
            if cancelled is not None:
                raise cancelled from None
            self._raise_translated(error, again=not (work.inside or self.in_transaction))
        return Done(results, slow)

    def _steps(self, work: Work, slow: list[tuple[str, float]]) -> list[Result]:
        raw = self._opened()
        if work.begin:
            raw.execute("BEGIN IMMEDIATE")
        results = [self._execute(statement, slow) for statement in work.statements]
        if work.published:
            raw.executemany(outbox.INSERT, work.published)
        if work.commit:
            raw.execute("COMMIT")
        return results

    def rollback(self) -> None:
        """Roll back what is open."""
        self._opened().execute("ROLLBACK")

    def _execute(self, statement: Statement, slow: list[tuple[str, float]]) -> Result:
        assert self._connection is not None
        began = self._clock()
        cursor = self._connection.execute(statement.executable, statement.parameters)
        try:
            result = _fetched(cursor, statement.limit)
        finally:
            cursor.close()  # an unfinished statement would hold its snapshot, or its write lock
        took = self._clock() - began
        if took > self._config.slow_after:
            slow.append((str(cursor.context.statement), took))
        return result

    def _look_for_cancel(self) -> int:
        """SQLite's progress handler: anything but 0 ends the statement with SQLITE_INTERRUPT."""
        try:
            trio.from_thread.check_cancelled()
        except trio.Cancelled as cancelled:
            self._cancelled = cancelled  # raised by `run` when SQLite has unwound
            return 1
        except RuntimeError:
            pass  # no Trio worker thread: a deterministic runtime runs blocking work inline
        return 0

    # --- errors -------------------------------------------------------------------------------------------------------

    def _raise_translated(self, error: Exception, *, again: bool = False) -> NoReturn:
        """Raise what the caller is to see for an error of the driver, of SQLAlchemy, or of the values it was given.

        `again`: nothing has been done, so the whole work may be tried again.
        """
        driver = getattr(error, "orig", None) or error
        if isinstance(error, (Unavailable, ConfigInvalid, ImportError)):
            raise error
        if not isinstance(driver, sqlite3.Error):
            raise StatementInvalid(f"{type(driver).__name__}: {driver}") from error
        code = getattr(driver, "sqlite_errorcode", 0) & 0xFF
        text = str(driver)
        if code == sqlite3.SQLITE_CONSTRAINT:
            raise Conflict(_CONFLICTS.get(driver.sqlite_errorname, "other"), text) from error
        if code in _LOCKED:
            kind = LockedAtStart if again else Busy
            raise kind(self._name, text, self._config.busy_timeout) from error
        if code in _DISK:
            raise Unavailable(self._name, text) from error
        raise StatementInvalid(text) from error


def _fetched(cursor: CursorResult[*tuple[Any, ...]], limit: int | None) -> Result:
    if not cursor.returns_rows:
        return Result(cursor.rowcount, cursor.lastrowid if cursor.is_insert else None, [])
    rows = list(cursor.all() if limit is None else cursor.fetchmany(limit))
    return Result(len(rows), cursor.lastrowid if cursor.is_insert else None, rows)
