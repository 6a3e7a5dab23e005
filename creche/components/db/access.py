"""The way to the db actor's connections, across its restarts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast, final

import trio

from ...runtime.backoff import Backoff
from ...runtime.context import current_deadline
from ...runtime.deadlines import Timer
from ...runtime.errors import DeadlineExceeded
from .actor import DbActor
from .lease import DbLease
from .line import MOVED, Job, Line, Turn
from .work import Work

if TYPE_CHECKING:
    from ...runtime.cell import Cell
    from ...runtime.handle import Handle


def writer(lease: DbLease) -> Line:
    """The line of the connection that writes."""
    return lease.writer


def reader(lease: DbLease) -> Line:
    """The line of those that read."""
    return lease.reader


@final
class Access:
    """Its cell, for the lease, and a handle, for messages."""

    def __init__(self, cell: Cell, actor: Handle[DbActor]) -> None:
        self._cell = cell
        self._actor = actor

    @property
    def path(self) -> str:
        """Of the actor, for errors."""
        return self._cell.path

    @property
    def actor(self) -> Handle[DbActor]:
        """For messages."""
        return self._actor

    async def lease(self) -> DbLease:
        """That of the incarnation that lives, without a checkpoint, or of the next one.

        Raises `NotDelivered` if the actor is down for too long.
        """
        while True:
            lease = cast("DbLease | None", self._cell.granted)
            if lease is not None and lease.accepting:
                return lease
            await self._actor.call(DbActor.ready)

    async def pause(self, error: Exception, backoff: Backoff, failures: int) -> None:
        """Before the next try."""
        delay = backoff.delay(failures, self._cell.runtime.random)
        await trio.sleep(max(delay, getattr(error, "retry_after", None) or 0.0))

    async def run(self, work: Work, line_of: Callable[[DbLease], Line] = writer) -> Any:
        """Do a work that is a transaction of its own."""
        return await self.queue_up(Job(work), line_of)

    async def queue_up(self, job: Job, line_of: Callable[[DbLease], Line] = writer) -> Any:
        """Wait for the job's turn and its outcome, through all lives of the actor."""
        left: Line | None = None
        await trio.lowlevel.checkpoint_if_cancelled()  # the last moment at which it is sure that nothing is begun
        while True:
            try:
                lease = await self.lease()
            finally:
                if left is not None:
                    left.pass_on()  # it runs when this task has joined the next line: nothing awaits in between
            line = line_of(lease)
            if line is lease.writer:
                lease.check_not_nested()
            value = await self._timed(line, job, line.wait)
            if value is not MOVED:
                return value
            left = line

    async def step(self, turn: Turn, line: Line, work: Work) -> Any:
        """Do the next step of the open transaction."""
        job = Job(work, turn)
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self._timed(line, job, lambda job: line.wait_for_step(turn, job))

    async def _timed(self, line: Line, job: Job, wait: Callable[[Job], Any]) -> Any:
        """The deadline of the message in hand, if there is one, is the job's."""
        deadline = current_deadline()
        if deadline == float("inf"):
            return await wait(job)
        if job.late or trio.current_time() >= deadline:
            raise DeadlineExceeded(self.path, delivered=False)
        timer = Timer(self._cell.runtime.deadlines, deadline, lambda: line.out_of_time(job))
        try:
            return await wait(job)
        finally:
            timer.cancel()
