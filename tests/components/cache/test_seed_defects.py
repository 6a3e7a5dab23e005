"""What was wrong with the seeds' cache, with one test for each defect that would have caught it.

What only concerns a server (pools, TLS, pipelines, reloading a client) comes with the backend that has one.
"""

from __future__ import annotations

import random
from functools import partial

import pytest
import trio

import creche
from creche.components import cache as c
from tests.core.support import asking, recorded

from .support import Backend, Boom, Embedded, Gate, Opened, Source, settle

Clock = trio.abc.Clock | None


async def test_leaving_a_lock_that_is_not_ours_any_more_is_an_error(
    backend: Backend, clock: Clock, cache: c.Cache
) -> None:
    """Unlock and refresh of a lost lock returned nil, so nobody knew that he had not been alone."""
    with pytest.raises(c.LockLost):
        async with cache.lock("l", ttl=1 * backend.second, max_hold=2 * backend.second):
            with trio.CancelScope(shield=True):
                await backend.elapse(5)


async def test_a_lock_that_is_held_is_no_outage(cache: c.Cache) -> None:
    """Both were one untyped error; and there was no way to wait."""
    async with cache.lock("l"):
        with pytest.raises(c.LockHeld) as caught:
            async with cache.lock("l", wait=False):
                pass
        assert not isinstance(caught.value, (creche.Unavailable, creche.CallFailed))
        async with trio.open_nursery() as nursery:
            waiting = asking(nursery, _take, cache)
            await settle()
            assert waiting.what == "pending"
            waiting.scope.cancel()
        assert waiting.what == "cancelled"
    await _take(cache)


async def _take(cache: c.Cache) -> int:
    async with cache.lock("l") as lock:
        return lock.token


