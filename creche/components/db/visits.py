"""One connection at work: it carries what waits in its line through the thread, one visit at a time.

Theory of operation
-------------------
No task carries the jobs. One that comes while the connection has nothing to do begins the visit itself, in its caller's
task, which goes on to park. The end of a visit is a callback in the Trio thread: it tells the callers, and begins the
next visit with all that has come meanwhile. So a lone job costs its caller no more passes of the event loop than
`trio.to_thread.run_sync` would, and jobs that come together share a visit.

The actor's part is `serve`: it waits for the end. A visit that fails is a bug; `serve` raises it, and so the actor
crashes, while its callers are told that the outcome is unknown.

A thread cannot be abandoned: `serve` is not over while a visit is under way, so what became of its jobs is always
known. A cancel of `serve` lets the thread give up what can be given up.

Another process that holds the write lock is waited for here, not in the thread: the jobs go back to the head of their
line, where their callers can leave, and are tried again after a rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, final

import trio
from outcome import Error, Outcome

from ...runtime.backoff import Backoff
from ...runtime.deadlines import Timer
from ...runtime.errors import OutcomeUnknown
from .errors import Busy
from .events import SlowStatement
from .faults import LockedAtStart
from .lease import DbLease
from .line import Interrupted, Job, Line
from .sqlite import Sqlite

if TYPE_CHECKING:
    from ...runtime.context import ActorContext

# At most so many jobs share a visit; their results are held until its end.
MOST_AT_ONCE = 256
# Between two tries to get a lock that another process holds: its transactions take milliseconds.
LOCK_BACKOFF = Backoff(first=0.001, factor=1.5, cap=0.05, jitter=0.2, free=0)


@final
class Visits:
    """Serves a line with one connection. `busy_timeout`: seconds to wait for another process's lock."""

    def __init__(
        self, context: ActorContext, lease: DbLease, line: Line, connection: Sqlite, busy_timeout: float
    ) -> None:
        self._context = context
        self._runtime = context.runtime
        self._lease = lease
        self._line = line
        self._connection = connection
        self._busy_timeout = busy_timeout
        self._visiting = False
        self._visit_over: trio.Event | None = None  # made when somebody waits for it
        self._rest: Timer | None = None
        self._tries = 0  # in a row, that met another process's lock
        self._failure: BaseException | None = None
        self._ended = trio.Event()
        self.over = trio.Event()
        line.served_by(self)

    async def serve(self) -> None:
        """Until the line is closed and the last visit has ended. Raises what a visit has failed with."""
        try:
            await self._ended.wait()
        finally:
            self._connection.ending = True
            self._line.close()
            self._end_rest()
            if self._visiting:
                self._visit_over = trio.Event()
                with trio.CancelScope(shield=True):
                    await self._visit_over.wait()
            self.over.set()
        if self._failure is not None:
            raise self._failure

    def line_closed(self) -> None:
        """See `Server`."""
        self._ended.set()

    def go(self) -> bool:
        """See `Server`."""
        line = self._line
        if self._visiting or self._rest is not None or line.closed:
            return False
        jobs = line.take(MOST_AT_ONCE)
        if not (jobs or line.untidy):
            return False
        roll_back, line.untidy = line.untidy, False
        self._visiting = True
        visit = partial(self._connection.visit, jobs, roll_back)
        try:
            self._runtime.start_blocking(visit, partial(self._visited, jobs))
        except RuntimeError as error:  # there is no thread to be had; its callers may not have parked yet
            trio.lowlevel.current_trio_token().run_sync_soon(self._visited, jobs, Error(error))
        return True

    # --- after a visit ------------------------------------------------------------------------------------------------

    def _visited(self, jobs: Sequence[Job], outcome: Outcome[None]) -> None:
        locked = False
        try:
            outcome.unwrap()
            locked = self._report(jobs)
            self._look_at_transaction()
        except BaseException as error:  # a callback of Trio's must not raise: the actor does
            self._fail(jobs, error)
        self._line.done(len(jobs))
        self._visiting = False
        if self._visit_over is not None:
            self._visit_over.set()
        self._go_on(locked)

    def _go_on(self, locked: bool) -> None:
        if not locked:
            self._tries = 0
            self.go()
            return
        self._tries += 1
        delay = LOCK_BACKOFF.delay(self._tries, self._runtime.random)
        self._rest = Timer(self._runtime.deadlines, self._runtime.now() + delay, self._rested)

    def _rested(self) -> None:
        self._rest = None
        self.go()

    def _end_rest(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _look_at_transaction(self) -> None:
        line, is_open = self._line, self._connection.in_transaction
        if line.turn is not None and not is_open:
            line.turn.end()  # committed, or rolled back by the database
        line.untidy = line.untidy or (is_open and line.turn is None)

    def _fail(self, jobs: Sequence[Job], error: BaseException) -> None:
        """The visit itself has failed: a bug."""
        for job in jobs:
            if job.task is not None:
                unknown = OutcomeUnknown(self._context.path)
                unknown.__cause__ = error
                job.resolve(Error(unknown))
        self._failure = error
        self._line.close()
        self._ended.set()

    def _report(self, jobs: Sequence[Job]) -> bool:
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
        if again:
            self._line.put_back(again)
        return locked

    def _tell(self, job: Job, outcome: Outcome[object]) -> None:
        if self._publishes(job) and not isinstance(outcome, Error):
            self._lease.announce()
        if job.slow:
            self._report_slow(job.slow)
        if isinstance(outcome, Error) and isinstance(outcome.error, Interrupted):
            outcome = job.interrupted(self._context.path)
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
        now = self._runtime.now()
        if job.give_up_at is None:
            job.give_up_at = now + self._busy_timeout
        if now < job.give_up_at:
            return True
        busy = Busy(self._context.path, outcome.error.reason, self._busy_timeout)
        busy.__cause__ = outcome.error
        job.outcome = Error(busy)
        return False

    def _report_slow(self, slow: Sequence[tuple[str, float]]) -> None:
        events = self._runtime.events
        if events.on:
            for sql, seconds in slow:
                now = self._runtime.now()
                events.emit(SlowStatement(now, self._context.path, self._context.incarnation, sql, seconds))
