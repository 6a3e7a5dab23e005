"""Under the handle: the unit of work behind each transaction.

Theory of operation
-------------------
A transaction queues up (see `line`) with its first statement, which carries BEGIN along. Its turn lasts until COMMIT or
its end, so it costs one visit to the thread per statement and one for COMMIT. Messages published in between
travel with whichever visit is next. One that has executed nothing costs no visit; one that has only published, one.

How a transaction ends, by who ends it:

* The body ends: COMMIT is sent under a shield, so that its outcome is known. A caller that is cancelled before that is
  rolled back; one that is cancelled while COMMIT is under way has its commit, and meets its Cancelled at its next
  checkpoint.
* The body raises, or is cancelled: the turn is given back, which needs no await, and the connection rolls back
  before it serves anybody else.
* The turn is taken away (crash, timeout): the body is cancelled by the transaction's own scope, and `TransactionLost`
  is raised in its place.
* A statement is cancelled (by a timeout around it, in the body): the transaction is lost with it; its next statement
  says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import trio

from ...runtime.errors import DeadlineExceeded, OutcomeUnknown
from .access import Access
from .errors import LostReason, TransactionLost
from .line import Job, Turn
from .sync import SyncTransaction
from .work import OutboxRow, Statement, Work

Function = Callable[[SyncTransaction], Any]


@final
class UnitOfWork:
    """What a transaction does, and where it stands.

    Its block holds `scope`, calls `commit` when it ends well, and `end` however it ends.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self.scope = trio.CancelScope()  # around the body: cancelled when the turn is taken away
        self.committed = False
        self.before_commit: Function | None = None  # done in the same visit as COMMIT
        self.pending: Callable[[], bool] = lambda: False  # whether that is needed though nothing was executed
        self.at_end: Callable[[], None] = lambda: None  # while the connection is still this transaction's
        self._turn: Turn | None = None  # None: nothing has been executed yet
        self._lost: LostReason | None = None
        self._busy = False
        self._over = False
        self._unsent: list[OutboxRow] = []

    @property
    def state(self) -> str:
        """For people."""
        return "committed" if self.committed else self._lost or ("ended" if self._over else "open")

    def publish(self, row: OutboxRow) -> None:
        """Store a message along with what comes next."""
        self._check()
        self._unsent.append(row)

    async def execute(self, statements: tuple[Statement, ...] = (), function: Function | None = None) -> Any:
        """Do something in one visit to the thread; the first visit begins the transaction."""
        self._check()
        return await self._send(statements, function, commit=False)

    async def commit(self) -> None:
        """Send COMMIT and await its outcome, shielded. Does nothing if nothing was executed or published."""
        self._check()
        await trio.lowlevel.checkpoint_if_cancelled()  # the last moment to turn back
        if self._turn is not None or self._unsent or self.pending():
            await self._send((), self.before_commit, commit=True)
        self.committed = True

    def end(self) -> None:
        """The block is left. Synchronous, so that no cancel can come between."""
        self._over = True
        self.at_end()
        if self._turn is not None:
            self._turn.end(roll_back=not self.committed)

    def loss(self) -> TransactionLost:
        """What tells that the turn has been taken away."""
        return TransactionLost(self.access.path, self._lost or "crash")

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _send(self, statements: tuple[Statement, ...], function: Function | None, *, commit: bool) -> Any:
        begin = self._turn is None
        work = Work(statements, function, tuple(self._unsent), begin=begin, inside=not begin, commit=commit)
        self._busy = True
        try:
            value = await (self._begin(work) if begin else self._step(work))
        except (trio.Cancelled, DeadlineExceeded):
            self._lost = self._lost or "cancelled"
            raise
        except TransactionLost as lost:
            self._lost = self._lost or lost.reason
            raise self.loss() from lost
        except OutcomeUnknown as error:
            if commit:
                raise
            self._lost = self._lost or "crash"
            raise self.loss() from error
        finally:
            self._busy = False
        self._unsent.clear()
        return value

    async def _begin(self, work: Work) -> Any:
        """The first visit: it queues up for its turn."""
        if work.commit:
            return await self.access.run(work)
        lease = await self.access.lease()
        turn = Turn(self.access.path, lease.deadlines, lease.transaction_timeout, self._lose)
        try:
            return await self.access.queue_up(Job(work, turn))
        finally:
            if turn.begun:  # even if its first statement was refused
                self._turn = turn

    async def _step(self, work: Work) -> Any:
        turn = self._turn
        assert turn is not None
        if turn.line is None:
            raise TransactionLost(self.access.path, turn.lost or "rolled_back")
        if not work.commit:
            return await self.access.step(turn, turn.line, work)
        value: Any = None
        turn.hold()
        with trio.CancelScope(shield=True):
            value = await self.access.step(turn, turn.line, work)
        return value

    def _lose(self, reason: LostReason) -> None:
        """The turn has been taken away."""
        self._lost = self._lost or reason
        self.scope.cancel(f"transaction lost ({reason})")

    def _check(self) -> None:
        if self._over:
            raise trio.ClosedResourceError("the transaction has ended: its block has been left")
        if self._busy:
            raise trio.BusyResourceError("a transaction serves one task at a time")
        if self._lost is not None:
            raise self.loss()
