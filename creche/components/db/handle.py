"""The handle of the db component, and the transactions that it opens. How they work is told in `unit`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple, final

import trio

from ...runtime.component import ComponentHandle
from .actor import DbActor
from .outbox import Publishable, row_of
from .statements import Statements
from .unit import Access, UnitOfWork
from .work import Result, Statement

R = TypeVar("R")
Ts = TypeVarTuple("Ts")


@final
class Db(ComponentHandle, Statements):
    """A database. Valid across restarts of its actor; `NotStarted` until the component runs.

    Each statement on the handle itself is a transaction of its own.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._opened: Access | None = None

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
        unit = UnitOfWork(self._access())
        try:
            with unit.scope:
                yield Transaction(unit)
                await unit.commit()
            if not unit.committed:  # the scope has swallowed the Cancelled of a body whose turn was taken away
                raise unit.loss()
        finally:
            unit.end()

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
        return (await self._access().lease()).outbox_changed

    def _started(self) -> None:
        self._opened = Access(self._cell(), self._handle(DbActor))

    def _access(self) -> Access:
        self._running()
        assert self._opened is not None
        return self._opened

    async def _run(self, statements: tuple[Statement, ...]) -> list[Result]:
        return await self._access().run(statements)


@final
class Transaction(Statements):
    """Made by `Db.transaction`. For one task at a time: a second one gets `trio.BusyResourceError`.

    After the end of the block its methods raise `trio.ClosedResourceError`.
    """

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit

    def __repr__(self) -> str:
        return f"<Transaction of {self._unit.access.path} {self._unit.state}>"

    async def publish(self, message: Publishable) -> None:
        """Put a message into the outbox: it is sent if and only if this transaction commits.

        A `relay` takes it from there to a message log, in the order of the commits. Never waits: the message travels
        with the next statement, or with COMMIT. Raises TypeError or ValueError for what no log would take.
        """
        self._unit.publish(row_of(message))

    async def _run(self, statements: tuple[Statement, ...]) -> list[Result]:
        return await self._unit.execute(statements)
