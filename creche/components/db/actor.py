"""The actor that owns the connections.

Theory of operation
-------------------
One connection that writes and some that only read, opened and closed in `lifespan`; closing rolls back whatever is
open. Each has a background task, its worker, which takes what waits in its line and carries it through the thread, one
visit at a time (see `line` and `sqlite`). SQLite's WAL lets the readers go on while a transaction is being written.

A thread cannot be abandoned: a worker that is cancelled while it visits waits for the end of the visit, so what became
of its jobs is always known. The thread looks for that cancel as it looks for those of the jobs, and gives up what can
be given up. When all workers are over the connections are closed, and who still waits moves on to the successor's
lines.

Another process that holds the write lock is waited for here, not in the thread: the jobs go back to the head of their
line, where their callers can leave, and are tried again.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, final

import trio
from outcome import Error, Outcome

from ...runtime.actor import Actor, message
from ...runtime.backoff import Backoff
from ...runtime.errors import OutcomeUnknown
from .backup import Backup, make_backup
from .config import Config
from .errors import BackupDamaged, Busy, StatementInvalid
from .events import SlowStatement
from .faults import Faults, LockedAtStart
from .lease import DbLease
from .line import Interrupted, Job, Line
from .migrations import Migration
from .sqlite import Sqlite

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from .sharding import ShardRouter

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

# At most so many jobs share a visit; their results are held until its end.
MOST_AT_ONCE = 256
# Between two tries to get a lock that another process holds: its transactions take milliseconds.
LOCK_BACKOFF = Backoff(first=0.001, factor=1.5, cap=0.05, jitter=0.2, free=0)


@final
class Worker:
    """Serves a line with one connection."""

    def __init__(self, line: Line, connection: Sqlite) -> None:
        self.line = line
        self.connection = connection
        self.limiter = trio.CapacityLimiter(1)
        self.over = trio.Event()
        self.tries = 0  # in a row, that met another process's lock


class DbActor(Actor):
    """See the theory of operation above. Nobody but the component's handle talks to it."""

    def __init__(
        self,
        config: Config,
        metadata: MetaData | None,
        migrations: Sequence[Migration] | None,
        router: ShardRouter | None,
    ) -> None:
        self._config = config
        self._metadata = metadata
        self._migrations = migrations
        runtime = self.context.runtime
        self._lease = lease = DbLease(
            self.context.incarnation, self.context.path, config.pool_size, runtime.deadlines, config.transaction_timeout
        )
        self._writer = self._worker(lease.writer, router, read_only=False)
        readers = [self._worker(lease.reader, router, read_only=True) for _ in range(config.pool_size)]
        self._workers = [self._writer, *readers]

    def _worker(self, line: Line, router: ShardRouter | None, *, read_only: bool) -> Worker:
        connection = Sqlite(self.context.path, self._config, router, read_only=read_only)
        return Worker(line, connection)

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """The connections, and a worker for each."""
        try:
            await self._open()
            async with trio.open_nursery() as workers:  # not background work: a stop would end that before this
                for worker in self._workers:
                    workers.start_soon(self._serve, worker)
                self.context.grant(self._lease)
                try:
                    yield
                    await self._lease.drain()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._end_workers()
        finally:
            with trio.CancelScope(shield=True):
                await self._close()

    async def _end_workers(self) -> None:
        self._lease.close()
        for worker in self._workers:
            await worker.over.wait()
        self._lease.revoke()

    async def _close(self) -> None:
        for worker in self._workers:
            if worker.connection.is_open:
                await self._in_thread(worker, worker.connection.close)

    async def _open(self) -> None:
        database_id = str(uuid.UUID(int=self.context.runtime.random.getrandbits(128), version=4))
        await self._in_thread(self._writer, self._writer.connection.open)
        await self._in_thread(
            self._writer, self._writer.connection.prepare, database_id, self._metadata, self._migrations
        )

    # --- messages -----------------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Answered as soon as there is an incarnation, and so a lease, again."""

    @message(on_caller_gone="cancel", raises=(OSError, BackupDamaged, StatementInvalid), concurrency=1)
    async def backup(self, path: str) -> Backup:
        """See `Db.backup`. Cancelled, it leaves nothing behind."""
        try:
            return await self.context.runtime.run_blocking(make_backup, self._config.path, path)
        except sqlite3.Error as error:
            raise Faults(self.context.path, self._config.busy_timeout).translated(error) from error

    # --- work ---------------------------------------------------------------------------------------------------------

    async def _serve(self, worker: Worker) -> None:
        """Carry out what waits, until the line is closed."""
        try:
            while (jobs := await worker.line.take(MOST_AT_ONCE)) is not None:
                await self._visit(worker, jobs)
        finally:
            worker.line.close()
            worker.over.set()

    async def _visit(self, worker: Worker, jobs: Sequence[Job]) -> None:
        line, connection = worker.line, worker.connection
        roll_back, line.untidy = line.untidy, False
        try:
            await self._in_thread(worker, connection.visit, jobs, roll_back)
        except trio.Cancelled:  # the thread was not entered: a cancel that comes later waits for it
            line.close()
            line.put_back(jobs)
            raise
        except BaseException as error:
            self._give_up(jobs, error)
            raise
        locked = self._report(worker, jobs)
        if line.turn is not None and not connection.in_transaction:
            line.turn.end()  # committed, or rolled back by the database
        line.untidy = line.untidy or (connection.in_transaction and line.turn is None)
        line.done(len(jobs))
        if locked:
            worker.tries += 1
            await trio.sleep(LOCK_BACKOFF.delay(worker.tries, self.context.runtime.random))
        else:
            worker.tries = 0

    def _report(self, worker: Worker, jobs: Sequence[Job]) -> bool:
        """Tell the callers; put back who met a lock or was not begun. Returns whether anybody met a lock."""
        again: list[Job] = []
        locked = False
        for job in jobs:
            if self._is_locked(job):
                locked = True
                again.append(job)
            elif job.outcome is None:
                again.append(job)
            else:
                self._tell(job, job.outcome)
        worker.line.put_back(again)
        return locked

    def _tell(self, job: Job, outcome: Outcome[object]) -> None:
        if self._publishes(job) and not isinstance(outcome, Error):
            self._lease.announce()
        if job.slow:
            self._report_slow(job.slow)
        if isinstance(outcome, Error) and isinstance(outcome.error, Interrupted):
            outcome = job.interrupted(self.context.path)
        job.resolve(outcome)

    def _publishes(self, job: Job) -> bool:
        """Whether messages are in the outbox for good after it."""
        turn = job.turn
        if turn is None:
            return job.published
        turn.published = turn.published or job.published
        return turn.published and job.work.commit

    def _is_locked(self, job: Job) -> bool:
        """Whether another process holds the lock, and it is too early to give up."""
        outcome = job.outcome
        if not (isinstance(outcome, Error) and isinstance(outcome.error, LockedAtStart)):
            return False
        now = self.context.runtime.now()
        if job.give_up_at is None:
            job.give_up_at = now + self._config.busy_timeout
        if now < job.give_up_at:
            return True
        busy = Busy(self.context.path, outcome.error.reason, self._config.busy_timeout)
        busy.__cause__ = outcome.error
        job.outcome = Error(busy)
        return False

    def _give_up(self, jobs: Sequence[Job], error: BaseException) -> None:
        """The visit itself has failed: a bug."""
        for job in jobs:
            if job.task is None:
                continue
            unknown = OutcomeUnknown(self.context.path)
            unknown.__cause__ = error
            job.resolve(Error(unknown))

    def _report_slow(self, slow: Sequence[tuple[str, float]]) -> None:
        events = self.context.runtime.events
        if events.on:
            for sql, seconds in slow:
                now = self.context.runtime.now()
                events.emit(SlowStatement(now, self.context.path, self.context.incarnation, sql, seconds))

    async def _in_thread(self, worker: Worker, fn: Callable[[*Ts], R], *args: *Ts) -> R:
        return await self.context.runtime.run_blocking(fn, *args, limiter=worker.limiter)
