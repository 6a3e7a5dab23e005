"""Found in review: workers that were too many were cut off, and old messages among young ones refused."""

from __future__ import annotations

import trio
from trio.testing import MockClock

import creche
from creche.supervisors.pools.admission import Admission, Admitting
from tests.core.support import Gate, asking
from tests.supervisors.test_pools import Worker, block, opened, workers


async def test_a_worker_that_is_too_many_finishes_what_it_has_in_hand(autojump_clock: MockClock) -> None:
    """However long that takes: `drain` is for the stop of the pool."""
    async with opened(workers(size=2)) as (_, pool), trio.open_nursery() as nursery:
        gates, replies = await block(nursery, pool, 1, 2)
        shrinking = asking(nursery, pool.resize, 1)
        await trio.sleep(1000)
        assert shrinking.what == "pending"
        for gate in gates:
            gate.opened.set()
        assert [await reply.settled() for reply in (*replies, shrinking)] == ["value"] * 3


async def test_a_pool_that_is_stopped_waits_no_longer_for_who_is_too_many(autojump_clock: MockClock) -> None:
    """Than for the others."""
    async with opened(workers(size=2).options(drain=3)) as (runtime, pool), trio.open_nursery() as nursery:
        _, replies = await block(nursery, pool, 1, 2)
        shrinking = asking(nursery, pool.resize, 1)
        await trio.sleep(1000)
        begun = trio.current_time()
        await runtime.stop(pool)
        assert trio.current_time() == begun + 3
        assert [await reply.settled() for reply in (*replies, shrinking)] == ["OutcomeUnknown"] * 2 + ["value"]


async def test_a_pool_grows_while_a_worker_that_is_too_many_is_still_at_work(autojump_clock: MockClock) -> None:
    rule = creche.Autoscale(1, 4, grow_at=0.5, shrink_after=10, every=1)
    spec = creche.pool("p", creche.child(Worker), size=2, autoscale=rule)
    async with opened(spec) as (runtime, pool), trio.open_nursery() as nursery:
        long = Gate()
        slow = asking(nursery, runtime.handle("root/p/worker-2", Worker).call, Worker.keep, "slow", long)
        await trio.sleep(20)
        assert pool.size == 1
        more = [Gate() for _ in range(6)]
        others = [asking(nursery, pool.call, Worker.keep, number, gate) for number, gate in enumerate(more)]
        await trio.sleep(10)
        assert pool.size == 4
        for gate in (*more, long):
            gate.opened.set()
        assert [await reply.settled() for reply in (slow, *others)] == ["value"] * 7
        assert slow.value == "worker-2"


def test_an_old_message_among_young_ones_is_no_overload() -> None:
    """Where others have priority over it. What counts is that all that is taken is old, for a whole interval."""
    admitting = Admitting(Admission(target=1, interval=10))
    for now in range(100):
        assert not admitting.too_old(0.1, now)
        assert not admitting.too_old(50, now)
    assert [admitting.too_old(50, now) for now in (108, 109, 110)] == [False, True, True]
