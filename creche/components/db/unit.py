"""Under the handle: the way to the actor, and the unit of work behind each transaction.

Theory of operation
-------------------
A statement is a message to the db actor, sent on a turn (see `lease`). Outside of transactions the turn lasts for that
one message. A transaction takes its turn with its first statement, which carries BEGIN along; it keeps the turn until
COMMIT or its end, so it costs one visit to the worker thread per statement and one for COMMIT. Messages published in
between travel with whichever visit is next.

How a transaction ends, by who ends it:

* The body ends: COMMIT is sent under a shield, so that its outcome is known. A caller that is cancelled before that is
  rolled back; one that is cancelled while COMMIT is under way has its commit, and meets its Cancelled at its next
  checkpoint.
* The body raises, or is cancelled: the rollback is cast, which needs no await, and the turn is given back. Whoever is
  next in line sends after that, so it is served after that.
* The turn is taken away (crash, timeout): the body is cancelled by the transaction's own scope, and `TransactionLost`
  is raised in its place.
* A statement is cancelled (by a timeout around it, in the body): it may or may not have reached the database, so the
  transaction is lost; its next statement says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, final

import trio

from ...runtime.errors import ActorStopped, DeadlineExceeded, NotDelivered, OutcomeUnknown
from .actor import DbActor
from .errors import LostReason, TransactionLost
from .lease import DbLease, StaleTurn, Turn
from .work import OutboxRow, Result, Statement, Work

if TYPE_CHECKING:
    from ...runtime.cell import Cell
    from ...runtime.handle import Handle


@final
class Access:
    """The way to the db actor, across its restarts: its cell, for the lease, and a handle, for messages."""

    def __init__(self, cell: Cell, actor: Handle[DbActor]) -> None:
        self._cell = cell
        self.actor = actor

    @property
    def path(self) -> str:
        """Of the actor, for errors."""
        return self._cell.path

    async def lease(self) -> DbLease:
        """That of the incarnation that lives, without a checkpoint, or of the next one.

        Raises `NotDelivered` if the actor is down for too long.
        """
        while self._cell.granted is None:
            await self.actor.call(DbActor.ready)
        return cast("DbLease", self._cell.granted)

    async def take_turn(self) -> Turn:
        """Wait for the connection."""
        return await (await self.lease()).take_turn()

    async def run(self, statements: tuple[Statement, ...]) -> list[Result]:
        """Execute one statement on its own, or several as a transaction in one visit to the thread."""
        several = len(statements) != 1
        while True:
            turn = await self.take_turn()
            try:
                work = Work(turn.lease.epoch, turn.number, statements, begin=several, commit=several)
                return await self.actor.call(DbActor.run, work)
            except StaleTurn:
                pass  # the incarnation ended before it took the message: queue up at its successor's
            finally:
                turn.end()


@final
class UnitOfWork:
    """What a transaction does, and where it stands.

    Its block holds `scope`, calls `commit` when it ends well, and `end` however it ends.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self.scope = trio.CancelScope()  # around the body: cancelled when the turn is taken away
        self.committed = False
        self._turn: Turn | None = None  # None: nothing has been executed yet
        self._lost: LostReason | None = None
        self._busy = False
        self._over = False
        self._publishes = False
        self._unsent: list[OutboxRow] = []

    @property
    def state(self) -> str:
        """For people."""
        return "committed" if self.committed else self._lost or ("ended" if self._over else "open")

    def publish(self, row: OutboxRow) -> None:
        """Store a message along with what comes next."""
        self._check()
        self._unsent.append(row)
        self._publishes = True

    async def execute(self, statements: tuple[Statement, ...]) -> list[Result]:
        """Execute statements in one visit to the thread; the first ones begin the transaction."""
        self._check()
        return await self._send(statements, commit=False)

    async def commit(self) -> None:
        """Send COMMIT and await its outcome, shielded. Does nothing if nothing was executed or published."""
        self._check()
        await trio.lowlevel.checkpoint_if_cancelled()  # the last moment to turn back
        if self._turn is not None or self._unsent:
            await self._send((), commit=True)
        self.committed = True
        if self._publishes and self._turn is not None:
            self._turn.lease.announce()

    def end(self) -> None:
        """The block is left. Synchronous, so that no cancel can come between."""
        self._over = True
        if self._turn is not None:
            self._turn.end(roll_back=not self.committed)

    def loss(self) -> TransactionLost:
        """What tells that the turn has been taken away."""
        return TransactionLost(self.access.path, self._lost or "crash")

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _send(self, statements: tuple[Statement, ...], *, commit: bool) -> list[Result]:
        self._busy = True
        try:
            if self._turn is None:
                return await self._begin(statements, commit)
            return await self._call(self._turn, statements, commit, begin=False)
        except StaleTurn as stale:
            self._lost = "crash"
            raise self.loss() from stale
        finally:
            self._busy = False

    async def _begin(self, statements: tuple[Statement, ...], commit: bool) -> list[Result]:
        """Take a turn and begin. If the incarnation ends before it takes the message: again, at its successor."""
        while True:
            self._turn = turn = await self.access.take_turn()
            turn.limit(self._lose)
            try:
                return await self._call(turn, statements, commit, begin=True)
            except StaleTurn:
                self._turn = None
                turn.end()
            finally:
                turn.begin()

    async def _call(self, turn: Turn, statements: tuple[Statement, ...], commit: bool, *, begin: bool) -> list[Result]:
        lease = turn.lease
        work = Work(lease.epoch, turn.number, statements, tuple(self._unsent), begin, not begin, commit)
        try:
            if commit and not begin:
                results = await self._call_commit(work)
            else:
                results = await self.access.actor.call(DbActor.run, work)
        except (trio.Cancelled, DeadlineExceeded):
            self._lost = self._lost or "cancelled"
            raise
        except (OutcomeUnknown, NotDelivered, ActorStopped) as error:
            if commit if isinstance(error, OutcomeUnknown) else begin:
                raise  # it may have been committed; or nothing was begun
            self._lost = self._lost or "crash"
            raise self.loss() from error
        self._unsent.clear()
        return results

    async def _call_commit(self, work: Work) -> list[Result]:
        """A turn that is taken away meanwhile changes nothing: the next one's messages come after this one."""
        results: list[Result] = []
        with trio.CancelScope(shield=True):
            results = await self.access.actor.call(DbActor.commit, work)
        return results

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
