"""The line of those who wait for a connection: first come, first served, across the lives of the actor.

Theory of operation
-------------------
SQLite works one visit to a thread at a time, so what costs is the visit, not the statement. A caller therefore does not
send a message: it puts a `Job` into the line that the present incarnation lends to its handles, and parks. A connection
that has nothing to do goes to the thread with it at once; one that is there takes along all that has come meanwhile
when it goes again (see `visits`). That is how concurrency of callers becomes throughput, and why the contract about
cancels can be stricter than that of a message: a caller leaves when it is known whether its job was done.

* A job that **waits** leaves the line at once when its caller is cancelled or out of time: it was never executed.
* A job that is **taken** is marked as abandoned. The thread interrupts it, or has already done it; either way its
  caller leaves with the fact: `Cancelled` means undone, a value means done.
* A transaction that stays open over several visits has a `Turn`: until it ends the line serves nobody else. A turn can
  be taken away, by its timeout or by the end of the incarnation; then its running step is interrupted.
* When the incarnation ends, the line is closed and then dissolved: the first in line is woken, queues up at the
  successor's, and wakes the one behind it. So everybody moves over in order and nobody waits for a dead incarnation.
  (If all were woken at once, Trio would run them in random order.)

Everything here runs in the Trio thread, and nothing but who waits awaits. The thread only reads
`Job.abandoned`, and writes `Job.outcome` of the jobs that it was given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import trio
from outcome import Error, Outcome, Value, capture

from ...runtime.deadlines import Deadlines, Timer
from ...runtime.errors import DeadlineExceeded
from .errors import LostReason, TransactionLost
from .work import Work

if TYPE_CHECKING:
    from trio.lowlevel import RaiseCancelT

MOVED: Final = object()  # what a job is told whose line has ended before it was taken


class Interrupted(Exception):
    """The thread gave up a job that was abandoned; nothing of it is stored. Never leaves the handle."""


@final
class Job:
    """One caller's work. `outcome` is what the thread says came of it; None: it was not begun."""

    __slots__ = (
        "abandoned",
        "give_up_at",
        "late",
        "outcome",
        "published",
        "raise_cancel",
        "slow",
        "taken",
        "task",
        "turn",
        "work",
    )

    def __init__(self, work: Work, turn: Turn | None = None) -> None:
        self.work = work
        self.turn = turn
        self.task: trio.lowlevel.Task | None = None  # parked: in the line, or taken
        self.taken = False
        self.abandoned = False
        self.late = False  # its deadline has come
        self.raise_cancel: RaiseCancelT | None = None
        self.outcome: Outcome[Any] | None = None
        self.slow: list[tuple[str, float]] = []  # (SQL, seconds)
        self.published = bool(work.published)
        self.give_up_at: float | None = None  # when to stop waiting for another process's lock

    def resolve(self, outcome: Outcome[Any]) -> None:
        """Let its caller go on. Once."""
        task, self.task = self.task, None
        if self.turn is not None:
            self.turn.step = None
        assert task is not None
        trio.lowlevel.reschedule(task, outcome)

    def interrupted(self, path: str) -> Outcome[Any]:
        """What to tell its caller when nothing of it is stored because it was given up."""
        lost = self.turn.lost if self.turn is not None else None
        if lost is None and self.raise_cancel is not None:
            return capture(self.raise_cancel)
        if lost is None and self.late:
            return Error(DeadlineExceeded(path, delivered=True))
        return Error(TransactionLost(path, lost or "crash"))


@final
class Turn:
    """A transaction that stays open over several visits.

    Parameters
    ----------
    path
        Of the actor, for errors.
    deadlines, timeout
        The runtime's, and after how many seconds, counted from when it was its turn, it is taken away.
    on_lost
        Told when it has been taken away.
    """

    def __init__(self, path: str, deadlines: Deadlines, timeout: float, on_lost: Callable[[LostReason], None]) -> None:
        self.path = path
        self.task = trio.lowlevel.current_task()
        self.lost: LostReason | None = None
        self.step: Job | None = None  # under way, or waiting for the connection
        self.begun = False
        self.published = False  # something, in one of its steps
        self._deadlines = deadlines
        self._timeout = timeout
        self._on_lost: Callable[[LostReason], None] | None = on_lost
        self._timer: Timer | None = None
        self._line: Line | None = None

    @property
    def line(self) -> Line | None:
        """Where it holds up the others; None: it has not begun, or is over."""
        return self._line

    def began(self, line: Line) -> None:
        """It is its turn."""
        self.begun = True
        self._line = line
        self._timer = Timer(self._deadlines, trio.current_time() + self._timeout, lambda: self.lose("timeout"))

    def put_back(self) -> None:
        """It was not its turn after all: BEGIN was refused."""
        self.begun = False
        self._stop_timer()
        line, self._line = self._line, None
        if line is not None:
            line.turn_over(roll_back=False)

    def hold(self) -> None:
        """COMMIT is on its way: it will not be timed out any more."""
        self._stop_timer()

    def lose(self, reason: LostReason) -> None:
        """Take it away. What is under way is interrupted, but for a COMMIT."""
        self.lost = self.lost or reason
        step, on_lost = self.step, self._on_lost
        self.end(roll_back=True)
        if step is not None and step.taken:
            step.abandoned = True
        elif step is not None:
            step.resolve(step.interrupted(self.path))
        if on_lost is not None:
            on_lost(reason)

    def end(self, *, roll_back: bool = False) -> None:
        """Let the others go on. Idempotent."""
        self._stop_timer()
        self._on_lost = None
        line, self._line = self._line, None
        if line is not None:
            line.turn_over(roll_back)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(Protocol):
    """One connection that serves a line. Its methods neither block nor raise."""

    def go(self) -> bool:
        """Begin with what waits. False: it is busy, or there is nothing to do."""
        ...

    def line_closed(self) -> None:
        """There will be nothing more to do."""
        ...


