"""The handles of the db component, and the transactions that they open. How they work is told in `line` and `unit`."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple, final

import trio

from ...runtime.backoff import Backoff
from ...runtime.component import ComponentHandle
from ...runtime.errors import SpecInvalid
from .access import Access, reader
from .actor import DbActor
from .backup import Backup
from .outbox import Publishable, row_of
from .session import Session
from .sharding import ShardKey, ShardRouter, shard_index
from .statements import Statements
from .sync import SyncTransaction
from .unit import UnitOfWork
from .work import Parameters, Result, Statement, Work, unit

if TYPE_CHECKING:
    from sqlalchemy.sql import Executable

R = TypeVar("R")
Ts = TypeVarTuple("Ts")
Route = Callable[["Executable"], "Executable"]
Isolation = Literal["read committed", "repeatable read", "serializable"]

MOST_ATTEMPTS = 5  # of `transact(retry_on=...)`
RETRY = Backoff(first=0.01, factor=2.0, cap=1.0, jitter=0.5, free=1)


def _as_it_is(statement: Executable) -> Executable:
    return statement


@dataclass(frozen=True, slots=True)
class Statistics:
    """A database at one moment.

    `waiting`: jobs in the writer's line; `waiting_to_read`: in that of the readers; `in_transaction`: whether a
    transaction is open; `incarnation`: of the actor. All are states, none a sum.
    """

    waiting: int
    waiting_to_read: int
    in_transaction: bool
    incarnation: int


class Transacting(Statements):
    """What a database and a shard of one have in common: statements on their own, and transactions."""

    @abstractmethod
    def _access(self) -> Access:
        """The way to the connections; raises `NotStarted`."""

    def _route(self, statement: Executable) -> Executable:
        """What a statement becomes on its way."""
        return statement

    async def _run(self, statements: tuple[Statement, ...]) -> list[Result]:
        results: list[Result] = await self._access().run(unit(_routed(statements, self._route)))
        return results

    @asynccontextmanager
    async def transaction(self, *, isolation: Isolation = "serializable") -> AsyncGenerator[Transaction]:
        """A transaction for the length of the block: committed when the block ends, rolled back when it raises.

        It begins with its first statement, which waits until the transactions and statements that came before are over.
        From then on all others wait, so keep it short: no network calls, no waiting for people. Use it from one task
        at a time.

        Parameters
        ----------
        isolation
            The least that is needed. SQLite knows only ``serializable``, which is more than the others ask for.

        Raises, besides what the body raises,

        * `TransactionLost`: rolled back before COMMIT was sent, because the db actor died, or because the transaction
          was open for longer than `Config.transaction_timeout`. The body has been cancelled. A retry is safe.
        * `OutcomeUnknown`: the db actor died over COMMIT in a way that nobody could see the end of.
        * `Conflict`: a deferred constraint refused COMMIT.

        Cancelled before COMMIT: rolled back. COMMIT itself is not interrupted, and if it succeeds the block ends
        normally.
        """
        _check_isolation(isolation)
        async with _unit_of_work(self._access()) as work:
            yield Transaction(work, self._route)

    async def transact(
        self,
        fn: Callable[[Transaction, *Ts], Awaitable[R]],
        *args: *Ts,
        isolation: Isolation = "serializable",
        retry_on: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> R:
        """Run ``fn(tx, *args)`` in a transaction and return what it returns. See `transaction`.

        Parameters
        ----------
        retry_on
            Errors after which nothing is stored and all of it is tried again, such as
            ``(db.TransactionLost, db.Busy)``: up to five times in all, with growing delays that honour `retry_after`.
            Then `fn` runs several times: it should only use `tx`.
        """
        attempt = 1
        while True:
            try:
                async with self.transaction(isolation=isolation) as tx:
                    value = await fn(tx, *args)
            except retry_on as error:
                if attempt == MOST_ATTEMPTS:
                    raise
                attempt += 1
                await self._access().pause(error, RETRY, attempt - 1)
            else:
                return value

    async def transact_sync(self, fn: Callable[[SyncTransaction, *Ts], R], *args: *Ts) -> R:
        """Run a plain function ``fn(tx, *args)`` in a transaction, in the database's thread, and return its value.

        One visit to the thread for all its statements and COMMIT, where `transact` makes one for each: some ten times
        faster. Transactions that wait together share a COMMIT; if the database undoes that, each is run again by
        itself, so `fn` may run more than once and should only use `tx`. It must not wait for anything, nor use what
        belongs to the Trio thread. What it raises undoes the transaction and reaches the caller.

        Cancelled: its statements are interrupted and nothing is stored; or all was stored, and it returns.
        """
        route, context = self._route, copy_context()  # the thread that it runs in has none of the caller's

        def work(tx: SyncTransaction) -> R:
            return context.run(fn, tx.routed(route), *args)

        value: R = await self._access().run(Work(function=work, begin=True, commit=True))
        return value


@final
class Db(ComponentHandle, Transacting):
    """A database. Valid across restarts of its actor; `NotStarted` until the component runs.

    Each statement on the handle itself is a transaction of its own.
    """

    def __init__(self, name: str, router: ShardRouter | None = None) -> None:
        super().__init__(name)
        self._opened: Access | None = None
        self._router = router
        self._reader = Reader(self._access)

    @property
    def writer(self) -> Db:
        """This handle itself: statements on it go to the connection that writes."""
        return self

    @property
    def reader(self) -> Reader:
        """The connections that only read. See there for what they see."""
        return self._reader

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session]:
        """An SQLAlchemy ORM session, in a transaction for the length of the block.

        What was added and changed is written with COMMIT. Raises what `transaction` raises; and `ShardKeyMissing` for
        an entity whose table is sharded: those are for Core statements on `shard`.
        """
        async with _unit_of_work(self._access()) as work:
            session = Session(work)
            work.at_end = session.close
            yield session

    # --- shards -------------------------------------------------------------------------------------------------------

    def shard(self, key: ShardKey) -> Shard:
        """The part of each sharded table that the key belongs to."""
        router = self._sharded()
        return Shard(self._access, lambda statement: router.routed(statement, key))

    def part(self, index: int) -> Shard:
        """The parts of that number, for a statement on tables that all have it. See `Shards`."""
        router = self._sharded()
        return Shard(self._access, lambda statement: router.routed_to(statement, index))

    def shards(self) -> Shards:
        """All parts of the sharded tables."""
        return Shards([self], self._sharded())

    def _sharded(self) -> ShardRouter:
        if self._router is None:
            raise SpecInvalid("sharding", None, "pass `sharding=ShardRouter({table: Sharding(key, shards)})`")
        return self._router

    # --- the file -----------------------------------------------------------------------------------------------------

    async def backup(self, path: str | os.PathLike[str]) -> Backup:
        """Copy what is committed now to a new file, check the copy, and give it its name when it is on disk.

        Readers and writers go on meanwhile. Cancelled, it leaves no file.

        Raises FileExistsError, OSError, `BackupDamaged`.
        """
        return await self._access().actor.call(DbActor.backup, os.fspath(path))

    async def outbox_changed(self) -> trio.Event:
        """An event that is set when messages are committed to the outbox, or when the actor ends.

        Get it before looking into the outbox: then nothing falls in between. While the actor is down this waits for the
        next incarnation, as a call does.
        """
        return (await self._access().lease()).outbox_changed

    async def statistics(self) -> Statistics:
        """How long the lines are. While the actor is down this waits for the next incarnation."""
        lease = await self._access().lease()
        waiting_to_read = 0 if lease.reader is lease.writer else len(lease.reader)
        return Statistics(len(lease.writer), waiting_to_read, lease.writer.turn is not None, lease.epoch)

    def _started(self) -> None:
        self._opened = Access(self._cell(), self._handle(DbActor))

    def _access(self) -> Access:
        self._running()
        assert self._opened is not None
        return self._opened


@final
class Reader(Statements):
    """The connections that only read: `Db.reader`.

    They go on while a transaction is being written, and while each other reads. A statement sees all that was committed
    when it begins, so also what its own task has committed before it; nothing that is not committed. Several statements
    of one `execute_many`, and all those of one `transact_sync`, see the same moment. Whatever writes is refused with
    `StatementInvalid`.
    """

    def __init__(self, access: Callable[[], Access]) -> None:
        self._access = access

    async def _run(self, statements: tuple[Statement, ...]) -> list[Result]:
        results: list[Result] = await self._access().run(unit(statements), reader)
        return results

    async def transact_sync(self, fn: Callable[[SyncTransaction, *Ts], R], *args: *Ts) -> R:
        """Run a plain function ``fn(tx, *args)`` on one moment of the database, in a reader's thread."""
        value: R = await self._access().run(Work(function=lambda tx: fn(tx, *args), begin=True, commit=True), reader)
        return value


