"""Loads under way: one at a time for each key, whoever asks.

Theory of operation
-------------------
A `Load` is one run of a load function. Whoever asks for its key meanwhile waits for it, too (single-flight). It runs
in a background task of the cache's actor, with the trace and log context of the caller who began it and nothing else of
his: so a cancel of that caller, or of all callers, does not end it, the end of the incarnation does, and the actor goes
on with its messages meanwhile. A load that is lost with its incarnation is begun anew by the next one: load functions
read, so they may be repeated.

A load is joined only for as long as its key is not written or deleted (see the guards in `store`), and none of its tags
is invalidated. After that it goes on for those who wait for it already; what it gives is not used.

Each waiter gets an exception object of his own.

A load may ask for other keys. What it waits for is noted, and a wait that would close a circle raises `LoadCycle`.
A circle that leads through another actor is not seen; the policy's hard timeout ends it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

import trio

from ...runtime.context import ActorContext, carrying
from ...runtime.errors import DomainError
from ...runtime.node import fresh_copy, one_line
from .errors import LeaseLost, LoadCycle, LoadTimeout
from .events import LoadFailed
from .freshness import Verdict, jittered, judge, surely_fresh
from .store import NEVER, Facts, Guard, Record, Store

if TYPE_CHECKING:
    from .config import LoadPolicy

# The load that this task belongs to, if it does to one.
_LOAD: ContextVar[Load | None] = ContextVar("creche.cache.load", default=None)


@dataclass(slots=True)
class Job:
    """What there is to load, and how to keep it. Times are in seconds.

    `run` gives the value as bytes, or None if there is none; `negative_ttl` is how long that is remembered.
    """

    key: str  # as the user knows it
    run: Callable[[], Awaitable[bytes | None]]
    ttl: float
    negative_ttl: float | None
    tags: tuple[str, ...]
    policy: LoadPolicy
    baggage: Mapping[str, object]


@final
class Load:
    """See above."""

    def __init__(self, job: Job, guard: Guard, stamp: int) -> None:
        self.job = job
        self.guard = guard
        self.stamp = stamp
        self.waits_for: list[Load] = []
        self.settled = False
        self._done = trio.Event()
        self._value: bytes | None = None
        self._failure: Callable[[], Exception] | None = None

    def __repr__(self) -> str:
        return f"<Load {self.job.key!r} {'settled' if self.settled else 'under way'}>"

    def settle(self, value: bytes | None, failure: Callable[[], Exception] | None = None) -> None:
        """The outcome, for all who wait. The first one counts. `failure` makes an exception object for each."""
        if not self.settled:
            self.settled = True
            self._value, self._failure = value, failure
            self._done.set()

    async def wait(self) -> bytes | None:
        """Wait for the outcome. A cancel of this wait changes nothing."""
        mine = _LOAD.get()
        if mine is None:
            await self._done.wait()
        else:
            await self._wait_from(mine)
        if self._failure is not None:
            raise self._failure()
        return self._value

    async def _wait_from(self, mine: Load) -> None:
        chain = self.chain_to(mine)
        if chain is not None:
            raise LoadCycle((mine.job.key, *chain))
        mine.waits_for.append(self)
        try:
            await self._done.wait()
        finally:
            mine.waits_for.remove(self)

    def chain_to(self, goal: Load) -> tuple[str, ...] | None:
        """The keys on the way from this load to `goal`, along what waits for what; None if there is no way."""
        if self is goal:
            return (self.job.key,)
        for following in self.waits_for:
            rest = following.chain_to(goal)
            if rest is not None:
                return (self.job.key, *rest)
        return None


@final
class Loads:
    """All loads of one incarnation. `ending` is called when a load finds that the incarnation is about to end."""

    def __init__(self, store: Store, context: ActorContext, ending: Callable[[], object]) -> None:
        self._store = store
        self._context = context
        self._ending = ending
        self._random = context.runtime.random
        self._joinable: dict[str, Load] = {}  # {full key: the load that may be joined}
        self._all: dict[Load, None] = {}  # in order
        self._open = True

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._all)

    def hit(self, key: str, policy: LoadPolicy) -> Record | None:
        """The entry, if there is nothing to do but to use it: the short way of `get`."""
        store = self._store
        record = store.peek(key)
        if record is None or type(record.value) is not bytes:
            return None
        cost = 0.0 if record.facts is None else record.facts.cost
        if not surely_fresh(store.clock(), record.fresh_until, cost, policy):
            return None
        store.hits += 1
        store.touch(record)
        return record

    async def get(self, key: str, policy: LoadPolicy, job: Callable[[], Job]) -> tuple[bytes | None, bool]:
        """What is under a key, loaded if need be; and whether it was loaded just now. `job` tells how to load it.

        Raises what the load raises, `LoadTimeout`, `LoadCycle`, `WrongKind`, and `LeaseLost`.
        """
        store = self._store
        record = store.peek(key)
        if record is None:
            store.misses += 1
            return await self._join(key, job()).wait(), True
        value = _value_of(record, store)
        retry_at, cost = (0.0, 0.0) if record.facts is None else (record.facts.retry_at, record.facts.cost)
        verdict = judge(store.clock(), record.fresh_until, cost, retry_at, policy, self._random)
        if verdict is Verdict.LOAD:
            store.misses += 1
            return await self._load_over(key, job(), value)
        store.hits += 1
        store.touch(record)
        if verdict is Verdict.REFRESH:
            self._join(key, job())
        elif verdict is Verdict.REST:
            store.stale += 1
        return value, False

    def close(self) -> None:
        """The incarnation ends: all who wait look for the next one."""
        self._open = False
        for load in list(self._all):
            load.settle(None, LeaseLost)

    async def _load_over(self, key: str, job: Job, stale: bytes | None) -> tuple[bytes | None, bool]:
        """Load, and fall back on a stale value if that is slow or fails."""
        load = self._join(key, job)
        patience = NEVER if job.policy.soft_timeout is None else job.policy.soft_timeout
        try:
            with trio.move_on_after(patience):
                return await load.wait(), True
        except Exception as error:
            if not _is_failure(error):
                raise
        self._store.stale += 1
        return stale, False

    def _join(self, key: str, job: Job) -> Load:
        load = self._joinable.get(key)
        if load is not None and load.guard.intact and not self._store.is_valid(load.job.tags, load.stamp):
            self._store.break_guard(key)
        if load is None or not load.guard.intact:
            load = Load(job, self._store.guard(key), self._store.stamp)
            self._joinable[key] = load
            self._all[load] = None
            self._store.loads += 1
            self._store.carry(job.tags)
            self._context.spawn(self._fly, key, load)
        return load

    # --- in the load's own task -----------------------------------------------------------------------------------

    async def _fly(self, key: str, load: Load) -> None:
        _LOAD.set(load)
        began = self._store.clock()
        try:
            with carrying(**load.job.baggage):
                value = await self._run(load.job)
        except Exception as error:
            self._failed(key, load, error)
        else:
            self._loaded(key, load, value, self._store.clock() - began)
        finally:
            self._land(key, load)

    async def _run(self, job: Job) -> bytes | None:
        limit = job.policy.hard_timeout
        with trio.move_on_after(NEVER if limit is None else limit):
            return await job.run()
        raise LoadTimeout(self._context.path, job.key, limit or NEVER)

    def _loaded(self, key: str, load: Load, value: bytes | None, took: float) -> None:
        job = load.job
        if self._open and load.guard.intact:
            self._keep(key, job, value, load.stamp, took)
        load.settle(value)

    def _keep(self, key: str, job: Job, value: bytes | None, stamp: int, took: float) -> None:
        ttl = job.ttl if value is not None else job.negative_ttl
        if ttl is None:
            self._store.remove(key)
            return
        until = self._store.clock() + jittered(ttl, job.policy, self._random)
        facts = Facts(until, job.tags, stamp, took, negative=value is None)
        stale_for = 0.0 if value is None else job.policy.stale_for
        self._store.put(key, value or b"", until + stale_for, facts)

    def _failed(self, key: str, load: Load, error: Exception) -> None:
        if not isinstance(error, DomainError):
            self._note_failure(key, load.job, error)
        load.settle(None, partial(fresh_copy, error))

    def _note_failure(self, key: str, job: Job, error: Exception) -> None:
        self._store.load_failures += 1
        record = self._store.peek(key) if self._open else None
        if record is not None and record.facts is not None:
            record.facts.retry_at = self._store.clock() + job.policy.retry_after
        events = self._context.runtime.events
        if events.on:
            where = (self._context.runtime.now(), self._context.path, self._context.incarnation)
            events.emit(LoadFailed(*where, job.key, one_line(error), record is not None))

    def _land(self, key: str, load: Load) -> None:
        if not load.settled:  # cancelled: so is all background work
            self._ending()
        self._all.pop(load, None)
        self._store.uncarry(load.job.tags)
        self._store.unguard(key, load.guard)
        if self._joinable.get(key) is load:
            del self._joinable[key]


def _value_of(record: Record, store: Store) -> bytes | None:
    value = store.checked(record, bytes)
    return None if record.negative else value


def _is_failure(error: Exception) -> bool:
    """Whether an old value may stand in for the error. A `DomainError` is an answer, such as that there is no value."""
    return not isinstance(error, (DomainError, LoadCycle, LeaseLost))
