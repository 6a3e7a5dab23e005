"""Pools: their queue, whom they refuse under overload, and how they grow and shrink."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from outcome import Value
from trio.testing import MockClock

import creche
from creche.runtime.events import Overflowed, Resized, Shed
from creche.supervisors.pools.routing import Routing
from tests.core.support import Gate, Probe, asking, recorded, settle
from tests.supervisors.test_pools import Worker, block, opened, workers

# --- queue --------------------------------------------------------------------------------------------------


async def test_the_queue_of_a_pool_is_bounded_as_a_whole(autojump_clock: MockClock) -> None:
    """`mailbox` and `overflow` are those of the pool."""
    async with opened(workers().options(mailbox=2, overflow="reject")) as (runtime, pool):
        seen = recorded(runtime)
        async with trio.open_nursery() as nursery:
            gates, _ = await block(nursery, pool, 1, 2)
            waiting = [asking(nursery, pool.ask.who) for _ in range(2)]
            await settle()
            with pytest.raises(creche.NotDelivered) as caught:
                await pool.ask.who()
            assert caught.value.reason == "overflow"
            with pytest.raises(creche.MailboxFull):
                pool.cast_nowait(Worker.who)
            waiting[0].scope.cancel()
            await settle()
            pool.cast_nowait(Worker.who)  # revoked requests hold no room
            for gate in gates:
                gate.opened.set()
        assert len([event for event in seen if isinstance(event, Overflowed)]) == 2


@pytest.mark.parametrize("routing", ["round_robin", creche.by_key(), creche.sticky()])
async def test_what_is_revoked_holds_no_room_whatever_the_routing(routing: Routing, autojump_clock: MockClock) -> None:
    """Also when it waits for one worker."""
    spec = workers(size=1, routing=routing).options(mailbox=2, overflow="reject")
    async with opened(spec) as (_, pool), trio.open_nursery() as nursery:
        (gate,), _ = await block(nursery, pool, 1)
        waiting = [asking(nursery, pool.ask.who, 1) for _ in range(2)]
        await settle()
        waiting[0].scope.cancel()
        await settle()
        pool.cast_nowait(Worker.who, 1)
        gate.opened.set()
        assert await waiting[1].settled() == "value"


async def test_pools_drop_the_oldest_of_all(autojump_clock: MockClock) -> None:
    """Whatever worker it waits for."""
    for routing in ("shared", "round_robin"):
        log: list[str] = []
        spec = workers(size=2, routing=routing, log=log).options(mailbox=2, overflow="drop_oldest")
        async with opened(spec) as (_, pool), trio.open_nursery() as nursery:
            gates, _ = await block(nursery, pool, "x", "y")
            for number in range(4):
                pool.cast_nowait(Worker.who, number)
            for gate in gates:
                gate.opened.set()
            await settle()
            assert sorted(word for word in log if word.isdigit()) == ["2", "3"]


async def test_priority_goes_first_and_starves_nobody(autojump_clock: MockClock) -> None:
    """One in eight is the oldest of all."""
    log: list[str] = []
    spec = workers(size=1, log=log, priority=creche.by_priority(lambda key, *_: 0 if key == "hot" else 1))
    async with opened(spec) as (_, pool), trio.open_nursery() as nursery:
        gates, _ = await block(nursery, pool, "hot")
        pool.cast_nowait(Worker.who, "cold")
        pool.cast_nowait(Worker.who, "cold")
        for _ in range(20):
            pool.cast_nowait(Worker.who, "hot")
        gates[0].opened.set()
        await settle()
        assert [place for place, word in enumerate(log[2:]) if word == "cold"] == [6, 14]


async def test_a_bad_priority_is_the_senders_error(autojump_clock: MockClock) -> None:
    """Nothing is sent."""
    async with opened(workers(priority=creche.by_priority(lambda key: key))) as (_, pool):
        with pytest.raises(creche.SpecInvalid, match="priority = 3"):
            await pool.ask.who(3)
        with pytest.raises(creche.SpecInvalid):
            pool.cast_nowait(Worker.who, "x")
        assert await pool.ask.who(2) in ("worker-1", "worker-2")


# --- admission ----------------------------------------------------------------------------------------------


async def test_calls_that_waited_too_long_are_refused_under_overload(autojump_clock: MockClock) -> None:
    """With the time to wait, counted, told; the others are served in time. A burst alone refuses nobody."""
    spec = workers(size=1, admission=creche.Admission(target=1, interval=5))
    async with opened(spec) as (runtime, pool):
        seen = recorded(runtime)

        async def work(_worker: Probe) -> float:
            await trio.sleep(0.5)
            return 0.0

        burst = await pool.call_many(Worker.run, [(work,)] * 8)
        assert all(isinstance(one, Value) for one in burst)
        waits: list[float] = []
        refused: list[creche.NotDelivered] = []

        async def ask() -> None:
            start = trio.current_time()
            try:
                await pool.ask.run(work)
                waits.append(trio.current_time() - start)
            except creche.NotDelivered as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(200):  # twice as much as can be done
                nursery.start_soon(ask)
                await trio.sleep(0.25)
        assert {error.reason for error in refused} == {"overload"}
        assert all(error.retry_after and error.retry_after > 1 for error in refused)
        assert len(refused) == pool.statistics().shed == len([one for one in seen if isinstance(one, Shed)])
        assert len(waits) > 95  # the worker is never idle
        assert max(waits[30:]) < 1 + 2 * 0.5


async def test_accepted_casts_are_never_refused_for_their_age(autojump_clock: MockClock) -> None:
    """Nor are the parts of a `call_many`."""
    log: list[str] = []
    async with opened(workers(size=1, log=log, admission=creche.Admission(target=0.1, interval=0.1))) as (_, pool):

        async def work(worker: Probe) -> None:
            await trio.sleep(1)
            worker.log.append("done")

        for _ in range(10):
            pool.cast_nowait(Worker.run, work)
        assert all(isinstance(one, Value) for one in await pool.call_many(Worker.run, [(work,)] * 5))
        assert len(log) == 15


# --- size ---------------------------------------------------------------------------------------------------


async def test_resize_grows_and_shrinks(autojump_clock: MockClock) -> None:
    """New workers are ready when it returns; those that are too many finish what they have in hand."""
    async with opened(workers(size=1)) as (runtime, pool), trio.open_nursery() as nursery:
        seen = recorded(runtime)
        gates, _ = await block(nursery, pool, 1)
        await pool.resize(3)
        more, replies = await block(nursery, pool, 2, 3)
        shrinking = asking(nursery, pool.resize, 1)
        waiting = asking(nursery, pool.ask.who)
        await settle()
        assert (shrinking.what, pool.size) == ("pending", 1)
        for gate in (*more, *gates):
            gate.opened.set()
        assert [await reply.settled() for reply in (shrinking, waiting, *replies)] == ["value"] * 4
        assert waiting.value == "worker-1"
        assert [node.name for node in runtime.node_of(pool).children()] == ["worker-1"]
        assert [(one.before, one.size) for one in seen if isinstance(one, Resized)] == [(1, 3), (3, 1)]


async def test_resize_keeps_the_order_of_each_key(autojump_clock: MockClock) -> None:
    """A key moves when what is queued of it has been handled; about 1 in n of the keys move."""
    log: list[str] = []
    async with opened(workers(size=3, routing=creche.by_key(), log=log)) as (_, pool), trio.open_nursery() as nursery:
        before = {key: await pool.ask.who(key) for key in range(300)}
        log.clear()
        gates = [Gate() for _ in range(3)]
        mine = next(key for key in before if before[key] == "worker-3")
        for gate in gates[:2]:
            pool.cast_nowait(Worker.keep, mine, gate)
        await gates[0].entered.wait()
        shrinking = asking(nursery, pool.resize, 2)
        await settle()
        last = asking(nursery, pool.call, Worker.keep, mine, gates[2])
        await settle()
        for gate in gates:
            gate.opened.set()
            await settle()
        assert await shrinking.settled() == "value"
        assert log == [f"{mine}+", f"{mine}-"] * 3
        assert (await last.settled(), last.value) != ("value", "worker-3")
        after = {key: await pool.ask.who(key) for key in range(300)}
        assert all(after[key] == before[key] for key in before if before[key] != "worker-3")
        await pool.resize(3)
        assert {key: await pool.ask.who(key) for key in range(300)} == before


async def test_a_resized_pool_keeps_its_size_when_it_is_restarted(autojump_clock: MockClock) -> None:
    """By its supervisor."""
    async with opened(workers(size=1)) as (runtime, pool):
        await pool.resize(3)
        runtime.kill(pool, "test")
        await settle()
        assert (pool.size, await pool.ask.life()) == (3, 2)


async def test_resize_is_refused_where_it_cannot_be(autojump_clock: MockClock) -> None:
    """Bad numbers, from a worker's handler, after the stop."""
    async with opened(workers()) as (runtime, pool):
        wrong: list[Any] = [0, -1, 1.5, True, "3"]
        for size in wrong:
            with pytest.raises(creche.SpecInvalid):
                await pool.resize(size)

        async def shrink(_worker: Probe) -> str:
            with pytest.raises(creche.CallCycle):
                await pool.resize(1)
            return "refused"

        assert await pool.ask.run(shrink) == "refused"
        await runtime.stop(pool)
        with pytest.raises(creche.ActorStopped):
            await pool.resize(1)


async def test_a_pool_is_resized_by_its_load(autojump_clock: MockClock) -> None:
    """It grows while messages wait and nobody is idle, and shrinks when it has been quiet for long."""
    rule = creche.Autoscale(1, 4, grow_at=0.5, shrink_after=10, every=1)
    spec = creche.pool("p", creche.child(Worker), autoscale=rule)
    async with opened(spec) as (_, pool), trio.open_nursery() as nursery:
        assert pool.size == 1
        gates = [Gate() for _ in range(10)]
        replies = [asking(nursery, pool.call, Worker.keep, number, gate) for number, gate in enumerate(gates)]
        await trio.sleep(10)
        assert pool.size == 4
        for gate in gates:
            gate.opened.set()
        assert {await reply.settled() for reply in replies} == {"value"}
        await trio.sleep(15)
        assert pool.size == 3
        await trio.sleep(100)
        assert pool.size == 1
