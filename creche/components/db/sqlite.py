"""A connection to SQLite: everything that blocks, and nothing else. Runs in worker threads, one call at a time.

Theory of operation
-------------------
Transactions are ours: the driver and SQLAlchemy are both told to leave them alone (AUTOCOMMIT), and BEGIN, COMMIT and
ROLLBACK are sent as they are. A writer begins with IMMEDIATE, which takes the write lock at once: a transaction that
read first and wrote later could be refused in the middle.

A visit carries one job, or several that share a transaction (group commit): they are executed one after the other
inside of one BEGIN and COMMIT, so that the disk is waited for once, and are told of their success after COMMIT. Each of
them is undone by itself if it fails: a single statement by SQLite, everything else by a savepoint. If the database
rolls the whole transaction back on its own (an interrupt, a full disk), or refuses COMMIT (a deferred constraint of one
of them), nothing is stored and nobody has been told anything, so each one is done again by itself.

An abandoned job is interrupted through SQLite's progress handler, which looks every few milliseconds of work. Contrast
`sqlite3.Connection.interrupt()` from the event loop: a call that comes between two statements is forgotten by SQLite,
so it would need a handler like this one beside it. What is interrupted is rolled back here, in the same visit.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast, final

from outcome import Error, Outcome, Value

from ...runtime.errors import ConfigInvalid
from ..wal import use_wal
from . import outbox
from .config import Config
from .driver import Driver, raw_connection
from .errors import StatementInvalid
from .faults import Faults, driver_error
from .line import Interrupted, Job
from .migrations import Migration, migrate
from .sync import SyncTransaction
from .work import OutboxRow, Result, Statement

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.engine import Connection, CursorResult
    from sqlalchemy.orm import Session as OrmSession

# Instructions of SQLite's virtual machine between two looks for a cancel: 5 to 10 ms of work, and less than a
# thousandth of it in cost. Each look takes the GIL, so it must not be much oftener.
CANCEL_CHECK_EVERY = 500_000
# Seconds after which a visit begins with no further job: so long do the first of a group wait for the others at most,
# but for the last one's own time.
VISIT_BUDGET = 0.01


@final
class Sqlite:
    """One connection.

    Parameters
    ----------
    name
        The component's, for errors.
    driver
        Makes the connection.
    read_only
        Whether it refuses to write, as readers do.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        driver: Driver,
        *,
        read_only: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._config = config
        self._driver = driver
        self._read_only = read_only
        self._clock = clock
        self._faults = Faults(name, config.busy_timeout)
        self._connection: Connection | None = None
        self._raw: sqlite3.Connection | None = None
        self._job: Job | None = None  # what may be interrupted
        self._visitor: int | None = None  # the thread that is in here
        self.ending = False  # set in the Trio thread: give up what can be given up, and begin nothing more

    # --- opening and closing ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the file."""
        try:
            self._connect()
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                self._faults.raise_translated(error)
            raise

    def close(self) -> None:
        """Close the connection. What has not been committed is rolled back."""
        connection, self._connection, self._raw = self._connection, None, None
        if connection is not None:
            connection.close()

    @property
    def is_open(self) -> bool:
        """Whether it has been opened and not closed."""
        return self._raw is not None

    def _connect(self) -> None:
        self._connection = self._driver.connect(self._config)
        self._raw = raw_connection(self._connection)
        self._set_up(self._raw)

    def _set_up(self, raw: sqlite3.Connection) -> None:
        if not use_wal(raw, self._config.busy_timeout):
            raise ConfigInvalid("$.path", self._config.path, "its file system does not support SQLite's WAL mode")
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute(f"PRAGMA synchronous = {self._config.synchronous}")
        if self._read_only:
            raw.execute("PRAGMA query_only = ON")
            raw.execute("PRAGMA busy_timeout = 0")
        raw.set_progress_handler(self._look_for_cancel, CANCEL_CHECK_EVERY)

    def prepare(self, database_id: str, metadata: MetaData | None, migrations: Sequence[Migration] | None) -> None:
        """Make what is missing in the file. A new file becomes the database of that id.

        Migrations and tables in one transaction each, with the lock held: another process may be starting on the file.
        """
        raw = self._opened()
        try:
            raw.execute("BEGIN IMMEDIATE")
            for statement in outbox.SCHEMA:
                raw.execute(statement)
            raw.execute(outbox.SET_DATABASE_ID, (database_id,))
            if migrations is not None:
                migrate(raw, migrations, self._faults)
            self._create_tables(metadata)
            raw.execute("COMMIT")
            raw.execute("PRAGMA busy_timeout = 0")
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                self._faults.raise_translated(error)
            raise

    def _create_tables(self, metadata: MetaData | None) -> None:
        """All at once, where SQLAlchemy would look for each table by itself. Its events come all the same."""
        assert self._connection is not None
        if metadata is None:
            return
        router = self._driver.router
        wanted = metadata if router is None else router.physical(metadata)
        names = {name.lower() for (name,) in self._opened().execute("SELECT name FROM sqlite_master")}
        missing = [one for one in wanted.tables.values() if one.schema is not None or one.name.lower() not in names]
        wanted.create_all(self._connection, missing, checkfirst=any(table.schema is not None for table in missing))

    def _opened(self) -> sqlite3.Connection:
        assert self._raw is not None
        return self._raw

    # --- visits -------------------------------------------------------------------------------------------------------

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open. To be asked while no visit is under way."""
        return self._raw is not None and self._raw.in_transaction

    def visit(self, jobs: Sequence[Job], roll_back: bool = False) -> None:
        """Carry out jobs and set their outcomes: those of `Work`, the declared errors of `Db`, or `Interrupted`.

        A job that ended with an error has stored nothing; of an open transaction only its last step has been undone,
        unless that was interrupted: then all of it. A job without an outcome was not begun.
        """
        self._visitor = threading.get_ident()
        try:
            if not self.is_open:
                self.open()
            if roll_back and self.in_transaction:
                self.roll_back()
            self._do_all(jobs)
        finally:
            self._job = self._visitor = None

    def roll_back(self) -> None:
        """Roll back what is open."""
        self._opened().execute("ROLLBACK")

    def _do_all(self, jobs: Sequence[Job]) -> None:
        until = self._clock() + VISIT_BUDGET
        if len(jobs) > 1 and not all(job.work.reads for job in jobs):
            self._do_together(jobs, until)
        for number, job in enumerate(jobs):
            if job.outcome is None and (number == 0 or self._clock() < until):
                if self.ending and not (job.work.inside and job.work.commit):
                    return
                self._job = job
                job.outcome = self._alone(job)

    def _alone(self, job: Job) -> Outcome[Any]:
        work = job.work
        try:
            return Value(self._steps(job))
        except Exception as error:
            interrupted = isinstance(error, Interrupted) or self._was_interrupted(error)
            if self.in_transaction and (work.commit or interrupted):
                self.roll_back()
            untouched = not (work.inside or self.in_transaction)
            return self._failed(job, error, interrupted, nothing_done=untouched)

    def _steps(self, job: Job) -> Any:
        raw, work = self._opened(), job.work
        if work.begin:
            self._check(job)
            raw.execute("BEGIN DEFERRED" if self._read_only else "BEGIN IMMEDIATE")
        value = self._part(job)
        if work.commit:
            if not work.inside:
                self._check(job)
            self._job = None
            raw.execute("COMMIT")
        return value

    def _part(self, job: Job) -> Any:
        """The work between BEGIN and COMMIT."""
        work = job.work
        value: Any = [self._execute(statement, job) for statement in work.statements]
        if work.function is not None:
            value = self._call(work.function, job)
        if work.published:
            self._opened().executemany(outbox.INSERT, work.published)
        return value

    # --- several in one transaction -----------------------------------------------------------------------------------

    def _do_together(self, jobs: Sequence[Job], until: float) -> None:
        """Give all of them their outcomes, or leave those without that have to be done by themselves."""
        raw = self._opened()
        try:
            raw.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            for job in jobs:
                if not job.work.reads:
                    job.outcome = Error(self._faults.translated(error, nothing_done=True))
            return
        outcomes: list[tuple[Job, Outcome[Any]]] = []
        for job in jobs:
            self._job = job
            outcomes.append((job, self._undoable_part(job)))
            if not raw.in_transaction:
                return  # the database has rolled all of them back
            if self._clock() > until or self.ending:
                break
        if self._commit_group(raw):
            for job, outcome in outcomes:
                job.outcome = outcome

    def _commit_group(self, raw: sqlite3.Connection) -> bool:
        self._job = None
        try:
            raw.execute("COMMIT")
        except sqlite3.Error:
            if raw.in_transaction:
                self.roll_back()
            return False
        return True

    def _undoable_part(self, job: Job) -> Outcome[Any]:
        try:
            if job.work.single or job.work.reads:
                return Value(self._part(job))
            return Value(self._saved(lambda: self._part(job)))
        except Exception as error:
            return self._failed(job, error, isinstance(error, Interrupted) or self._was_interrupted(error))

    def _saved(self, do: Callable[[], Any]) -> Any:
        """Undo it as a whole, and nothing else, if it fails."""
        raw = self._opened()
        raw.execute("SAVEPOINT creche")
        try:
            value = do()
        except Exception:
            if raw.in_transaction:
                raw.execute("ROLLBACK TO creche")
                raw.execute("RELEASE creche")
            raise
        raw.execute("RELEASE creche")
        return value

    # --- statements and functions -------------------------------------------------------------------------------------

    def _execute(self, statement: Statement, job: Job) -> Result:
        self._check(job)
        if statement.many and self.in_transaction and not job.work.commit:
            return cast("Result", self._saved(lambda: self._executed(statement, job)))
        return self._executed(statement, job)

    def _executed(self, statement: Statement, job: Job) -> Result:
        assert self._connection is not None
        began = self._clock()
        cursor = self._connection.execute(statement.executable, statement.parameters)
        try:
            result = _fetched(cursor, statement.limit)
        finally:
            cursor.close()  # an unfinished statement would hold its snapshot, or its write lock
        took = self._clock() - began
        if took > self._config.slow_after:
            job.slow.append((str(cursor.context.statement), took))
        return result

    def _call(self, function: Callable[[SyncTransaction], Any], job: Job) -> Any:
        def execute(statement: Statement) -> Result:
            if statement.controls:
                raise StatementInvalid("a function in a transaction leaves BEGIN, COMMIT and ROLLBACK to the component")
            try:
                return self._execute(statement, job)
            except Interrupted:
                raise
            except Exception as error:
                if self._was_interrupted(error):
                    raise Interrupted from error
                raise self._faults.translated(error) from error

        def publish(row: OutboxRow) -> None:
            self._opened().execute(outbox.INSERT, row)
            job.published = True

        tx = SyncTransaction(execute, publish, self.new_session)
        try:
            value = function(tx)
            tx.finish()
        finally:
            tx.close()
        return value

    def new_session(self) -> OrmSession:
        """An ORM session on this connection, whose transactions stay ours."""
        from sqlalchemy import event
        from sqlalchemy.orm import Session

        assert self._connection is not None
        if not self._connection.in_transaction():
            self._connection.begin()  # SQLAlchemy's notion of one; nothing is sent
        session = Session(self._connection, expire_on_commit=False, join_transaction_mode="rollback_only")
        event.listen(session, "do_orm_execute", self._refuse_from_outside)
        return session

    def _refuse_from_outside(self, _state: object) -> None:
        if self._visitor != threading.get_ident():
            raise StatementInvalid(
                "an attribute that is not loaded would have been fetched from outside of the database's thread: load "
                "it with the query (selectinload ...), or inside of `await session.run_sync(fn)`"
            )

    # --- cancels and errors -------------------------------------------------------------------------------------------

    def _check(self, job: Job) -> None:
        if job.abandoned or self.ending:
            raise Interrupted

    def _look_for_cancel(self) -> int:
        """SQLite's progress handler: anything but 0 ends the statement with SQLITE_INTERRUPT."""
        job = self._job
        return int(job is not None and (job.abandoned or self.ending))

    def _was_interrupted(self, error: Exception) -> bool:
        code = getattr(driver_error(error), "sqlite_errorcode", 0)
        return bool(code & 0xFF == sqlite3.SQLITE_INTERRUPT)

    def _failed(self, job: Job, error: Exception, interrupted: bool, *, nothing_done: bool = False) -> Outcome[Any]:
        if interrupted:
            return Error(Interrupted())
        if job.work.function is not None and driver_error(error) is None:
            return Error(error)  # the author's own
        return Error(self._faults.translated(error, nothing_done=nothing_done))


def _fetched(cursor: CursorResult[*tuple[Any, ...]], limit: int | None) -> Result:
    if not cursor.returns_rows:
        return Result(cursor.rowcount, cursor.lastrowid if cursor.is_insert else None, [])
    rows = list(cursor.all() if limit is None else cursor.fetchmany(limit))
    return Result(len(rows), cursor.lastrowid if cursor.is_insert else None, rows)
