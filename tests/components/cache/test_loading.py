"""The contract of `get_or_load` and of tags, on every backend."""

from __future__ import annotations

from functools import partial

import pytest
import trio

import creche
from creche.components import cache as c
from creche.runtime.context import baggage, carrying
from tests.core.support import Reply, asking, recorded

from .support import STEADY, Backend, Boom, Gate, Opened, Source, settle

Clock = trio.abc.Clock | None
STALE = c.LoadPolicy(jitter=0, early=0, stale_for=100, retry_after=5)


class NoSuchUser(creche.DomainError):
    def __init__(self, user: int) -> None:
        super().__init__(404, f"no user {user}")
        self.user = user


def in_seconds(backend: Backend, policy: c.LoadPolicy) -> c.LoadPolicy:
    """The policy with its times in the backend's seconds."""
    second = backend.second
    soft, hard = policy.soft_timeout, policy.hard_timeout
    return c.LoadPolicy(
        jitter=policy.jitter,
        early=policy.early,
        stale_for=policy.stale_for * second,
        retry_after=policy.retry_after * second,
        soft_timeout=None if soft is None else soft * second,
        hard_timeout=None if hard is None else hard * second,
    )


# --- hit and miss -----------------------------------------------------------------------------------------------------


async def test_a_miss_loads_and_a_hit_does_not(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """The value is loaded once in its time, with the arguments that were given, and is there for `get`."""
    source = Source({"name": "Ada"})
    for _ in range(3):
        got = await cache.get_or_load("k", source.load, 1, "x", type=dict[str, str], ttl=10 * backend.second)
        assert got == {"name": "Ada"}
    assert source.seen == [(1, "x")]
    assert await cache.get("k", type=dict[str, str]) == {"name": "Ada"}
    await backend.elapse(11)
    assert await cache.get("k") is None
    await cache.get_or_load("k", source.load, type=dict[str, str])
    assert source.calls == 2


async def test_what_was_stored_by_hand_is_a_hit(cache: c.Cache) -> None:
    """`set` and `get_or_load` share their keys."""
    await cache.set("k", 7)
    source = Source(8)
    assert await cache.get_or_load("k", source.load, type=int) == 7
    assert source.calls == 0


async def test_the_type_is_the_same_on_a_miss_and_on_a_hit(cache: c.Cache) -> None:
    """Also the first caller gets what was decoded, not what the load happened to return."""
    source = Source((1, 2))
    first = await cache.get_or_load("k", source.load, type=list[int])
    second = await cache.get_or_load("k", source.load, type=list[int])
    assert first == second == [1, 2]
    assert first is not second
    text = Source("text")
    assert await cache.get_or_load("t", text.load) == b"text"


async def test_a_load_that_returns_another_type_is_told_and_not_stored(cache: c.Cache) -> None:
    """Else every later reader would find what it cannot read."""
    with pytest.raises(c.ValueInvalid, match="'k'"):
        await cache.get_or_load("k", Source("text").load, type=int)
    with pytest.raises(TypeError):
        await cache.get_or_load("k", Source(object()).load)
    assert await cache.exists("k") == 0


async def test_what_cannot_be_read_is_loaded_anew(opened: Opened) -> None:
    """An entry of another type, say of an older version, is replaced, and an event tells."""
    seen = recorded(opened.runtime)
    cache = opened.cache
    await cache.set("k", "of old")
    source = Source(5)
    assert await cache.get_or_load("k", source.load, type=int) == 5
    assert await cache.get("k", type=int) == 5
    assert source.calls == 1
    assert [event.key for event in seen if isinstance(event, c.EntryReplaced)] == ["k"]


# --- one load for all -------------------------------------------------------------------------------------------------


async def test_whoever_asks_meanwhile_waits_for_the_same_load(cache: c.Cache) -> None:
    """A hundred callers, one load; each gets an object of his own."""
    gate = Gate()
    source = Source([1], before=gate.hold)
    load = partial(cache.get_or_load, "k", source.load, type=list[int])
    async with trio.open_nursery() as nursery:
        replies = [asking(nursery, load) for _ in range(100)]
        await settle()
        gate.open()
    assert source.calls == 1
    assert all(reply.value == [1] for reply in replies)
    assert len({id(reply.value) for reply in replies}) == 100


@pytest.mark.parametrize("leaving", ["first", "all"])
async def test_a_load_survives_its_callers(cache: c.Cache, leaving: str) -> None:
    """The first caller, or all of them, may be cancelled: who is left gets the value, and it is stored."""
    gate = Gate()
    source = Source(before=gate.hold)
    async with trio.open_nursery() as nursery:
        replies = [asking(nursery, partial(cache.get_or_load, "k", source.load)) for _ in range(3)]
        await gate.entered.wait()
        for reply in replies[:1] if leaving == "first" else replies:
            reply.scope.cancel()
        await settle()
        assert replies[0].what == "cancelled"
        gate.open()
        await settle()
        whats = [reply.what for reply in replies]
    assert whats == (["cancelled", "value", "value"] if leaving == "first" else ["cancelled"] * 3)
    assert await cache.get("k") == b"value"
    assert source.calls == 1


async def test_loads_of_different_keys_run_side_by_side(cache: c.Cache) -> None:
    """A load that hangs holds up nobody but those who asked for its key."""
    gate = Gate()
    async with trio.open_nursery() as nursery:
        slow = asking(nursery, partial(cache.get_or_load, "slow", Source(before=gate.hold).load))
        await gate.entered.wait()
        assert await cache.get_or_load("quick", Source().load) == b"value"
        await cache.set("other", 1)
        assert slow.what == "pending"
        gate.open()


async def test_a_load_has_its_callers_baggage_and_nothing_else_of_his(cache: c.Cache) -> None:
    """The trace and log context of who began it; neither his deadline nor his cancel scope."""
    seen: list[object] = []

    async def load() -> bytes:
        seen.append(baggage().get("trace_id"))
        seen.append(creche.current_deadline())
        seen.append(trio.current_effective_deadline())
        return b""

    with carrying(trace_id="t1"), trio.fail_after(3600):
        await cache.get_or_load("k", load, policy=c.LoadPolicy(hard_timeout=None))
    await cache.get_or_load("k2", load, policy=c.LoadPolicy(hard_timeout=None))
    assert seen == ["t1", float("inf"), float("inf"), None, float("inf"), float("inf")]


async def test_a_load_may_use_the_cache(cache: c.Cache) -> None:
    """It may read, write, and load other keys."""

    async def inner() -> bytes:
        await cache.set("side", 1)
        return b"inner"

    async def outer() -> bytes:
        return b"outer of " + await cache.get_or_load("inner", inner)

    assert await cache.get_or_load("outer", outer) == b"outer of inner"
    assert await cache.get("side") == b"1"


async def test_a_load_that_asks_for_its_own_key_is_told(cache: c.Cache) -> None:
    """At once, instead of waiting for itself."""

    async def load() -> bytes:
        return await cache.get_or_load("k", load)

    with pytest.raises(c.LoadCycle) as caught:
        await cache.get_or_load("k", load)
    assert caught.value.chain == ("k", "k")


async def test_loads_that_wait_for_each_other_are_told(cache: c.Cache) -> None:
    """Also when they meet in the middle: one of them gets `LoadCycle`, and passes it on."""
    both = [trio.Event(), trio.Event()]

    async def load(mine: int) -> bytes:
        both[mine].set()
        await both[1 - mine].wait()
        return await cache.get_or_load(f"k{1 - mine}", load, 1 - mine)

    async with trio.open_nursery() as nursery:
        replies = [asking(nursery, partial(cache.get_or_load, f"k{mine}", load, mine)) for mine in (0, 1)]
    assert {reply.what for reply in replies} == {"LoadCycle"}


# --- errors -----------------------------------------------------------------------------------------------------------


async def test_every_caller_gets_the_loads_error_as_an_object_of_his_own(opened: Opened) -> None:
    """Type, arguments and fields are the load's; nothing is stored, and the next caller loads again."""
    cache, gate = opened.cache, Gate()
    source = Source(error=NoSuchUser(7), before=gate.hold)
    async with trio.open_nursery() as nursery:
        replies = [asking(nursery, partial(cache.get_or_load, "k", source.load)) for _ in range(3)]
        await settle()
        gate.open()
    errors = [reply.error for reply in replies]
    assert [(type(error), getattr(error, "user", None), str(error)) for error in errors] == [
        (NoSuchUser, 7, "[404] no user 7")
    ] * 3
    assert len({id(error) for error in errors}) == 3
    assert source.calls == 1
    source.error = None
    assert await cache.get_or_load("k", source.load) == b"value"


async def test_an_error_in_a_load_is_told_and_crashes_nobody(opened: Opened) -> None:
    """The cache lives on, with all that is in it. A domain error is an answer, and not worth an event."""
    seen = recorded(opened.runtime)
    await opened.cache.set("other", 1)
    with pytest.raises(Boom):
        await opened.cache.get_or_load("k", Source(error=Boom("no")).load)
    with pytest.raises(NoSuchUser):
        await opened.cache.get_or_load("k", Source(error=NoSuchUser(1)).load)
    await settle()
    told = [(event.key, event.error, event.stale) for event in seen if isinstance(event, c.LoadFailed)]
    assert told == [("k", "Boom: no", False)]
    assert await opened.cache.get("other") == b"1"
    assert opened.runtime.node_of(opened.cache).restarts == 0


async def test_a_load_that_takes_too_long_is_cancelled(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """After the hard timeout its callers get `LoadTimeout`, a `trio.TooSlowError`, and the load has ended."""
    policy = in_seconds(backend, c.LoadPolicy(hard_timeout=5))
    source = Source(before=trio.sleep_forever)
    with pytest.raises(c.LoadTimeout) as caught:
        await cache.get_or_load("k", source.load, policy=policy)
    assert isinstance(caught.value, trio.TooSlowError)
    assert isinstance(caught.value, creche.Unavailable)
    assert (caught.value.key, caught.value.seconds) == ("k", policy.hard_timeout)
    assert source.ended == 1
    assert await cache.get_or_load("k", Source().load) == b"value"


# --- nothing is something too -----------------------------------------------------------------------------------------


async def test_that_there_is_nothing_can_be_remembered(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """With `negative_ttl` callers get None without a load; without, each of them loads."""
    source = Source(None)
    assert await cache.get_or_load("k", source.load) is None
    assert await cache.get_or_load("k", source.load) is None
    assert source.calls == 2
    for _ in range(3):
        assert await cache.get_or_load("k", source.load, type=int, negative_ttl=10 * backend.second) is None
    assert source.calls == 3
    await backend.elapse(11)
    source.value = 5
    assert await cache.get_or_load("k", source.load, type=int) == 5


async def test_a_negative_entry_is_a_miss_for_everybody_else(cache: c.Cache) -> None:
    """It is not there for `get`, `exists` and `keys`, and gives way to what is written."""
    await cache.get_or_load("k", Source(None).load, negative_ttl=100)
    assert await cache.get("k") is None
    assert await cache.exists("k") == 0
    assert await cache.ttl("k") is None
    assert await cache.keys() == []
    assert await cache.set_if_absent("k", 1) is True
    await cache.get_or_load("n", Source(None).load, negative_ttl=100)
    assert await cache.increment("n") == 1
    await cache.get_or_load("s", Source(None).load, negative_ttl=100)
    assert await cache.sets.add("s", "m") == 1


async def test_a_value_that_has_gone_is_not_remembered(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """When a load finds nothing any more, the stale value goes, too."""
    policy = in_seconds(backend, STALE)
    source = Source()
    await cache.get_or_load("k", source.load, ttl=10 * backend.second, policy=policy)
    await backend.elapse(11)
    source.value = None
    assert await cache.get_or_load("k", source.load, policy=policy) is None
    source.error = Boom()
    with pytest.raises(Boom):
        await cache.get_or_load("k", source.load, policy=policy)


# --- stale values -----------------------------------------------------------------------------------------------------


async def test_a_stale_value_stands_in_for_a_load_that_fails(backend: Backend, clock: Clock) -> None:
    """For a while without another try, then with; until it is too old. Nobody but `get_or_load` sees it."""
    policy = in_seconds(backend, STALE)
    async with backend.opened(loading=policy) as opened:
        cache = opened.cache
        seen = recorded(opened.runtime)
        source = Source(b"old")
        load = partial(cache.get_or_load, "k", source.load, ttl=10 * backend.second)
        await load()
        await backend.elapse(11)
        source.error = Boom("down")
        assert await load() == b"old"
        assert source.calls == 2
        assert await cache.get("k") is None
        assert await cache.exists("k") == 0
        assert await load() == b"old"
        assert source.calls == 2  # it rests
        await backend.elapse(6)
        assert await load() == b"old"
        assert source.calls == 3
        assert all(event.stale for event in seen if isinstance(event, c.LoadFailed))
        await backend.elapse(6)
        source.error = None
        source.value = b"new"
        assert await load() == b"new"
        assert await load() == b"new"
        await backend.elapse(111)
        source.error = Boom("down again")
        with pytest.raises(Boom):
            await load()


async def test_moving_an_end_moves_the_reserve_with_it(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """A loaded value whose end is moved is stale from then on for as long as before."""
    policy = in_seconds(backend, STALE)
    source = Source(b"old")
    load = partial(cache.get_or_load, "k", source.load, ttl=10 * backend.second, policy=policy)
    await load()
    await cache.expire("k", ttl=50 * backend.second)
    await backend.elapse(120)
    source.error = Boom()
    assert await load() == b"old"
    await backend.elapse(40)
    with pytest.raises(Boom):
        await load()


async def test_without_a_reserve_errors_are_told(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """`stale_for=0` keeps nothing beyond its time."""
    source = Source()
    await cache.get_or_load("k", source.load, ttl=10 * backend.second)
    await backend.elapse(11)
    source.error = Boom()
    with pytest.raises(Boom):
        await cache.get_or_load("k", source.load)


async def test_a_domain_error_is_an_answer_and_no_failure(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """That there is no such user is not covered up by what was known of him."""
    policy = in_seconds(backend, STALE)
    source = Source()
    await cache.get_or_load("k", source.load, ttl=10 * backend.second, policy=policy)
    await backend.elapse(11)
    source.error = NoSuchUser(1)
    for _ in range(2):
        with pytest.raises(NoSuchUser):
            await cache.get_or_load("k", source.load, policy=policy)
    assert source.calls == 3


@pytest.mark.parametrize("which", ["soft", "hard"])
async def test_a_stale_value_stands_in_for_a_load_that_is_slow(backend: Backend, clock: Clock, which: str) -> None:
    """After the soft timeout callers get it while the load goes on, and fills the cache; after the hard one it ends."""
    soft = 2.0 if which == "soft" else None
    rules = c.LoadPolicy(jitter=0, early=0, stale_for=1000, soft_timeout=soft, hard_timeout=20)
    policy = in_seconds(backend, rules)
    async with backend.opened(loading=policy) as opened:
        cache = opened.cache
        gate = Gate()
        source = Source(b"old")
        load = partial(cache.get_or_load, "k", source.load, ttl=10 * backend.second)
        await load()
        await backend.elapse(11)
        source.value, source.before = b"new", gate.hold
        began = trio.current_time()
        assert await load() == b"old"
        waited = (trio.current_time() - began) / backend.second
        if which == "soft":
            assert 2 <= waited < 10
            assert source.ended == 1  # the old one: the new one goes on
            gate.open()
            await settle()
            assert await cache.get("k") == b"new"
        else:
            assert 20 <= waited < 40
            assert source.ended == 2
            assert await cache.get("k") is None


async def test_a_soft_timeout_is_no_timeout_without_a_stale_value(backend: Backend, clock: Clock) -> None:
    """There is nothing to fall back on, so callers wait."""
    policy = in_seconds(backend, c.LoadPolicy(soft_timeout=1))
    async with backend.opened(loading=policy) as opened:
        source = Source(before=partial(trio.sleep, 5 * backend.second))
        assert await opened.cache.get_or_load("k", source.load) == b"value"


# --- early refresh and jitter -----------------------------------------------------------------------------------------


async def test_a_value_is_refreshed_before_it_ends(backend: Backend, clock: Clock) -> None:
    """Nobody waits for that: all get the present value at once, and one load renews it, long before the end."""
    policy = in_seconds(backend, c.LoadPolicy(jitter=0, early=1e6))
    async with backend.opened(loading=policy) as opened:
        cache = opened.cache
        source = Source(b"1", before=partial(trio.sleep, 0.5 * backend.second))
        load = partial(cache.get_or_load, "k", source.load, ttl=1000 * backend.second)
        await load()
        source.value = b"2"
        began = trio.current_time()
        assert {await load() for _ in range(50)} == {b"1"}
        await settle()
        assert trio.current_time() - began < 0.5 * backend.second
        assert source.calls == 2
        await backend.elapse(1)
        assert await cache.get("k") == b"2"


async def test_a_refresh_that_fails_is_not_tried_again_at_once(backend: Backend, clock: Clock) -> None:
    """The value is good until its end; the next try comes after `retry_after`."""
    policy = in_seconds(backend, c.LoadPolicy(jitter=0, early=1e6, retry_after=50))
    async with backend.opened(loading=policy) as opened:
        source = Source(b"1", before=partial(trio.sleep, 0.5 * backend.second))
        load = partial(opened.cache.get_or_load, "k", source.load, ttl=1000 * backend.second)
        await load()
        source.error = Boom()
        for _ in range(10):
            assert await load() == b"1"
            await backend.elapse(1)
        assert source.calls == 2
        await backend.elapse(50)
        assert await load() == b"1"
        await backend.elapse(1)
        assert source.calls == 3


async def test_what_was_loaded_together_does_not_end_together(backend: Backend, clock: Clock) -> None:
    """With jitter each ends within the given part before its ttl, never after; what is set by hand ends exactly."""
    policy = c.LoadPolicy(jitter=0.5, early=0)
    async with backend.opened(loading=policy) as opened:
        cache = opened.cache
        ends: list[float] = []
        for number in range(200):
            await cache.get_or_load(f"k{number}", Source().load, ttl=100 * backend.second)
            left = await cache.ttl(f"k{number}")
            assert left is not None
            ends.append(left / backend.second)
        assert 48 <= min(ends) < 60 < 90 < max(ends) <= 100
        assert 70 < sum(ends) / len(ends) < 80


# --- in an actor ------------------------------------------------------------------------------------------------------


class Reader(creche.Actor):
    """An author's actor that reads through the cache."""

    def __init__(self, cache: c.Cache, source: Source) -> None:
        self._cache = cache
        self._source = source

    @creche.message(on_caller_gone="cancel")
    async def read(self, key: str) -> object:
        return await self._cache.get_or_load(key, self._source.load, policy=STEADY)


async def test_a_load_goes_on_when_the_actor_that_began_it_dies(opened: Opened) -> None:
    """Its successor joins the same load."""
    gate = Gate()
    source = Source(before=gate.hold)
    reader = await opened.runtime.start(creche.child(Reader, opened.cache, source))
    async with trio.open_nursery() as nursery:
        first: Reply = asking(nursery, reader.ask.read, "k")
        await gate.entered.wait()
        opened.runtime.kill(reader, "test")
        assert await first.settled() == "OutcomeUnknown"
        second = asking(nursery, reader.ask.read, "k")
        await settle()
        gate.open()
    assert second.value == b"value"
    assert source.calls == 1


async def test_a_slow_source_is_weather_for_the_actors_that_wait_for_it(
    backend: Backend, clock: Clock, opened: Opened
) -> None:
    """`LoadTimeout` goes through an actor without a crash."""
    policy = in_seconds(backend, c.LoadPolicy(hard_timeout=1))

    class Impatient(Reader):
        async def read_now(self) -> object:
            return await self._cache.get_or_load("k", self._source.load, policy=policy)

    reader = await opened.runtime.start(creche.child(Impatient, opened.cache, Source(before=trio.sleep_forever)))
    with pytest.raises(c.LoadTimeout):
        await reader.ask.read_now()
    assert opened.runtime.node_of(reader).restarts == 0
