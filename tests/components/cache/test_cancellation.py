"""Cancels and kills at every moment: whatever a caller was doing, nothing is half done and nothing stays held."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio

import creche
from creche.components import cache as c
from tests.cancelling import Strike, everywhere, prove_idle

from .support import AT_ONCE, MANY_RESTARTS, Embedded, lease_of, settle

BACKEND = Embedded()
BACKGROUND = 2  # tasks of an idle cache: the purge, and the watch for a broken store
Operation = Callable[[c.Cache], Awaitable[object]]


async def slow_load() -> bytes:
    await trio.sleep(0.1)
    return b"loaded"


async def failing_load() -> bytes:
    await trio.sleep(0.1)
    raise creche.DomainError(1, "no")


async def get(cache: c.Cache) -> object:
    return await cache.get("stays")


async def count(cache: c.Cache) -> object:
    await trio.lowlevel.checkpoint()
    return await cache.increment("n")


async def load(cache: c.Cache) -> object:
    return await cache.get_or_load("x", slow_load, tags=["t"])


async def load_in_vain(cache: c.Cache) -> object:
    try:
        return await cache.get_or_load("x", failing_load, tags=["t"])
    except creche.DomainError:
        return None


async def load_over_stale(cache: c.Cache) -> object:
    policy = c.LoadPolicy(jitter=0, early=0, stale_for=100, soft_timeout=0.05)
    return await cache.get_or_load("stale", slow_load, policy=policy)


async def nested_loads(cache: c.Cache) -> object:
    async def outer() -> bytes:
        return await cache.get_or_load("x", slow_load)

    return await cache.get_or_load("y", outer)


async def lock(cache: c.Cache) -> object:
    async with cache.lock("l", ttl=3) as held:
        await trio.sleep(5)
        return held.token


async def scan(cache: c.Cache) -> object:
    return await cache.keys()


OPERATIONS: list[Operation] = [get, count, load, load_in_vain, load_over_stale, nested_loads, lock, scan]


async def holding(cache: c.Cache, *, task_status: trio.TaskStatus[None]) -> None:
    """Somebody else has the lock for a second, and loads the same key."""
    try:
        async with cache.lock("l"), trio.open_nursery() as nursery:
            nursery.start_soon(load, cache)
            task_status.started()
            await trio.sleep(1)
    except* c.LockLost:
        pass


async def setting(cache: c.Cache) -> None:
    """What the operations find."""
    policy = c.LoadPolicy(jitter=0, early=0, stale_for=100)
    await cache.get_or_load("stale", slow_load, ttl=1, policy=policy)
    await trio.sleep(2)
    await cache.set("stays", "here")


def nothing_is_left(cache: c.Cache) -> None:
    lease = lease_of(cache)
    assert repr(lease.locks) == "<Locks: 0 held, 0 waiting>"
    assert len(lease.loads) == 0
    inside = cast("Any", lease)
    assert (inside.locks._lines, inside.locks._watches, inside.loads._joinable) == ({}, {}, {})
    assert inside.store._guards == {}


async def cancelled(strike: Strike, operation: Operation, contended: bool) -> None:
    async with creche.open_runtime("test", seed=1) as runtime, trio.open_nursery() as nursery:
        cache = await runtime.start(c.component())
        await setting(cache)
        if contended:
            await nursery.start(holding, cache)
        end = await strike.cancel(operation, cache)
        assert end.what in ("value", "cancelled")
        if operation is count:
            assert await cache.get("n") == (b"1" if end.what == "value" else None)
        assert await cache.get("stays") == b"here"
        await trio.sleep(20)  # loads go on, holders end
        nothing_is_left(cache)
        await prove_idle(runtime, background=BACKGROUND)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("contended", [False, True])
def test_cancelled_anywhere_nothing_stays_held(operation: Operation, contended: bool) -> None:
    """A cancel that comes out means that it was not done; no lock, no place in a line, no load, no timer is left."""
    ends = everywhere(cancelled, operation, contended)
    assert set(ends) == {"value", "cancelled"}


async def killed(strike: Strike, operation: Operation, contended: bool) -> None:
    async with creche.open_runtime("test", seed=1, intensity=MANY_RESTARTS) as runtime, trio.open_nursery() as nursery:
        cache = await runtime.start(c.component().options(backoff=AT_ONCE))
        await setting(cache)
        if contended:
            await nursery.start(holding, cache)
        end = await strike.hit(lambda: runtime.kill(cache, "test"), operation, cache)
        assert end.what == "value" or (operation is lock and end.what == "LockLost")
        if operation in (load, nested_loads):
            assert end.value == b"loaded"
        await trio.sleep(20)
        await cache.set("k", 1)
        assert await cache.get("k") == b"1"
        nothing_is_left(cache)
        await prove_idle(runtime, background=BACKGROUND)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("contended", [False, True])
def test_killed_anywhere_it_ends_and_nothing_stays_held(operation: Operation, contended: bool) -> None:
    """The operation is done, or done at the successor, or its block gets `LockLost`: it never hangs."""
    everywhere(killed, operation, contended)


async def stopped(strike: Strike, operation: Operation) -> None:
    async with creche.open_runtime("test", seed=1) as runtime, trio.open_nursery() as nursery:
        cache = await runtime.start(c.component())
        await setting(cache)
        end = await strike.hit(lambda: nursery.start_soon(runtime.stop, cache), operation, cache)
        assert end.what in ("value", "NotDelivered", "ActorStopped", "LockLost")
        if not strike.struck:
            await runtime.stop(cache)
        await settle()
        with pytest.raises(creche.ActorStopped):
            await cache.get("stays")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_stopped_anywhere_it_ends(operation: Operation) -> None:
    """Whoever waits for a cache that stops is told so."""
    everywhere(stopped, operation)


@pytest.mark.parametrize(
    "use",
    [
        *(get, count, load, load_over_stale, lock, scan),
        lambda cache: cache.set("k", 1),
        lambda cache: cache.set_many({"k": 1}),
        lambda cache: cache.delete("stays"),
        lambda cache: cache.hashes.set("k", "f", 1),
        lambda cache: cache.sets.add("k", 1),
        lambda cache: cache.sorted_sets.add("k", {"m": 1}),
        lambda cache: cache.blooms.add("k", 1),
        lambda cache: cache.get_or_load("stays", slow_load),
        lambda cache: cache.invalidate_tags("t"),
    ],
)
async def test_every_method_is_a_cancellation_point_before_it_does_anything(use: Operation) -> None:
    """In a cancelled scope nothing is done, read or write."""
    async with BACKEND.opened() as opened:
        cache = opened.cache
        await cache.set("stays", 1, tags=["t"])
        with trio.CancelScope() as scope:
            scope.cancel()
            await use(cache)
        assert scope.cancelled_caught
        await settle()
        assert await cache.keys() == ["stays"]
        nothing_is_left(cache)


async def _free_lock(cache: c.Cache) -> None:
    async with cache.lock("l"):
        pass


@pytest.mark.parametrize(
    "use",
    [get, _free_lock, lambda cache: cache.set("k", 1), lambda cache: cache.get_or_load("stays", slow_load)],
)
async def test_a_loop_over_the_cache_lets_others_run(use: Operation) -> None:
    """Within so many turns another task gets its turn."""
    async with BACKEND.opened() as opened, trio.open_nursery() as nursery:
        cache = opened.cache
        await cache.set("stays", 1)
        turns = [0]

        async def other() -> None:
            while True:
                turns[0] += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(other)
        for _ in range(1000):
            await use(cache)
        nursery.cancel_scope.cancel()
    assert turns[0] >= 10


async def test_a_deadline_reaches_who_waits_for_a_lock(autojump_clock: trio.testing.MockClock) -> None:
    """The time to wait is the scope's: `trio.fail_after` around it, and `within` around an actor that waits."""
    async with BACKEND.opened() as opened:
        cache = opened.cache

        class Waiting(creche.Actor):
            @creche.message(on_caller_gone="cancel")
            async def work(self) -> None:
                await lock(cache)

        waiting = await opened.runtime.start(creche.child(Waiting))

        async def wait() -> None:
            with pytest.raises(trio.TooSlowError), trio.fail_after(5):
                await lock(cache)
            with pytest.raises(creche.DeadlineExceeded):
                await waiting.within(5).ask.work()

        async with cache.lock("l"), trio.open_nursery() as nursery:
            nursery.start_soon(wait)
        assert trio.current_time() == 10
        nothing_is_left(cache)