async def test_a_lock_is_renewed_and_has_a_fencing_token(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """There was no watchdog, and nothing by which a resource could refuse a late writer."""
    async with cache.lock("l", ttl=1 * backend.second) as first:
        await backend.elapse(10)
        assert first.held
    accepted = first.token
    later = await _take(cache)
    assert later > accepted  # so a resource that has seen `later` refuses `accepted`


async def test_a_lock_is_given_back_when_the_request_has_been_cancelled(cache: c.Cache) -> None:
    """`defer lock.Unlock(ctx)` with a cancelled context left it to its ttl."""
    with trio.CancelScope() as request:
        async with cache.lock("l"):
            request.cancel()
            await trio.lowlevel.checkpoint()
    async with cache.lock("l", wait=False):
        pass


async def test_a_ttl_of_a_lock_keeps_its_fractions(backend: Backend, clock: Clock, opened: Opened) -> None:
    """Below a second it became 0, and that the default of a minute."""
    cache = opened.cache
    async with trio.open_nursery() as nursery:

        async def stubborn() -> None:
            with pytest.raises(c.LockLost):
                async with cache.lock("l", ttl=0.5 * backend.second, max_hold=0.25 * backend.second):
                    with trio.CancelScope(shield=True):
                        await backend.elapse(5)

        nursery.start_soon(stubborn)
        await settle()
        with trio.fail_after(2 * backend.second):
            await _take(cache)


async def test_ranges_come_with_scores_that_belong_to_them(cache: c.Cache) -> None:
    """One look for each member gave members that had gone a score of 0, and six digits of the others."""
    await cache.sorted_sets.add("z", {f"m{number}": number + 0.123456789 for number in range(100)})
    seen: list[tuple[bytes, float]] = []

    async def read() -> None:
        for _ in range(50):
            seen.extend(await cache.sorted_sets.range("z"))
            await trio.lowlevel.checkpoint()

    async def take_out() -> None:
        for number in range(100):
            await cache.sorted_sets.remove("z", f"m{number}")
            if number % 4 == 0:
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(take_out)
    assert seen
    assert all(score == int(member[1:]) + 0.123456789 for member, score in seen)


async def test_keys_are_prefixed_in_one_way(backend: Backend) -> None:
    """Sorted sets joined prefix and key without the colon, and scripts without the prefix: names ran together."""
    async with backend.opened(key_prefix="a") as opened:
        cache = opened.cache
        await cache.set("b", 1)
        await cache.sorted_sets.add("c", {"m": 1})
        await cache.hashes.set("d", "f", 1)
        assert sorted(await cache.keys()) == ["b", "c", "d"]
        assert await cache.delete("b", "c", "d") == 3


async def test_a_bloom_filter_that_nobody_has_reserved_is_empty(cache: c.Cache) -> None:
    """It was an error; its parameters were not checked, and each use of it took two trips."""
    assert await cache.blooms.contains("b", "x") is False
    with pytest.raises(ValueError, match="error_rate"):
        await cache.blooms.reserve("b", error_rate=2, capacity=10)
    async with trio.open_nursery() as nursery:
        replies = [asking(nursery, partial(cache.blooms.reserve, "b", error_rate=0.1, capacity=10)) for _ in range(5)]
    assert sorted(reply.value for reply in replies) == [False] * 4 + [True]


def test_a_config_is_validated() -> None:
    """There was a `Validate`, and nobody called it."""
    with pytest.raises(creche.ConfigInvalid, match="max_entries"):
        c.component(c.Config(max_entries=-1))


async def test_values_are_never_told(opened: Opened) -> None:
    """Errors logged the cached value, which may be a secret."""
    cache = opened.cache
    seen = recorded(opened.runtime)
    secret = "hunter2"
    await cache.set("k", secret)
    told: list[str] = []
    for attempt in (cache.get("k", type=int), cache.increment("k"), cache.sets.add("k", 1)):
        with pytest.raises(creche.CrecheError) as caught:
            await attempt
        told += [str(caught.value), repr(caught.value), repr(caught.value.__context__), repr(caught.value.__cause__)]
    await cache.get_or_load("k", Source(5).load, type=int)
    told += [repr(event) for event in seen] + [repr(cache), repr(cache.statistics())]
    assert secret not in "".join(told)


async def test_batches_are_part_of_the_handle(cache: c.Cache) -> None:
    """The documented one went through a private type."""
    await cache.set_many({"a": 1, "b": 2})
    assert await cache.get_many(["a", "b"], type=int) == {"a": 1, "b": 2}


async def test_a_hot_key_is_loaded_once(cache: c.Cache) -> None:
    """Breakdown: there was no single-flight."""
    source = Source(before=trio.lowlevel.checkpoint)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(partial(cache.get_or_load, "k", source.load))
    assert source.calls == 1


async def test_what_does_not_exist_is_asked_for_once(cache: c.Cache) -> None:
    """Penetration: there was no negative cache."""
    source = Source(None)
    for _ in range(10):
        assert await cache.get_or_load("k", source.load, negative_ttl=60) is None
    assert source.calls == 1


async def test_what_is_filled_together_does_not_expire_together(backend: Backend, clock: Clock) -> None:
    """Avalanche: there was no jitter."""
    async with backend.opened(loading=c.LoadPolicy()) as opened:
        for number in range(100):
            await opened.cache.get_or_load(f"k{number}", Source().load, ttl=100 * backend.second)
        await backend.elapse(95)
        assert 20 < len(await opened.cache.keys()) < 80


async def test_a_read_that_overlaps_a_write_leaves_nothing_stale(cache: c.Cache) -> None:
    """The repository: read old, write new, delete the key, and then the reader stored what was old."""
    database = {"user": b"old"}
    gate = Gate()

    async def fetch() -> bytes:
        row = database["user"]
        await gate.hold()
        return row

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(cache.get_or_load, "user", fetch))
        await gate.entered.wait()
        database["user"] = b"new"
        await cache.delete("user")
        gate.open()
    assert await cache.get_or_load("user", fetch) == b"new"


async def test_a_corrupt_entry_heals(cache: c.Cache) -> None:
    """It failed every reader until its ttl was over."""
    await cache.set("user", b"\xff{not json")
    source = Source({"name": "Ada"})
    assert await cache.get_or_load("user", source.load, type=dict[str, str]) == {"name": "Ada"}
    assert await cache.get("user", type=dict[str, str]) == {"name": "Ada"}


async def test_errors_of_the_source_are_not_swallowed(cache: c.Cache) -> None:
    """Cache errors and source errors were ignored alike: what the load raises comes out."""
    with pytest.raises(Boom):
        await cache.get_or_load("k", Source(error=Boom("no rows")).load)


async def test_a_value_is_evicted_by_use_and_not_by_chance() -> None:
    """There was no local tier with a bound; GN's has one."""
    async with Embedded().opened(max_entries=100) as opened:
        cache, rng = opened.cache, random.Random(1)
        for _ in range(3000):
            await cache.get_or_load(f"hot{rng.randrange(20)}", Source().load)
            await cache.get_or_load(f"cold{rng.randrange(10**6)}", Source().load)
        hot = await cache.keys("hot")
        assert len(hot) == 20
        assert len(await cache.keys()) <= 100