@final
class Transaction(Statements):
    """Made by `Db.transaction`. For one task at a time: a second one gets `trio.BusyResourceError`.

    After the end of the block its methods raise `trio.ClosedResourceError`.
    """

    def __init__(self, unit: UnitOfWork, route: Route = _as_it_is) -> None:
        self._unit = unit
        self._route = route

    def __repr__(self) -> str:
        return f"<Transaction of {self._unit.access.path} {self._unit.state}>"

    async def publish(self, message: Publishable) -> None:
        """Put a message into the outbox: it is sent if and only if this transaction commits.

        A `relay` takes it from there to a message log, in the order of the commits. Never waits: the message travels
        with the next statement, or with COMMIT. Raises TypeError or ValueError for what no log would take, and
        `mq.MessageTooLarge` beyond 1 MiB.
        """
        self._unit.publish(row_of(message))

    async def run_sync(self, fn: Callable[[SyncTransaction, *Ts], R], *args: *Ts) -> R:
        """Run ``fn(tx, *args)`` in the database's thread: several statements of this transaction in one visit."""
        route, context = self._route, copy_context()  # the thread that it runs in has none of the caller's

        def work(tx: SyncTransaction) -> R:
            return context.run(fn, tx.routed(route), *args)

        value: R = await self._unit.execute(function=work)
        return value

    async def _run(self, statements: tuple[Statement, ...]) -> list[Result]:
        results: list[Result] = await self._unit.execute(_routed(statements, self._route))
        return results