@final
class Line:
    """Who waits for one connection, or for any of several that serve the same line."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.closed = False
        self.turn: Turn | None = None  # whose transaction is open
        self.untidy = False  # a transaction is open that nobody owns any more
        self._servers: list[Server] = []
        self._waiting: deque[Job] = deque()
        self._everyone_gone = trio.Event()
        self._draining = False
        self._dissolved = False
        self._in_hand = 0  # taken and not done

    def __len__(self) -> int:
        """Who waits to be taken."""
        return len(self._waiting)

    @property
    def accepting(self) -> bool:
        """Whether new work may join."""
        return not (self.closed or self._draining)

    # --- callers ------------------------------------------------------------------------------------------------------

    async def wait(self, job: Job) -> Any:
        """Queue up and wait for the outcome; `MOVED` if the line ended before the job was taken."""
        self._waiting.append(job)
        self._wake()
        return await self._park(job)

    async def wait_for_step(self, turn: Turn, job: Job) -> Any:
        """The next step of the open transaction."""
        turn.step = job
        self._wake()
        return await self._park(job)

    async def _park(self, job: Job) -> Any:
        job.task = trio.lowlevel.current_task()

        def abort(raise_cancel: RaiseCancelT) -> trio.lowlevel.Abort:
            if job.taken:
                job.abandoned, job.raise_cancel = True, raise_cancel
                return trio.lowlevel.Abort.FAILED
            self._leave(job)
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def out_of_time(self, job: Job) -> None:
        """The job's deadline has come."""
        job.late = True
        if job.task is None:
            return  # on its way from one line to the next, which asks
        if job.taken:
            job.abandoned = True
        else:
            self._leave(job)
            job.resolve(Error(DeadlineExceeded(self.path, delivered=False)))

    def _leave(self, job: Job) -> None:
        if job.turn is not None and job.turn.step is job:
            job.turn.step = None
        else:
            self._waiting.remove(job)
        job.task = job.task if job.late else None
        self._check_for_the_last()

    # --- connections --------------------------------------------------------------------------------------------------

    def served_by(self, server: Server) -> None:
        """One more connection for this line."""
        self._servers.append(server)

    def _wake(self) -> None:
        for server in self._servers:
            if server.go():
                return

    def take(self, limit: int) -> list[Job]:
        """What to do next, in one visit."""
        if self.turn is not None:
            step = self.turn.step
            return self._taken([step]) if step is not None and not step.taken else []
        jobs: list[Job] = []
        share = min(limit, ceil(len(self._waiting) / len(self._servers)))
        while self._waiting and len(jobs) < share and (not jobs or self._waiting[0].work.shares):
            jobs.append(self._waiting.popleft())
            if not jobs[-1].work.shares:
                break
        return self._taken(jobs)

    def _taken(self, jobs: list[Job]) -> list[Job]:
        self._in_hand += len(jobs)
        for job in jobs:
            job.taken = True
            if job.turn is not None and job.work.opens:
                self.turn = job.turn
                job.turn.step = job
                job.turn.began(self)
        return jobs

    def put_back(self, jobs: Sequence[Job]) -> None:
        """They were not begun: they are first in line again."""
        for job in reversed(jobs):
            if job.work.inside and job.turn is not None:
                job.taken = False
                job.turn.lose("crash")  # which answers it: a step is of no use to the successor
                continue
            if job.work.opens and job.turn is not None:
                job.turn.put_back()
                job.turn.step = None
            job.taken, job.outcome = False, None
            if job.abandoned:
                job.resolve(job.interrupted(self.path))
            elif self._dissolved:
                job.resolve(Value(MOVED))
            else:
                self._waiting.appendleft(job)

    def turn_over(self, roll_back: bool) -> None:
        """The open transaction has ended, or has been abandoned."""
        self.turn = None
        self.untidy = self.untidy or roll_back
        self._wake()
        self._check_for_the_last()

    def done(self, count: int) -> None:
        """So many of those that were taken are through."""
        self._in_hand -= count
        self._check_for_the_last()

    # --- the end ------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Take no new work, and wait until what there is has been done."""
        self._draining = True
        self._check_for_the_last()
        await self._everyone_gone.wait()

    def _check_for_the_last(self) -> None:
        if self._draining and not (self._waiting or self._in_hand) and self.turn is None:
            self._everyone_gone.set()

    def close(self) -> None:
        """Nobody is taken any more. The open transaction is lost."""
        self.closed = True
        self._everyone_gone.set()
        if self.turn is not None:
            self.turn.lose("crash")
        for server in self._servers:
            server.line_closed()

    def dissolve(self) -> None:
        """The connections have ended: who still waits goes to the successor's line, one after the other. Idempotent."""
        if not self._dissolved:
            self._dissolved = True
            self.pass_on()

    def pass_on(self) -> None:
        """Whoever was first has gone on, or will not: now the next one."""
        if self._waiting:
            self._waiting.popleft().resolve(Value(MOVED))
