"""The handle of the db component, and the transactions that it opens.

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

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple, cast, final

import trio

from ...runtime.component import ComponentHandle
from ...runtime.errors import ActorStopped, DeadlineExceeded, NotDelivered, OutcomeUnknown
from ...runtime.handle import Handle
from .actor import DbActor
from .errors import LostReason, TransactionLost
from .lease import DbLease, StaleTurn, Turn
from .outbox import Publishable, row_of
from .statements import Statements
from .work import OutboxRow, Result, Statement, Work

R = TypeVar("R")
Ts = TypeVarTuple("Ts")


@final
class Db(ComponentHandle, Statements):
    """A database. Valid across restarts of its actor; `NotStarted` until the component runs.

    Each statement on the handle itself is a transaction of its own.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._actor: Handle[DbActor] | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction]:
        """A transaction for the length of the block: committed when the block ends, rolled back when it raises.

        It begins with its first statement, which waits until the transactions and statements that came before are over.
        From then on all others wait, so keep it short: no network calls, no waiting for people. Use it from one task
        at a time.

        Raises, besides what the body raises,

        * `TransactionLost`: rolled back before COMMIT was sent, because the db actor died, or because the transaction
          was open for longer than `Config.transaction_timeout`. The body has been cancelled. A retry is safe.
        * `OutcomeUnknown`: the db actor died over COMMIT.
        * `Conflict`: a deferred constraint refused COMMIT.

        Cancelled before COMMIT: rolled back. COMMIT itself is not interrupted, and if it succeeds the block ends
        normally.
        """
        scope = trio.CancelScope()
        tx = Transaction(self, scope)
        try:
            with scope:
                yield tx
                await tx.commit()
            if not tx.committed:  # the scope has swallowed the Cancelled of a body whose turn was taken away
                raise tx.loss()
        finally:
            tx.end()

    async def transact(self, fn: Callable[[Transaction, *Ts], Awaitable[R]], *args: *Ts) -> R:
        """Run ``fn(tx, *args)`` in a transaction and return what it returns. See `transaction`."""
        async with self.transaction() as tx:
            value = await fn(tx, *args)
        return value

    async def outbox_changed(self) -> trio.Event:
        """An event that is set when messages are committed to the outbox, or when the actor ends.

        Get it before looking into the outbox: then nothing falls in between. While the actor is down this waits for the
        next incarnation, as a call does.
        """
        return (await self._present_lease()).outbox_changed

    # --- for the package ----------------------------------------------------------------------------------------------

    @property
    def actor(self) -> Handle[DbActor]:
        """The handle to send messages to."""
        self._running()
        assert self._actor is not None
        return self._actor

    async def take_turn(self) -> Turn:
        """Wait for the connection. Raises `NotDelivered` if the actor is down for too long."""
        lease = await self._present_lease()
        return await lease.take_turn()

    async def _run(self, statements: tuple[Statement, ...]) -> list[Result]:
        """See `Statements`. Several are a transaction of their own, in one visit to the thread."""
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

    async def _present_lease(self) -> DbLease:
        """That of the incarnation that lives, without a checkpoint, or of the next one."""
        cell = self._cell()
        while cell.granted is None:
            await self.actor.call(DbActor.ready)
        return cast("DbLease", cell.granted)

    def _started(self) -> None:
        self._actor = self._handle(DbActor)


@final
class Transaction(Statements):
    """Made by `Db.transaction`. For one task at a time: a second one gets `trio.BusyResourceError`.

    After the end of the block its methods raise `trio.ClosedResourceError`.
    """

    def __init__(self, db: Db, scope: trio.CancelScope) -> None:
        self._db = db
        self._scope = scope
        self._turn: Turn | None = None  # None: nothing has been executed yet
        self._lost: LostReason | None = None
        self._busy = False
        self._over = False
        self._publishes = False
        self._unsent: list[OutboxRow] = []
        self.committed = False

    def __repr__(self) -> str:
        state = "committed" if self.committed else self._lost or ("ended" if self._over else "open")
        return f"<Transaction of {self._db!r} {state}>"

    async def publish(self, message: Publishable) -> None:
        """Put a message into the outbox: it is sent if and only if this transaction commits.

        A `relay` takes it from there to a message log, in the order of the commits. Never waits: the message travels
        with the next statement, or with COMMIT. Raises TypeError or ValueError for what no log would take.
        """
        self._check()
        self._unsent.append(row_of(message))
        self._publishes = True

    # --- for `Db.transaction` -----------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Send COMMIT and await its outcome, shielded. Called once, at the end of the block."""
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
        return TransactionLost(self._db.path, self._lost or "crash")

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _run(self, statements: tuple[Statement, ...]) -> list[Result]:
        """See `Statements`."""
        self._check()
        return await self._send(statements, commit=False)

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
            self._turn = turn = await self._db.take_turn()
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
                results = await self._db.actor.call(DbActor.run, work)
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
            results = await self._db.actor.call(DbActor.commit, work)
        return results

    def _lose(self, reason: LostReason) -> None:
        """The turn has been taken away."""
        self._lost = self._lost or reason
        self._scope.cancel(f"transaction lost ({reason})")

    def _check(self) -> None:
        if self._over:
            raise trio.ClosedResourceError("the transaction has ended: its block has been left")
        if self._busy:
            raise trio.BusyResourceError("a transaction serves one task at a time")
        if self._lost is not None:
            raise self.loss()
