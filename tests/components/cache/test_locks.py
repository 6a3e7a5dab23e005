"""The contract of locks, on every backend."""

from __future__ import annotations

import math

import pytest
import trio

import creche
from creche.components import cache as c
from tests.core.support import asking, recorded

from .support import Backend, Boom, Opened, settle

Clock = trio.abc.Clock | None


def is_held(lock: c.Lock) -> bool:
    return lock.held  # behind a call, else checkers take it for what it was a line before


async def test_only_one_holds_a_lock(cache: c.Cache) -> None:
    """The others wait, and each of them has it once."""
    inside: list[int] = []
    done: list[int] = []

    async def work(number: int) -> None:
        async with cache.lock("l"):
            inside.append(number)
            await trio.lowlevel.checkpoint()
            assert inside == [number]
            inside.remove(number)
            done.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(work, number)
    assert sorted(done) == list(range(20))


async def test_locks_of_different_names_are_independent(cache: c.Cache) -> None:
    """One does not hold up the other."""
    async with cache.lock("a"), cache.lock("b", wait=False):
        pass


async def test_who_does_not_want_to_wait_is_told(backend: Backend, clock: Clock, opened: Opened) -> None:
    """`LockHeld` names the lock and says when it may be free; it is an answer, and nothing has been taken."""
    cache = opened.cache

    class Worker(creche.Actor):
        async def work(self) -> None:
            async with cache.lock("order:7", wait=False):
                pass

    worker = await opened.runtime.start(creche.child(Worker))
    async with cache.lock("order:7", ttl=30 * backend.second):
        with pytest.raises(c.LockHeld) as caught:
            async with cache.lock("order:7", wait=False):
                pass
        assert caught.value.key == "order:7"
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= 30 * backend.second
        assert caught.value.http_status == 409
        with pytest.raises(c.LockHeld):
            await worker.ask.work()
    await worker.ask.work()
    assert opened.runtime.node_of(worker).restarts == 0


async def test_a_lock_in_hand(cache: c.Cache) -> None:
    """It knows its name, whether it is held, and its token, which is greater than all before it."""
    tokens: list[int] = []
    for _ in range(3):
        async with cache.lock("l") as lock:
            assert lock.key == "l"
            assert lock.held
            assert lock.reason is None
            tokens.append(lock.token)
        assert "released" in repr(lock)
        assert is_held(lock) is False
    assert tokens == sorted(set(tokens))


async def test_a_lock_is_given_back_however_the_block_ends(cache: c.Cache) -> None:
    """By an error, by a cancel, or by itself."""
    with pytest.raises(Boom):
        async with cache.lock("l"):
            raise Boom
    with trio.CancelScope() as scope:
        async with cache.lock("l", wait=False):
            scope.cancel()
            await trio.sleep_forever()
    async with cache.lock("l", wait=False):
        pass


