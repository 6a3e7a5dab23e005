"""The right to the connection: one caller at a time, in order of arrival.

Theory of operation
-------------------
SQLite has one writer, so a transaction must not be mixed with anybody else's statements. Each incarnation of the db
actor grants its handles a `DbLease`. Whoever wants the connection takes a `Turn` on it (a fair semaphore of one), sends
its messages under that turn's number, and ends the turn. The turn decides *who*; the messages to the serial actor do
the work.

A turn can be taken from its holder:

* The incarnation ends. The lease is revoked, synchronously, before a successor starts. Its holder loses the turn, and
  the first in line gets one that is good for nothing: its message is refused as stale by the successor, it ends the
  turn, which lets the next one follow, and queues up at the successor's lease. So the line moves over in its order,
  and nobody waits for a dead incarnation. (If all were woken at once, Trio would run them in random order.)
* A transaction is open for too long. Its holder loses the turn; the next one in line gets it.

A holder that has lost its turn may still have a message under way. The actor refuses it by its epoch, or, within one
epoch, serves it first, because it came first; and it rolls back whatever transaction it finds open when a message of
another turn arrives. So the rollback message that `Turn.end` casts only makes the file free early; nothing depends on
its arrival.

Everything here is synchronous except the wait for the turn, and runs in the Trio thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import trio

from ...runtime.deadlines import Deadlines, Timer
from ...runtime.errors import CrecheError
from .errors import LostReason, TransactionNested


class StaleTurn(CrecheError):
    """The message belongs to a turn of a former incarnation and was not handled. Never leaves the handle.

    Whoever gets it ends the turn and goes on to `take_turn` without a checkpoint: the next in line is right behind.
    """


@final
class Turn:
    """The right to the connection, until `end` or until it is taken away."""

    __slots__ = ("_begun", "_on_lost", "_taken_away", "_timer", "lease", "number", "task")

    def __init__(self, lease: DbLease, number: int) -> None:
        self.lease = lease
        self.number = number
        self.task = trio.lowlevel.current_task()
        self._begun = False
        self._taken_away: LostReason | None = None
        self._on_lost: Callable[[LostReason], None] | None = None
        self._timer: Timer | None = None

    def limit(self, on_lost: Callable[[LostReason], None]) -> None:
        """Take the turn away after the transaction timeout; tell `on_lost` when it is taken away for any reason."""
        self._on_lost = on_lost
        self._timer = Timer(self.lease.deadlines, trio.current_time() + self.lease.timeout, self._expire)

    def begin(self) -> None:
        """BEGIN has been answered.

        Until then that answer alone tells of the end of the incarnation, for it may be that nothing was begun.
        """
        self._begun = True
        if self._taken_away is not None:
            self.lose(self._taken_away)

    def lose(self, reason: LostReason) -> None:
        """It has been taken away."""
        self._stop_timer()
        self._taken_away = reason
        if self._on_lost is not None and (self._begun or reason == "timeout"):
            self._on_lost(reason)

    def end(self, *, roll_back: bool = False) -> None:
        """Give the turn back. Idempotent, and harmless if it has been taken away."""
        self._stop_timer()
        self._on_lost = None
        self.lease.give_back(self, roll_back)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self.lose("timeout")
        self.end(roll_back=True)


@final
class DbLease:
    """What one incarnation of the db actor grants to its handles.

    Parameters
    ----------
    epoch
        The incarnation's number.
    path
        The actor's path, for errors.
    deadlines, timeout
        The runtime's, and after how many seconds of a transaction its turn is taken away.
    roll_back
        Asks the actor, without waiting, to roll back what is open under a turn's number.
    """

    def __init__(
        self, epoch: int, path: str, deadlines: Deadlines, timeout: float, roll_back: Callable[[int], None]
    ) -> None:
        self.epoch = epoch
        self.path = path
        self.deadlines = deadlines
        self.timeout = timeout
        self._roll_back = roll_back
        self.outbox_changed = trio.Event()
        self._valid = True
        self._turns = 0
        self._holder: Turn | None = None
        self._semaphore = trio.Semaphore(1, max_value=1)  # fair: a release wakes the first in line

    def __repr__(self) -> str:
        state = "valid" if self._valid else "revoked"
        return f"<DbLease {self.path}#{self.epoch} {state}, {self._semaphore.statistics().tasks_waiting} waiting>"

    async def take_turn(self) -> Turn:
        """Wait for the connection. Raises `TransactionNested` if this very task has it."""
        if self._holder is not None and self._holder.task is trio.lowlevel.current_task():
            raise TransactionNested(self.path)
        await self._semaphore.acquire()
        self._turns += 1
        self._holder = Turn(self, self._turns)
        return self._holder

    def give_back(self, turn: Turn, roll_back: bool) -> None:
        """The turn is over; ignored if it has been taken away before."""
        if self._holder is turn:
            self._holder = None
            if roll_back:
                self._roll_back(turn.number)
            self._semaphore.release()

    def announce(self) -> None:
        """Messages have been committed to the outbox: wake the relay."""
        changed, self.outbox_changed = self.outbox_changed, trio.Event()
        changed.set()

    def revoke(self) -> None:
        """See `creche.runtime.context.Lease`."""
        self._valid = False
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.lose("crash")
            self._semaphore.release()
        self.announce()
