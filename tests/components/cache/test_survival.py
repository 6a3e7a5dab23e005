"""The embedded backend when its actor crashes, is killed, is down or stops."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from itertools import pairwise
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.components import cache as c
from creche.runtime import events
from creche.runtime.node import State
from tests.core.support import asking, becomes, recorded

from .support import AT_ONCE, Embedded, Gate, Source, cell_of, lease_of, settle, store_of

BACKEND = Embedded()


async def killed(runtime: creche.Runtime, cache: c.Cache) -> None:
    """Kill the actor and wait for its successor."""
    cell = cell_of(cache)
    life = cell.incarnation
    assert runtime.kill(cache, "test")
    while cell.incarnation == life or cell.state is not State.RUNNING:
        await cell.wait_for_change()


async def test_a_crash_loses_the_data_and_nothing_else() -> None:
    """The handle goes on with an empty cache."""
    async with BACKEND.opened() as opened:
        cache = opened.cache
        await cache.set("k", 1)
        await killed(opened.runtime, cache)
        assert await cache.get("k") is None
        await cache.set("k", 2)
        assert await cache.get("k", type=int) == 2
        assert cell_of(cache).incarnation == 2


async def test_who_asks_while_it_is_down_waits_for_the_successor(autojump_clock: MockClock) -> None:
    """For reads, writes, loads and locks alike."""
    async with BACKEND.opened() as opened, trio.open_nursery() as nursery:
        cache = opened.cache
        slow = creche.Backoff(first=2.0, cap=2.0, jitter=0, free=0)
        other = await opened.runtime.start(c.component(c.Config(), name="other").options(backoff=slow))
        opened.runtime.kill(other, "test")
        await becomes(cell_of(other), State.DOWN)
        assert other.statistics() is None
        source = Source()

        async def locked() -> str:
            async with other.lock("l"):
                return "locked"

        replies = [
            asking(nursery, other.get, "k"),
            asking(nursery, other.set, "k", 1),
            asking(nursery, partial(other.get_or_load, "x", source.load)),
            asking(nursery, locked),
        ]
        await settle()
        assert [reply.what for reply in replies] == ["pending"] * 4
        assert await cache.get("k") is None  # the other cache is not concerned
        await trio.sleep(3)
        assert [reply.what for reply in replies] == ["value"] * 4
        assert await other.get("k") == b"1"


async def test_down_for_too_long_is_told(autojump_clock: MockClock) -> None:
    """After `down_wait` callers get `NotDelivered`, with the time of the restart."""
    async with BACKEND.opened() as opened:
        slow = creche.Backoff(first=60.0, cap=60.0, jitter=0, free=0)
        spec = c.component(c.Config(), name="other").options(backoff=slow, down_wait=5.0)
        cache = await opened.runtime.start(spec)
        opened.runtime.kill(cache, "test")
        await becomes(cell_of(cache), State.DOWN)
        for attempt in (cache.get("k"), cache.get_or_load("k", Source().load), cache.sets.add("s", 1)):
            with pytest.raises(creche.NotDelivered) as caught:
                await attempt
            assert caught.value.reason == "crash"
            assert caught.value.retry_after is not None
            assert 54 <= caught.value.retry_after <= 55


async def test_a_load_that_dies_with_the_cache_is_begun_anew() -> None:
    """Its callers do not notice; the first run has ended before the second begins."""
    gate = Gate()
    async with BACKEND.opened() as opened, trio.open_nursery() as nursery:
        cache = opened.cache
        source = Source(before=gate.hold)
        replies = [asking(nursery, partial(cache.get_or_load, "k", source.load)) for _ in range(3)]
        await gate.entered.wait()
        await killed(opened.runtime, cache)
        assert source.ended == 1
        await settle()
        assert source.calls == 2
        gate.open()
        await settle()
        assert [reply.value for reply in replies] == [b"value"] * 3
        assert await cache.get("k") == b"value"


async def test_loads_end_with_the_component() -> None:
    """A stop cancels them; who waits is told that the cache has stopped."""
    async with BACKEND.opened() as opened, trio.open_nursery() as nursery:
        cache = opened.cache
        source = Source(before=trio.sleep_forever)
        reply = asking(nursery, partial(cache.get_or_load, "k", source.load))
        await settle()
        await opened.runtime.stop(cache)
        assert source.ended == 1
        assert await reply.settled() == "NotDelivered"
        assert cast("creche.NotDelivered", reply.error).reason == "closed"
        with pytest.raises(creche.ActorStopped):
            await cache.get("k")
        with pytest.raises(creche.ActorStopped):
            async with cache.lock("l"):
                pass


async def test_a_crash_takes_the_locks_away_at_once() -> None:
    """Their blocks are cancelled before a successor starts, and get `LockLost`; tokens go on from where they were."""
    async with BACKEND.opened() as opened, trio.open_nursery() as nursery:
        cache = opened.cache
        seen = recorded(opened.runtime)
        tokens: list[int] = []

        async def hold() -> None:
            async with cache.lock("l") as lock:
                tokens.append(lock.token)
                try:
                    await trio.sleep_forever()
                finally:
                    assert lock.reason == "ended"
                    assert not lock.held

        reply = asking(nursery, hold)
        await settle()
        await killed(opened.runtime, cache)
        assert await reply.settled() == "LockLost"
        assert cast("c.LockLost", reply.error).reason == "ended"
        async with cache.lock("l", wait=False) as lock:
            tokens.append(lock.token)
        assert tokens[1] > tokens[0]
        lost = [event for event in seen if isinstance(event, c.LockWasLost)]
        assert [(event.key, event.token, event.reason) for event in lost] == [("l", tokens[0], "ended")]


async def test_who_waits_in_line_keeps_waiting_at_the_successor() -> None:
    """Everybody in line gets the lock once, with rising tokens, whatever dies meanwhile."""
    async with BACKEND.opened() as opened, trio.open_nursery() as nursery:
        cache = opened.cache
        tokens: list[int] = []

        async def work() -> None:
            async with cache.lock("l") as lock:
                tokens.append(lock.token)
                await trio.lowlevel.checkpoint()

        async def hold() -> None:
            async with cache.lock("l"):
                await trio.sleep_forever()

        holder = asking(nursery, hold)
        await settle()
        workers = [asking(nursery, work) for _ in range(5)]
        await settle()
        await killed(opened.runtime, cache)
        for worker in workers:
            assert await worker.settled() == "value"
        assert await holder.settled() == "LockLost"
        assert len(tokens) == 5
        assert all(one < two for one, two in pairwise(tokens))


async def test_tokens_rise_from_one_process_to_the_next() -> None:
    """They begin at the wall clock: also if the process before has granted more locks than there were milliseconds."""
    tokens: list[int] = []
    for wall_clock in (1_000_000, 1_000_001):
        async with creche.open_runtime("test") as runtime:
            cache = await runtime.start(c.component(c.Config(), now_ms=lambda now=wall_clock: now))  # type: ignore[misc]
            for _ in range(3):
                async with cache.lock("l") as lock:
                    tokens.append(lock.token)
    assert all(one < two for one, two in pairwise(tokens))
    assert tokens[0] == 1_000_000_000  # microseconds


async def test_a_command_that_fails_in_the_middle_is_a_crash() -> None:
    """What it leaves behind nobody knows: its caller gets `OutcomeUnknown`, the others a new store."""
    async with BACKEND.opened() as opened:
        cache = opened.cache
        seen = recorded(opened.runtime)
        await cache.set("k", 1)
        cast("Any", store_of(cache))._policy = None  # a defect
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await cache.set("other", 2)
        assert isinstance(caught.value.__cause__, AttributeError)
        assert await cache.get("k") is None
        await cache.set("k", 3)
        assert await cache.get("k", type=int) == 3
        crashes = [event.error for event in seen if isinstance(event, events.Crashed)]
        assert len(crashes) == 1
        assert crashes[0].startswith("AttributeError")


async def test_a_dead_store_is_not_kept() -> None:
    """After a crash nothing holds what was cached."""
    async with BACKEND.opened() as opened:
        cache = opened.cache
        await cache.set("k", 1)
        with pytest.raises(creche.DomainError):
            await cache.get_or_load("x", Source(error=creche.DomainError(1, "no")).load)
        store = weakref.ref(store_of(cache))
        await killed(opened.runtime, cache)
        await cache.get("k")
        gc.collect()
        assert store() is None


async def test_nothing_of_a_load_is_left_when_it_has_ended() -> None:
    """Neither in the table of loads, nor guards, nor tags."""
    async with BACKEND.opened() as opened:
        cache = opened.cache
        gate = Gate()
        async with trio.open_nursery() as nursery:
            asking(nursery, partial(cache.get_or_load, "a", Source(None, before=gate.hold).load, tags=["t"]))
            asking(nursery, partial(cache.get_or_load, "b", Source(error=creche.DomainError(1, "")).load, tags=["t"]))
            await settle()
            await cache.delete("a")
            asking(nursery, partial(cache.get_or_load, "a", Source(None).load, tags=["t"]))
            await settle()
            gate.open()
        lease = lease_of(cache)
        assert len(lease.loads) == 0
        inside = cast("Any", lease.store)
        assert (inside._guards, inside._carriers, inside._barriers) == ({}, {}, {})
        assert cast("Any", lease.loads)._joinable == {}


async def test_two_runs_of_a_load_never_overlap(autojump_clock: MockClock) -> None:
    """One that shields itself is waited for before the successor begins it anew."""
    running = 0

    async def stubborn() -> bytes:
        nonlocal running
        running += 1
        assert running == 1
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        running -= 1
        return b"late"

    async with BACKEND.opened() as opened, trio.open_nursery() as nursery:
        policy = c.LoadPolicy(hard_timeout=None)
        reply = asking(nursery, partial(opened.cache.get_or_load, "k", stubborn, policy=policy))
        await settle()
        opened.runtime.kill(opened.cache, "test")
        assert await reply.settled() == "value"
        assert trio.current_time() == 4


async def test_two_caches_in_one_runtime_are_apart() -> None:
    """Each has its own entries, locks and loads."""
    async with BACKEND.opened() as opened:
        other = await opened.runtime.start(c.component(c.Config(), name="other"))
        await opened.cache.set("k", 1)
        async with opened.cache.lock("l"):
            assert await other.get("k") is None
            async with other.lock("l", wait=False):
                pass


async def test_before_the_start_it_says_so() -> None:
    """A handle that an app has handed out knows its name."""
    app = creche.App("test")
    cache = app.use(c.component())
    with pytest.raises(creche.NotStarted, match="cache"):
        await cache.get("k")
    with pytest.raises(creche.NotStarted, match="cache"):
        await cache.hashes.get("k", "f")
    with pytest.raises(creche.NotStarted, match="cache"):
        cache.statistics()
    async with app.open():
        await cache.set("k", 1)
        assert await cache.get("k") == b"1"


async def test_killed_all_the_time_it_neither_hangs_nor_mixes_up_locks(autojump_clock: MockClock) -> None:
    """Chaos: a cache that dies every second, and workers that lock, load and count all the while."""
    random_seed = 7
    async with creche.open_runtime(
        "chaos", seed=random_seed, intensity=creche.Intensity(restarts=10**6, window=1.0)
    ) as runtime:
        cache = await runtime.start(c.component(c.Config()).options(backoff=AT_ONCE))
        tokens: list[int] = []
        locks: list[c.Lock] = []
        done = 0
        source = Source(before=partial(trio.sleep, 0.3))

        async def work(number: int) -> None:
            nonlocal done
            for step in range(20):
                assert await cache.get_or_load(f"k{number % 3}", source.load, ttl=2) == b"value"
                try:
                    async with cache.lock("l", ttl=5) as lock:
                        tokens.append(lock.token)
                        locks.append(lock)
                        await trio.sleep(0.05 * (step % 4))
                        assert [other for other in locks if other.held] == [lock]
                except c.LockLost:
                    pass
            done += 1

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(work, number)
            while done < 5:
                await trio.sleep(0.97)
                runtime.kill(cache, "chaos")
        assert all(one < two for one, two in pairwise(tokens))
        assert cell_of(cache).incarnation > 5


async def test_a_loop_that_stood_still_loses_its_locks(mock_clock: MockClock) -> None:
    """When nothing could be renewed for longer than the ttl, the next one has it."""
    async with BACKEND.opened() as opened, trio.open_nursery() as nursery:
        cache = opened.cache
        got: list[int] = []

        async def work() -> None:
            async with cache.lock("l", ttl=10) as lock:
                got.append(lock.token)
                await trio.sleep_forever()

        first = asking(nursery, work)
        await settle()
        second = asking(nursery, work)
        await settle()
        mock_clock.jump(10.5)
        assert await first.settled() == "LockLost"
        assert cast("c.LockLost", first.error).reason == "expired"
        await settle()
        assert second.what == "pending"
        assert len(got) == 2
        assert got[1] > got[0]
        nursery.cancel_scope.cancel()


async def test_a_block_that_ends_just_too_late_is_told(mock_clock: MockClock) -> None:
    """Also if no timer has had its turn in between."""
    async with BACKEND.opened() as opened:
        with pytest.raises(c.LockLost) as caught:
            async with opened.cache.lock("l", ttl=10):
                mock_clock.jump(10.5)
        assert caught.value.reason == "expired"


async def test_nobody_overtakes_those_in_line(mock_clock: MockClock) -> None:
    """Not even who comes in the moment when the lock has expired and nobody has noticed yet."""
    async with BACKEND.opened() as opened, trio.open_nursery() as nursery:
        cache = opened.cache

        async def work() -> None:
            async with cache.lock("l", ttl=10):
                await trio.sleep_forever()

        first = asking(nursery, work)
        await settle()
        second = asking(nursery, work)
        await settle()
        mock_clock.jump(10.5)
        with pytest.raises(c.LockHeld):
            async with cache.lock("l", wait=False):
                pass
        assert await first.settled() == "LockLost"
        assert second.what == "pending"
        nursery.cancel_scope.cancel()


async def test_waiting_leaves_no_timers_behind() -> None:
    """However many have waited for however long a lock."""
    async with BACKEND.opened() as opened:
        cache = opened.cache
        for _ in range(300):
            async with trio.open_nursery() as nursery:

                async def work() -> None:
                    async with cache.lock("l", ttl=10_000):
                        await trio.lowlevel.checkpoint()

                nursery.start_soon(work)
                nursery.start_soon(work)
        heap = cast("Any", opened.runtime.deadlines)._heap
        assert not any(entry.live() for _, _, entry in heap)


async def test_what_has_ended_is_freed_although_nobody_looks(autojump_clock: MockClock) -> None:
    """A second after its end at the latest."""
    async with BACKEND.opened() as opened:
        for number in range(10):
            await opened.cache.set(f"k{number}", "secret", ttl=10 + number / 10)
        await opened.cache.set("stays", 1)
        await trio.sleep(12)
        assert list(store_of(opened.cache).records) == ["test:stays"]


async def test_each_caller_has_his_own_type() -> None:
    """Who asks for a type that does not fit what is being loaded is told, and harms nobody."""
    async with BACKEND.opened() as opened, trio.open_nursery() as nursery:
        cache = opened.cache
        gate = Gate()
        source = Source("text", before=gate.hold)
        fits = asking(nursery, partial(cache.get_or_load, "k", source.load, type=str))
        await gate.entered.wait()
        does_not = asking(nursery, partial(cache.get_or_load, "k", source.load, type=int))
        await settle()
        gate.open()
        assert await fits.settled() == "value"
        assert await does_not.settled() == "ValueInvalid"
        assert await cache.get("k", type=str) == "text"
        assert source.calls == 1


async def test_a_loop_that_stood_still_for_less_than_the_ttl_does_no_harm(mock_clock: MockClock) -> None:
    """A lock is renewed long before its end, so there is time to spare each time."""
    async with BACKEND.opened() as opened:
        async with opened.cache.lock("l", ttl=9) as lock:
            for _ in range(5):
                mock_clock.jump(8.5)
                await settle()
                assert lock.held


class Ticking(trio.abc.Clock):
    """Time goes on by a second whenever anybody looks at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        self.now += 1
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0


@pytest.mark.parametrize("ttl", range(1, 40))
def test_a_lock_that_ends_while_somebody_gets_in_line_is_his(ttl: int) -> None:
    """Whatever moment of his getting in line it ends at."""

    async def wait() -> None:
        async with creche.open_runtime("test") as runtime:
            cache = await runtime.start(c.component(c.Config(key_prefix="")))
            await cache.set("k", 1)
            table = cast("Any", lease_of(cache).locks)._table
            assert table.acquire("lock:l", ttl, trio.current_time())  # of a holder that does not renew it
            with trio.fail_after(10_000):
                async with cache.lock("l", ttl=100_000):
                    pass

    trio.run(wait, clock=Ticking())
