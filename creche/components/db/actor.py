"""The actor that owns the connections.

Theory of operation
-------------------
One connection that writes and some that only read, opened and closed in `lifespan`; closing rolls back whatever is
open. Each serves its line through a thread, without passing through this actor (see `visits`); what passes through it
is the end: a visit that fails crashes it, and a stop or a kill waits for the visits that are under way. SQLite's WAL
lets the readers go on while a transaction is being written.

When the last visit is over the connections are closed, and who still waits moves on to the successor's lines.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import trio

from ...runtime.actor import Actor, message
from .backup import Backup, make_backup
from .config import Config
from .driver import Driver
from .errors import BackupDamaged, StatementInvalid
from .faults import Faults
from .lease import DbLease
from .migrations import Migration
from .sqlite import Sqlite
from .visits import Visits

if TYPE_CHECKING:
    from sqlalchemy import MetaData

R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class DbActor(Actor):
    """See the theory of operation above. Nobody but the component's handle talks to it."""

    def __init__(
        self,
        config: Config,
        metadata: MetaData | None,
        migrations: Sequence[Migration] | None,
        driver: Driver,
    ) -> None:
        self._config = config
        self._metadata = metadata
        self._migrations = migrations
        runtime = self.context.runtime
        self._lease = lease = DbLease(
            self.context.incarnation, self.context.path, config.pool_size, runtime.deadlines, config.transaction_timeout
        )
        self._writer = Sqlite(self.context.path, config, driver, clock=runtime.stopwatch)
        readers = [
            Sqlite(self.context.path, config, driver, read_only=True, clock=runtime.stopwatch)
            for _ in range(config.pool_size)
        ]
        self._opening = trio.CapacityLimiter(1)  # its own: the others' threads may all be busy
        self._connections = [self._writer, *readers]
        self._visits = [Visits(self.context, lease, lease.writer, self._writer, config.busy_timeout)]
        self._visits += [Visits(self.context, lease, lease.reader, one, config.busy_timeout) for one in readers]

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """The connections, and a task for each that waits for its end."""
        try:
            await self._open()
            async with trio.open_nursery() as serving:  # not background work: a stop would end that before this
                for visits in self._visits:
                    serving.start_soon(visits.serve)
                self.context.grant(self._lease)
                try:
                    yield
                    await self._lease.drain()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._end_visits()
        finally:
            with trio.CancelScope(shield=True):
                await self._close()

    async def _end_visits(self) -> None:
        self._lease.close()
        for visits in self._visits:
            await visits.over.wait()
        self._lease.revoke()

    async def _close(self) -> None:
        for connection in self._connections:
            if connection.is_open:
                await self._in_thread(connection.close)

    async def _open(self) -> None:
        database_id = str(uuid.UUID(int=self.context.runtime.randbits(128), version=4))
        await self._in_thread(self._writer.open)
        await self._in_thread(self._writer.prepare, database_id, self._metadata, self._migrations)

    # --- messages -----------------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Answered as soon as there is an incarnation, and so a lease, again."""

    @message(on_caller_gone="cancel", raises=(OSError, BackupDamaged, StatementInvalid), concurrency=1)
    async def backup(self, path: str) -> Backup:
        """See `Db.backup`. Cancelled, it leaves nothing behind."""
        try:
            return await self.context.runtime.run_blocking(make_backup, self._config.path, path)
        except sqlite3.Error as error:
            raise Faults(self.context.path, self._config.busy_timeout).translated(error) from error

    async def _in_thread(self, fn: Callable[[*Ts], R], *args: *Ts) -> R:
        return await self.context.runtime.run_blocking(fn, *args, limiter=self._opening)
