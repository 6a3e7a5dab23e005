"""The actor that owns a worker id, and lends the generator made with it to its handles.

Theory of operation
-------------------
Ids are made by the handles, without a message, from the generator that this actor has granted; the actor only keeps
the right to do so. A generator is revoked, synchronously, before its successor starts.

Two marks keep ids from ever being issued twice:

* Between incarnations the exact one. The worker id and the last generator are *kept* by the cell (`Tenure`), so a
  successor goes on with the same worker id in the millisecond after the last one used, and needs no I/O for it.
* Between processes the one in the file (see `worker_ids`), stored ahead of use: `tolerance` far, moved on twice in
  that time. Whoever finds it reached asks for `ready`, which moves it.

A file that does not work, or a worker id that is gone, is weather: the mark is reached, callers get `Unavailable`,
and each tick, and each `ready`, tries again; with a new worker id if need be. Only a first start fails with it, so
that a wrong path shows at once.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar, TypeVarTuple, final
from uuid import UUID

import trio

from ...runtime.actor import Actor, message
from ...runtime.errors import Unavailable
from ...runtime.events import Event
from ...runtime.node import one_line
from .config import Config
from .errors import WorkerIdLost
from .events import IdsAvailable, IdsUnavailable, WorkerIdLeased, WorkerIdWasLost
from .snowflake import SnowflakeGenerator
from .worker_ids import WorkerIds, WorkerLease

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_log = logging.getLogger(__name__)


@final
class Tenure:
    """What outlives an incarnation: the worker id, and the last generator, whose high-water mark is exact."""

    def __init__(self, worker_ids: WorkerIds) -> None:
        self.worker_ids = worker_ids
        self.lease: WorkerLease | None = None
        self.generator: SnowflakeGenerator | None = None
        self.limiter = trio.CapacityLimiter(1)
        self._high_water = 0
        # A fork copies the generator. Such a hook cannot be removed again, so it must not keep this alive.
        os.register_at_fork(after_in_child=partial(_lose, weakref.ref(self)))

    def begin(self, lease: WorkerLease) -> None:
        """A worker id has been leased: its ids come after those of its earlier owners."""
        self.lease = lease
        self._high_water = lease.mark

    def succeed(self, config: Config, now_ms: Callable[[], int]) -> SnowflakeGenerator:
        """A generator for the worker id, whose ids are later than all before. Requires a lease."""
        assert self.lease is not None
        if self.generator is not None:
            self._high_water = max(self._high_water, self.generator.high_water)
        self.generator = SnowflakeGenerator(
            config.layout,
            self.lease.worker_id,
            now_ms,
            high_water=self._high_water,
            limit=self.lease.mark,
            tolerance=config.tolerance,
        )
        return self.generator

    def lose(self) -> None:
        """The worker id is gone."""
        self.lease = None
        if self.generator is not None:
            self.generator.revoke()


def _lose(tenure: weakref.ref[Tenure]) -> None:
    alive = tenure()
    if alive is not None:
        alive.lose()


class UidActor(Actor):
    """See above. `now_ms` reads the wall clock in Unix milliseconds; None: the runtime's."""

    def __init__(self, config: Config, now_ms: Callable[[], int] | None) -> None:
        self._config = config
        self._now_ms = now_ms or self.context.runtime.wall_clock_ms
        self._ahead_ms = round(config.tolerance * 1000)
        self._randbits = self.context.runtime.randbits
        self._one_at_a_time = trio.Lock()
        self._works = True
        self._tenure = self.context.keep("tenure", self._new_tenure, lambda tenure: tenure.worker_ids.close())

    def _new_tenure(self) -> Tenure:
        service = f"{self.context.runtime.name}:{self.context.path}"
        return Tenure(WorkerIds(service, self._config))

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        if self._tenure.lease is not None:
            self._grant()
        elif self.context.incarnation == 1:
            await self._secure()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_secure)
            yield
            nursery.cancel_scope.cancel("the actor has been asked to end")
        await self._give_back()

    @message(on_caller_gone="cancel", raises=Unavailable)
    async def ready(self) -> None:
        """Answers when ids can be issued. Raises `Unavailable`: the state file does not work, no worker id is free."""
        generator = self._tenure.generator
        if self._tenure.lease is None or generator is None or self._now_ms() > generator.limit:
            await self._secure()

    async def _keep_secure(self) -> None:
        if self._tenure.lease is None:
            await self._try_to_secure()
        while True:
            await trio.sleep(self._config.tolerance / 2)
            await self._try_to_secure()

    async def _try_to_secure(self) -> None:
        try:
            await self._secure()
        except Unavailable as error:
            if self._works:
                _log.warning("%s: %s", self.context.path, error)
                self._tell(IdsUnavailable, one_line(error))
            self._works = False
        else:
            if not self._works:
                _log.info("%s: ids can be issued again", self.context.path)
                self._tell(IdsAvailable)
            self._works = True

    async def _secure(self) -> None:
        """Have a worker id, and ids promised as far ahead as may be. Raises `Unavailable`."""
        async with self._one_at_a_time:
            if self._tenure.lease is not None and await self._still_ours(self._tenure.lease):
                return
            lease = await self._blocking(self._tenure.worker_ids.acquire, self._new_owner(), self._now_ms())
            self._tenure.begin(lease)
            self._grant()
            self._tell(WorkerIdLeased, lease.worker_id, lease.mark)
            await self._promise(lease)

    async def _still_ours(self, lease: WorkerLease) -> bool:
        try:
            await self._promise(lease)
        except WorkerIdLost as error:
            _log.warning("%s: %s", self.context.path, error)
            self._tell(WorkerIdWasLost, error.worker_id)
            self._tenure.lose()
            return False
        return True

    async def _promise(self, lease: WorkerLease) -> None:
        generator = self._tenure.generator
        assert generator is not None
        mark = generator.reserve(self._ahead_ms)
        # A cancel waits for the write, so that what is on disk and what is known here never part.
        self._tenure.lease = await self._blocking(self._tenure.worker_ids.renew, lease, mark, self._now_ms())
        generator.extend(self._tenure.lease.mark)

    def _tell(self, kind: Callable[..., Event], *about: object) -> None:
        hub = self.context.runtime.events
        if hub.on:
            hub.emit(kind(trio.current_time(), self.context.path, self.context.incarnation, *about))

    def _new_owner(self) -> str:
        return str(UUID(int=self._randbits(128), version=4))

    def _grant(self) -> None:
        self.context.grant(self._tenure.succeed(self._config, self._now_ms))

    async def _give_back(self) -> None:
        """After a clean end: the worker id, with the exact mark. After a crash it stays, for the next incarnation."""
        lease, generator = self._tenure.lease, self._tenure.generator
        self._tenure.lose()  # first: handles may issue ids until now
        if lease is not None and generator is not None:
            await self._blocking(self._release, lease, generator.high_water, self._now_ms())

    def _release(self, lease: WorkerLease, high_water: int, now_ms: int) -> None:
        self._tenure.worker_ids.release(lease, high_water, now_ms)
        self._tenure.worker_ids.close()

    async def _blocking(self, fn: Callable[[*Ts], R], *args: *Ts) -> R:
        if self._config.state_path is None:
            return fn(*args)  # memory only: nothing to wait for
        return await self.context.runtime.run_blocking(fn, *args, limiter=self._tenure.limiter)
