"""The handle `Uid`, and UUIDv7 for everybody.

Theory of operation
-------------------
Snowflakes come from the generator that the actor has granted, without a message. Whatever that cannot give at once is
a reason to wait, and then to look again: at the ceiling for the next millisecond; at the mark, and while there is no
generator, for the actor (`ready`). There is no await between looking at the generator and taking from it, so a
revoked one gives nothing.

UUIDv7 needs no actor: what keeps processes apart is randomness. Each thread has a generator, since generators hold no
lock, and a forked child starts with new ones, since a copied counter would make ids that differ in 32 random bits
only. A handle shares those of the module, unless its config has another policy for clocks that are set back.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, final
from uuid import UUID

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from ...runtime.component import ComponentHandle
from ...runtime.errors import NotStarted, OutcomeUnknown
from .actor import UidActor
from .config import Config
from .errors import MarkReached, WorkerIdLost
from .middleware import with_request_id
from .snowflake import Snowflake, SnowflakeGenerator, SnowflakeStatistics, Wait, parse
from .uuid7 import MAX_DRIFT, Rollback, Uuid7Generator, Uuid7Statistics, is_uuid7

if TYPE_CHECKING:
    from ...runtime.asgi import ASGIApp
    from ...runtime.cell import Cell

# A task that makes ids in a loop yields to the others once in so many: each time would cost more than the id.
_YIELD_EVERY = 64
_DEFAULT = Config()
_POLICY = (MAX_DRIFT, Rollback.FOLLOW)  # the module's


def wall_clock_ms() -> int:
    """The wall clock in whole Unix milliseconds."""
    return time.time_ns() // 1_000_000


@final
class Uid(ComponentHandle):
    """Unique ids. For use from the runtime's own Trio run; only the UUIDs are for any thread."""

    def __init__(self, name: str, config: Config = _DEFAULT, now_ms: Callable[[], int] | None = None) -> None:
        super().__init__(name)
        self._layout = config.layout
        self._now_ms = now_ms
        self._yield_mask = min(_YIELD_EVERY, self._layout.ids_per_ms) - 1
        self._home: Cell | None = None
        self._replayed: Uuid7Generator | None = None  # only in a deterministic run, which has one thread
        self._policy = (config.uuid7_max_drift, Rollback(config.uuid7_rollback))
        # {(process, thread): generator}, with a policy that is not the module's
        self._own: dict[tuple[int, int], Uuid7Generator] | None = None if self._policy == _POLICY else {}

    def _started(self) -> None:
        self._home = self._cell()
        runtime = self._home.runtime
        if runtime.deterministic:
            self._replayed = _new_generator(self._now_ms or runtime.wall_clock_ms, runtime.randbits, self._policy)

    def _unbind(self) -> None:
        super()._unbind()
        self._home = self._replayed = None

    # --- Snowflake --------------------------------------------------------------------------------------------------

    async def snowflake(self) -> int:
        """A new id. Each id of a component is greater than those before it, also across restarts of its actor.

        Waits at the ceiling (with 12 sequence bits, 4096 ids per millisecond), while the actor is down, and for a
        slow state file. Always a cancellation point, but lets other tasks run only when it waits, once in 64 ids, and
        with the first id of each millisecond.

        Raises `ClockMovedBack` if the clock was set back by more than the tolerance, `LayoutExhausted`, `Unavailable`
        while the state file does not work or no worker id is free, and `CallFailed` if the actor stays down or has
        stopped.
        """
        await checkpoint_if_cancelled()
        try:
            number = self.snowflake_nowait()
        except (trio.WouldBlock, WorkerIdLost):
            number = None
        if number is None:
            [number] = await self._some(1)
        elif not number & self._yield_mask:
            await cancel_shielded_checkpoint()  # shielded: the id has been taken
        return number

    def snowflake_nowait(self) -> int:
        """As `snowflake`, without waiting.

        Raises `trio.WouldBlock` where `snowflake` would wait, and `WorkerIdLost` in the moment before a lost worker
        id is replaced, or in a forked child, where no id is to be had.
        """
        generator = self._generator()
        if generator is None:
            raise trio.WouldBlock
        try:
            answer = generator.next()
        except MarkReached:
            raise trio.WouldBlock from None
        if isinstance(answer, Wait):
            raise trio.WouldBlock
        return answer

    async def take(self, n: int) -> list[int]:
        """`n` new ids in ascending order; much cheaper than one at a time. Always a checkpoint.

        Waits and raises as `snowflake` does; ids taken before a failure are lost, which does no harm. `ValueError` if
        `n` is negative.
        """
        if n < 0:
            raise ValueError(f"cannot take {n} ids")
        await checkpoint()
        ids: list[int] = []
        while len(ids) < n:
            ids += await self._some(n - len(ids))
        return ids

    def parse(self, id: int) -> Snowflake:
        """Take an id of this component's layout apart. Raises `ValueError` if it is none."""
        return parse(id, self._layout)

    def statistics(self) -> SnowflakeStatistics | None:
        """What the clock has done to the Snowflakes of the present incarnation; None between two of them."""
        generator = self._generator()
        return None if generator is None else generator.statistics()

    async def _some(self, n: int) -> list[int]:
        """From 1 to `n` ids, as soon as there are any."""
        while True:
            try:
                generator = self._generator()
                answer = None if generator is None else generator.take(n)
            except (MarkReached, WorkerIdLost):
                answer = None
            if answer is None:
                await self._ready()
            elif isinstance(answer, Wait):
                await trio.sleep(answer.seconds)
            else:
                return answer

    async def _ready(self) -> None:
        try:
            await self._handle(UidActor).ask.ready()
        except OutcomeUnknown:
            pass  # the actor died over the question, which does no harm asked twice

    def _generator(self) -> SnowflakeGenerator | None:
        """What the present incarnation has granted; None between two of them."""
        cell = self._home
        if cell is None:
            raise NotStarted(self._name)
        if isinstance(cell.granted, SnowflakeGenerator):
            return cell.granted
        if cell.refusal is not None:
            raise cell.refusal()
        return None

    # --- UUIDv7 -----------------------------------------------------------------------------------------------------

    def uuid7(self) -> UUID:
        """As the module's `uuid7`: needs no running component. In a deterministic run it follows from the seed.

        Raises `ClockMovedBack` with the policy ``raise``, and only then.
        """
        return self._uuids().next()

    def take_uuid7(self, n: int) -> list[UUID]:
        """`n` new UUIDv7 in ascending order, cheaper than one at a time. Raises `ValueError` if `n` is negative."""
        return self._uuids().take(n)

    def uuid7_statistics(self) -> Uuid7Statistics:
        """What the clock has done to the UUIDs of this thread. Needs no running component."""
        return self._uuids().statistics()

    def _uuids(self) -> Uuid7Generator:
        if self._replayed is not None:
            return self._replayed
        if self._own is None:
            return _generator_of(threading.get_ident())
        here = os.getpid(), threading.get_ident()
        if here not in self._own:
            self._own[here] = _new_generator(self._now_ms or wall_clock_ms, secrets.randbits, self._policy)
        return self._own[here]

    def is_uuid7(self, text: str) -> bool:
        """As the module's `is_uuid7`."""
        return is_uuid7(text)

    # --- HTTP -------------------------------------------------------------------------------------------------------

    def asgi_middleware(self, app: ASGIApp) -> ASGIApp:
        """`app` with a request id for each HTTP request and WebSocket.

        It is the request's ``X-Request-ID`` if there is just one and it is a UUIDv7 in canonical form, else a new
        one. It is ``request_id`` in the baggage while `app` runs, and thus in logs and in the actors that are called,
        and the response's only ``X-Request-ID``.
        """
        return with_request_id(app, self.uuid7)


def uuid7() -> UUID:
    """A new UUIDv7. Needs no runtime, and serves any thread and a forked child.

    Within a thread each is greater than the one before it, unless the clock is set back by more than 10 s: then it
    follows the clock, and order breaks once. Raises `OSError` if the system gives no randomness.
    """
    return _generator_of(threading.get_ident()).next()


@lru_cache(maxsize=1024)
def _generator_of(thread: int) -> Uuid7Generator:
    # The number of a thread that has ended may come again; its generator then goes on.
    _forget_generators_after_fork()
    return _new_generator(wall_clock_ms, secrets.randbits, _POLICY)


def _new_generator(
    now_ms: Callable[[], int], randbits: Callable[[int], int], policy: tuple[float, Rollback]
) -> Uuid7Generator:
    max_drift, on_rollback = policy
    return Uuid7Generator(now_ms=now_ms, randbits=randbits, max_drift=max_drift, on_rollback=on_rollback)


@cache
def _forget_generators_after_fork() -> None:
    os.register_at_fork(after_in_child=_generator_of.cache_clear)