@final
class Shard(Transacting):
    """Made by `Db.shard`: the same methods, on the parts of the sharded tables that one key belongs to.

    Statements are written on the tables themselves. They are Core statements: ORM entities are not routed, nor are the
    tables in a ``text()``; both are refused with `ShardKeyMissing`, in sessions, too.
    """

    def __init__(self, access: Callable[[], Access], route: Route) -> None:
        self._access_of_db = access
        self._routed_by = route

    def _access(self) -> Access:
        return self._access_of_db()

    def _route(self, statement: Executable) -> Executable:
        return self._routed_by(statement)

    async def some(self, statement: Executable, limit: int, parameters: Parameters | None = None) -> list[Any]:
        """At most so many rows."""
        (result,) = await self._run((Statement(statement, parameters, limit),))
        return result.rows


@final
class Shards:
    """All shards, in one file or in several: ``Shards([db0, db1], router)``.

    Of several files number i has those parts whose number is i modulo the number of files, so each table's number of
    parts must be a multiple of it. A transaction is on one shard; there is none over several.

    Raises `SpecInvalid`.
    """

    def __init__(self, files: Sequence[Db], router: ShardRouter) -> None:
        if not files:
            raise SpecInvalid("files", files, "name at least one database")
        for table, count in router.counts():
            if count % len(files):
                raise SpecInvalid(f"shards of {table}", count, f"a multiple of the number of files, {len(files)}")
        self._files = list(files)
        self._router = router

    def shard(self, key: ShardKey) -> Shard:
        """See `Db.shard`."""
        return self._files[shard_index(key, len(self._files))].shard(key)

    async def all(self, statement: Executable, parameters: Parameters | None = None, *, limit: int) -> list[Any]:
        """The rows of all parts, part by part, at most `limit` (over all): no order, no grouping across parts.

        The statement is executed once for each part of the tables that it names, one part after the other, each in a
        transaction of its own. Raises `StatementInvalid` if it names none, or tables of different numbers of parts.
        """
        rows: list[Any] = []
        for index in range(self._router.common_count(statement)):
            if len(rows) >= limit:
                break
            left = limit - len(rows)
            rows += await self._on(index).some(statement, left, parameters)
        return rows

    async def execute(self, statement: Executable, parameters: Parameters | None = None) -> list[Result]:
        """Execute it on each part in turn: each is all or nothing by itself, all of them together are not."""
        indexes = range(self._router.common_count(statement))
        return [await self._on(index).execute(statement, parameters) for index in indexes]

    def _on(self, index: int) -> Shard:
        return self._files[index % len(self._files)].part(index)


def _routed(statements: tuple[Statement, ...], route: Route) -> tuple[Statement, ...]:
    return tuple(_on_its_way(statement, route(statement.executable)) for statement in statements)


def _on_its_way(statement: Statement, routed: Executable) -> Statement:
    return statement if routed is statement.executable else replace(statement, executable=routed)


def _check_isolation(isolation: str) -> None:
    if isolation not in ("read committed", "repeatable read", "serializable"):
        raise SpecInvalid("isolation", isolation, "'read committed', 'repeatable read' or 'serializable'")


@asynccontextmanager
async def _unit_of_work(access: Access) -> AsyncGenerator[UnitOfWork]:
    """One that is committed when the block ends well, and has ended however it ends."""
    work = UnitOfWork(access)
    try:
        with work.scope:
            yield work
            await work.commit()
        if not work.committed:  # the scope has swallowed the Cancelled of a body whose turn was taken away
            raise work.loss()
    finally:
        work.end()