async def test_a_lock_is_renewed_for_as_long_as_the_block_runs(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """A block may take many times its ttl."""
    async with cache.lock("l", ttl=3 * backend.second) as lock:
        for _ in range(10):
            await backend.elapse(2)
            assert lock.held
            with pytest.raises(c.LockHeld):
                async with cache.lock("l", wait=False):
                    pass


async def test_a_block_that_hangs_loses_its_lock(backend: Backend, clock: Clock, opened: Opened) -> None:
    """After `max_hold` it is cancelled and gets `LockLost`, and whoever waits gets the lock, with a greater token."""
    cache = opened.cache
    seen = recorded(opened.runtime)
    async with trio.open_nursery() as nursery:
        mine: list[c.Lock] = []
        got: list[c.Lock] = []

        async def next_one() -> None:
            async with cache.lock("l") as lock:
                got.append(lock)

        with pytest.raises(c.LockLost) as caught:
            async with cache.lock("l", ttl=6 * backend.second, max_hold=20 * backend.second) as held:
                mine.append(held)
                nursery.start_soon(next_one)
                await trio.sleep_forever()
        (lock,) = mine
        assert (caught.value.key, caught.value.token, caught.value.reason) == ("l", lock.token, "max_hold")
        assert not lock.held
        assert lock.reason == "max_hold"
        with trio.fail_after(10 * backend.second):
            while not got:
                await backend.elapse(0.1)
    assert got[0].token > lock.token
    assert [(event.key, event.reason) for event in seen if isinstance(event, c.LockWasLost)] == [("l", "max_hold")]


async def test_a_block_that_does_not_notice_is_told_at_its_end(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """Shielded, it runs to its end; then it learns that it was not alone any more."""
    with pytest.raises(c.LockLost):
        async with cache.lock("l", ttl=3 * backend.second, max_hold=4 * backend.second):
            with trio.CancelScope(shield=True):
                await backend.elapse(10)


async def test_a_holder_that_does_not_let_go_loses_the_lock_all_the_same(
    backend: Backend, clock: Clock, cache: c.Cache
) -> None:
    """A block that is cancelled but goes on keeps others out no longer than its ttl, and its end harms nobody."""
    async with trio.open_nursery() as nursery:

        async def stubborn() -> None:
            with pytest.raises(c.LockLost):
                async with cache.lock("l", ttl=5 * backend.second, max_hold=10 * backend.second):
                    with trio.CancelScope(shield=True):
                        await backend.elapse(100)

        nursery.start_soon(stubborn)
        await settle()
        began = trio.current_time()
        async with cache.lock("l", ttl=1000 * backend.second) as lock:
            waited = (trio.current_time() - began) / backend.second
            assert 10 <= waited <= 17
            await backend.elapse(95)  # the other block ends meanwhile
            assert lock.held


async def test_what_the_block_raises_goes_first(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """An error of the block's own is not covered up by the loss."""
    with pytest.raises(Boom):
        async with cache.lock("l", ttl=3 * backend.second, max_hold=4 * backend.second):
            try:
                await trio.sleep_forever()
            finally:
                raise Boom


async def test_a_cancel_from_outside_stays_one(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """Also when the lock is lost at the same moment."""
    with trio.move_on_after(4 * backend.second) as scope:
        async with cache.lock("l", ttl=3 * backend.second, max_hold=4 * backend.second):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_who_is_cancelled_in_line_leaves_it(cache: c.Cache) -> None:
    """The lock goes on to the one behind."""
    async with trio.open_nursery() as nursery:

        async def take() -> str:
            async with cache.lock("l"):
                return "had it"

        async with cache.lock("l"):
            first, second = asking(nursery, take), asking(nursery, take)
            await settle()
            first.scope.cancel()
            await settle()
            assert first.what == "cancelled"
    assert second.value == "had it"


async def test_a_task_that_holds_a_lock_cannot_wait_for_it(cache: c.Cache) -> None:
    """It would wait for itself: it is told at once; to ask without waiting is answered as for anybody."""
    async with cache.lock("l"):
        with pytest.raises(c.LockNested, match="'l'"):
            async with cache.lock("l"):
                pass
        with pytest.raises(c.LockHeld):
            async with cache.lock("l", wait=False):
                pass
    async with cache.lock("l"):
        pass


async def test_a_lock_without_a_limit(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """`math.inf` lets a block run for as long as it likes."""
    async with cache.lock("l", ttl=100 * backend.second, max_hold=math.inf) as lock:
        await backend.elapse(50_000)
        assert lock.held


async def test_a_lock_lost_in_an_actor_is_no_crash(backend: Backend, clock: Clock, opened: Opened) -> None:
    """`LockLost` is one of the failed calls: the actor lives, its caller gets `PeerFailed`."""
    cache, second = opened.cache, backend.second

    class Worker(creche.Actor):
        async def work(self) -> None:
            async with cache.lock("l", ttl=3 * second, max_hold=4 * second):
                await trio.sleep_forever()

    worker = await opened.runtime.start(creche.child(Worker))
    with pytest.raises(creche.PeerFailed) as caught:
        await worker.ask.work()
    assert isinstance(caught.value.cause, c.LockLost)
    assert opened.runtime.node_of(worker).restarts == 0
