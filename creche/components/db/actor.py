"""The actor that owns the connection.

Theory of operation
-------------------
One connection per incarnation, opened and closed in `lifespan`; closing rolls back whatever is open. It is serial, so
there is one piece of work in the worker thread at a time. `_open` is the number of the turn whose transaction is open;
it is set anew after every visit to the thread from what the connection itself says, because SQLite also rolls back by
itself (disk full) and an author may have sent a ROLLBACK as text.

A message is handled only if its turn belongs to this incarnation. A message of another turn than the open one proves
that the open transaction was abandoned, so that is rolled back first.

`commit` runs to its end whatever is cancelled meanwhile. Everything else is interrupted by a cancel of its caller, or
by the end of the incarnation; see `sqlite`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import trio

from ...runtime.actor import Actor, message
from ...runtime.backoff import Backoff
from ...runtime.errors import CallFailed
from .config import Config
from .errors import Busy, StatementInvalid, TransactionLost
from .events import SlowStatement
from .lease import DbLease, StaleTurn
from .sqlite import LockedAtStart, Sqlite
from .work import Done, Result, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import MetaData

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

# Besides `DomainError` and `Unavailable`, which always are answers.
ANSWERS = (StatementInvalid, TransactionLost, StaleTurn)
# Between two tries to get a lock that another process holds: its transactions take milliseconds.
LOCK_BACKOFF = Backoff(first=0.001, factor=1.5, cap=0.05, jitter=0.2, free=0)


class DbActor(Actor):
    """See the theory of operation above. Nobody but the component's handle talks to it."""

    def __init__(self, config: Config, metadata: MetaData | None) -> None:
        self._config = config
        self._sqlite = Sqlite(self.context.path, config, metadata)
        self._limiter = trio.CapacityLimiter(1)
        self._lease = DbLease(
            self.context.incarnation,
            self.context.path,
            self.context.runtime.deadlines,
            config.transaction_timeout,
            self._ask_to_roll_back,
        )
        self._open: int | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """One connection."""
        random = self.context.runtime.random
        await self._blocking(self._sqlite.open, str(uuid.UUID(int=random.getrandbits(128), version=4)))
        self.context.grant(self._lease)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await self._blocking(self._sqlite.close)

    # --- messages -----------------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Answered as soon as there is an incarnation, and so a lease, again."""

    @message(on_caller_gone="cancel", raises=ANSWERS)
    async def run(self, work: Work) -> list[Result]:
        """Do a work; a cancel interrupts it, and then its transaction is rolled back."""
        await self._check(work)
        return await self._attempt(work)

    @message(on_caller_gone="finish", raises=ANSWERS)
    async def commit(self, work: Work) -> list[Result]:
        """Commit the open transaction, whatever is cancelled meanwhile. If it fails, it has been rolled back."""
        await self._check(work)
        results: list[Result] = []
        with trio.CancelScope(shield=True):
            results = self._report(await self._visit(work))
        return results

    async def rollback(self, epoch: int, turn: int) -> None:
        """Roll back what is open under that turn, if anything is."""
        if epoch == self._lease.epoch and turn == self._open:
            await self._roll_back()

    # --- work ---------------------------------------------------------------------------------------------------------

    async def _check(self, work: Work) -> None:
        if work.epoch != self._lease.epoch:
            raise StaleTurn
        if self._open is not None and self._open != work.turn:
            await self._roll_back()
        if work.inside and self._open is None:
            raise TransactionLost(self.context.path, "rolled_back")

    async def _attempt(self, work: Work) -> list[Result]:
        """Try until it is done, or another process has held the lock for too long."""
        runtime = self.context.runtime
        give_up = runtime.now() + self._config.busy_timeout
        tries = 0
        while True:
            try:
                return self._report(await self._visit(work))
            except LockedAtStart as locked:
                tries += 1
                if runtime.now() >= give_up:
                    raise Busy(self.context.path, locked.reason, self._config.busy_timeout) from locked
            await trio.sleep(LOCK_BACKOFF.delay(tries, runtime.random))

    async def _visit(self, work: Work) -> Done:
        try:
            return await self._blocking(self._sqlite.run, work)
        finally:
            self._open = work.turn if self._sqlite.in_transaction else None

    def _report(self, done: Done) -> list[Result]:
        events = self.context.runtime.events
        if done.slow and events.on:
            for sql, seconds in done.slow:
                now = self.context.runtime.now()
                events.emit(SlowStatement(now, self.context.path, self.context.incarnation, sql, seconds))
        return done.results

    async def _roll_back(self) -> None:
        self._open = None
        with trio.CancelScope(shield=True):
            await self._blocking(self._sqlite.rollback)

    def _ask_to_roll_back(self, turn: int) -> None:
        try:
            self.context.handle.cast_nowait(DbActor.rollback, self._lease.epoch, turn)
        except CallFailed:
            pass  # ended, or ending: closing the connection rolls back

    async def _blocking(self, fn: Callable[[*Ts], R], *args: *Ts) -> R:
        return await self.context.runtime.run_blocking(fn, *args, limiter=self._limiter)
