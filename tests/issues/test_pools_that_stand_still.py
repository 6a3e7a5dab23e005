"""Pools in which messages waited beside idle workers, and ages, refusals and circles that were wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.supervisors.pools.routing import Routing
from tests.core.support import Gate, Probe, asking, settle
from tests.supervisors.test_pools import LATER, Worker, block, opened, workers


class Mixed(Worker):
    """Has messages of other kinds, too."""

    @creche.message(concurrency=1)
    async def beside(self, key: object, gate: Gate, other: Any = None) -> str:
        self.log.append(f"{key} beside")
        await gate.hold()
        if other is not None:
            await other.ask.note("x")
        return self._name

    @creche.batched(limit=2)
    async def together(self, items: Sequence[creche.BatchItem[tuple[str, Gate], None]]) -> None:
        for item in items:
            self.log.append(f"{item.value[0]}+")
            await item.value[1].hold()
            self.log.append(f"{item.value[0]}-")
            item.reply(None)


class SlowToClose(Worker):
    """Its lifespan takes long to close."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(30)


class Asker(Probe):
    """Waits for a pool."""

    async def ask_beside(self, pool: creche.Pool[Mixed], gate: Gate) -> str:
        return await pool.ask.beside("k", gate)


def first_of(key: object, *_: object) -> object:
    """The key of a message, batched ones included."""
    return key[0] if isinstance(key, tuple) else key


# --- how long messages wait ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4])
async def test_the_age_of_those_that_came_together(size: int, autojump_clock: MockClock) -> None:
    """Also when the first of them has been taken long ago."""
    async with opened(workers(size=size)) as (_, pool), trio.open_nursery() as nursery:
        gates = [Gate() for _ in range(6)]
        for number, gate in enumerate(gates):
            asking(nursery, pool.call, Worker.keep, number, gate)
        await settle()
        gates[0].opened.set()
        await trio.sleep(100)
        oldest = pool.statistics().oldest_wait
        for gate in gates:
            gate.opened.set()
        assert oldest == pytest.approx(100)


async def test_the_age_of_what_is_left_when_the_oldest_was_dropped(autojump_clock: MockClock) -> None:
    """Each has its own."""
    async with opened(workers(size=1).options(mailbox=2, overflow="drop_oldest")) as (_, pool):
        async with trio.open_nursery() as nursery:
            (gate,), _ = await block(nursery, pool, "x")
            for number in range(4):
                pool.cast_nowait(Worker.who, number)
                await trio.sleep(10)
            assert pool.statistics().oldest_wait == pytest.approx(20)
            gate.opened.set()
        await settle()
        assert pool.statistics().oldest_wait == 0


async def test_a_pool_grows_although_what_waits_came_together(autojump_clock: MockClock) -> None:
    """To its most."""
    rule = creche.Autoscale(1, 4, grow_at=0.5, shrink_after=10, every=1)
    async with opened(creche.pool("p", creche.child(Worker), autoscale=rule)) as (_, pool):
        async with trio.open_nursery() as nursery:
            gates = [Gate() for _ in range(6)]
            for number, gate in enumerate(gates):
                asking(nursery, pool.call, Worker.keep, number, gate)
            await settle()
            gates[0].opened.set()
            await trio.sleep(100)
            size = pool.size
            for gate in gates:
                gate.opened.set()
        assert size == 4


async def test_a_pool_grows_although_one_is_down(autojump_clock: MockClock) -> None:
    """A worker that is down is not idle."""
    rule = creche.Autoscale(2, 4, grow_at=0.5, shrink_after=10, every=1)
    spec = creche.pool("p", creche.child(Worker).options(backoff=LATER), size=2, autoscale=rule)
    async with opened(spec) as (runtime, pool), trio.open_nursery() as nursery:
        runtime.kill("root/p/worker-1", "test")
        gates = [Gate() for _ in range(4)]
        for number, gate in enumerate(gates):
            asking(nursery, pool.call, Worker.keep, number, gate)
        await trio.sleep(20)
        size = pool.size
        for gate in gates:
            gate.opened.set()
        assert size == 4


async def test_a_queue_that_was_empty_is_no_standing_one(autojump_clock: MockClock) -> None:
    """Whatever was taken last before it was."""
    spec = workers(size=1, admission=creche.Admission(target=1, interval=10))
    async with opened(spec) as (_, pool), trio.open_nursery() as nursery:
        for start in (0, 20):  # the queue is empty for long in between
            await trio.sleep(start)
            gates = [Gate() for _ in range(4)]
            replies = [asking(nursery, pool.call, Worker.keep, number, gate) for number, gate in enumerate(gates)]
            await trio.sleep(5)
            for gate in gates:
                gate.opened.set()
            assert [await reply.settled() for reply in replies] == ["value"] * 4


# --- beside idle workers ------------------------------------------------------------------------------------


async def test_who_put_a_message_back_comes_when_another_has_taken_it(autojump_clock: MockClock) -> None:
    """It may handle what waits behind."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        pool: Any = await runtime.start(creche.pool("p", creche.child(Mixed), size=2))
        first, second, last = Gate(), Gate(), Gate()
        asking(nursery, pool.call, Mixed.beside, 1, first)
        await first.entered.wait()
        gates, _ = await block(nursery, pool, 1, 2)
        asking(nursery, pool.call, Mixed.beside, 2, second)
        await settle()
        for gate in gates:  # who has the first one beside puts the second one back, and the other takes it
            gate.opened.set()
            await settle()
        assert second.entered.is_set()
        asking(nursery, pool.call, Mixed.keep, "last", last)
        await last.entered.wait()
        quick = asking(nursery, pool.call, Mixed.who)
        await settle()
        what = quick.what
        for gate in (first, second, last):
            gate.opened.set()
        assert what == "value"


async def test_a_wake_is_passed_on_at_once(autojump_clock: MockClock) -> None:
    """Also if who was woken takes long to end."""
    spec = creche.pool("p", creche.child(SlowToClose).options(backoff=LATER, shutdown=60), size=2)
    async with creche.open_runtime("t", stop_within=200) as runtime:
        pool = await runtime.start(spec)
        await settle()
        start = trio.current_time()
        pool.cast_nowait(Worker.who, 1)
        (woken,) = pool._running().front.backlog._woken
        runtime.kill(woken.worker.path, "test")
        await settle()
        assert (pool.statistics().handled, trio.current_time()) == (1, start)


async def test_nothing_is_assigned_to_who_is_about_to_end(autojump_clock: MockClock) -> None:
    """However long that takes."""
    worker = creche.child(SlowToClose).options(backoff=LATER, shutdown=60)
    async with creche.open_runtime("t", stop_within=200) as runtime:
        pool = await runtime.start(creche.pool("p", worker, size=2, routing="round_robin"))
        runtime.kill("root/p/worker-1", "test")
        with trio.fail_after(1):
            assert [await pool.ask.who() for _ in range(4)] == ["worker-2"] * 4


@pytest.mark.parametrize("routing", ["round_robin", "least_loaded", creche.sticky()])
async def test_who_comes_up_first_takes_what_waits_for_others(routing: Routing, autojump_clock: MockClock) -> None:
    """All were down when it came, or when it was assigned."""
    log: list[str] = []
    async with opened(workers(size=2, routing=routing, backoff=LATER, down_wait=1000, log=log)) as (runtime, pool):
        async with trio.open_nursery() as nursery:
            await block(nursery, pool, "x", "y")
            runtime.kill("root/p/worker-1", "test")
            await trio.sleep(50)
            for key in "xyz":
                pool.cast_nowait(Worker.who, key)
            runtime.kill("root/p/worker-2", "test")
            await settle()
            for key in "xyz":
                pool.cast_nowait(Worker.who, key)
            nursery.cancel_scope.cancel()
        log.clear()
        await trio.sleep(51)
        assert sorted(log) == sorted("xyzxyz")


async def hang(_worker: Probe) -> None:
    """Whatever becomes of its caller."""
    with trio.CancelScope(shield=True):
        await trio.sleep(500)


async def test_what_waits_for_a_stuck_worker_goes_to_others(autojump_clock: MockClock) -> None:
    """When it is declared stuck."""
    log: list[str] = []
    async with opened(workers(size=2, routing="round_robin", log=log, unwind_grace=1)) as (_, pool):
        async with trio.open_nursery() as nursery:
            asking(nursery, pool.within(1).call, Worker.run_for_caller, hang)
            await settle()
            for key in "ab":  # one of them for the worker that hangs
                pool.cast_nowait(Worker.who, key)
            await trio.sleep(10)
            assert sorted(log) == ["a", "b"]


async def test_what_is_of_the_key_of_a_stuck_worker_waits_for_it(autojump_clock: MockClock) -> None:
    """It has the key in hand."""
    log: list[str] = []
    async with opened(workers(size=2, routing=creche.sticky(), log=log, unwind_grace=1)) as (_, pool):
        async with trio.open_nursery() as nursery:
            asking(nursery, pool.within(1).call, Worker.run_for_caller, hang)
            await settle()
            pool.cast_nowait(Worker.who, hang)
            await trio.sleep(10)
            assert log == []
        await trio.sleep(500)
        assert len(log) == 1


# --- refusals -----------------------------------------------------------------------------------------------


async def test_a_drain_finishes_what_is_held_for_a_retiring_worker(autojump_clock: MockClock) -> None:
    """The others stay for it."""
    async with opened(workers(size=3, routing=creche.by_key())) as (_, pool), trio.open_nursery() as nursery:
        owners = {key: await pool.ask.who(key) for key in range(50)}
        mine = next(key for key in owners if owners[key] == "worker-3")
        gates = [Gate() for _ in range(2)]
        asking(nursery, pool.call, Worker.keep, mine, gates[0])
        await gates[0].entered.wait()
        shrinking = asking(nursery, pool.resize, 2)
        await settle()
        last = asking(nursery, pool.call, Worker.keep, mine, gates[1])
        await settle()
        draining = asking(nursery, pool.drain)
        await settle()
        for gate in gates:
            gate.opened.set()
        assert [await reply.settled() for reply in (last, draining, shrinking)] == ["value"] * 3


async def test_who_is_only_down_is_asked_rather_than_who_is_parked(autojump_clock: MockClock) -> None:
    """A pool refuses only when all are parked."""
    probe = creche.Backoff(first=1000, cap=1000, free=0, jitter=0)
    quick = creche.Backoff(first=3, free=0, jitter=0)
    spec = workers(
        size=2,
        routing="round_robin",
        on_exhausted="park",
        intensity=creche.Intensity(1, 10),
        probe=probe,
        backoff=quick,
    )
    async with opened(spec) as (runtime, pool):
        runtime.kill("root/p/worker-1", "test")
        await trio.sleep(4)
        runtime.kill("root/p/worker-1", "test")
        await settle()
        runtime.kill("root/p/worker-2", "test")
        await settle()
        assert [await pool.ask.who() for _ in range(2)] == ["worker-2"] * 2


async def test_many_calls_are_refused_as_one_is(autojump_clock: MockClock) -> None:
    """By a worker that is down for too long, at once; the others answer."""
    async with opened(workers(size=2, routing=creche.by_key(), backoff=LATER, down_wait=5)) as (runtime, pool):
        owners = {key: await pool.ask.who(key) for key in range(20)}
        runtime.kill("root/p/worker-1", "test")
        await trio.sleep(10)
        with trio.fail_after(1):
            outcomes = await pool.call_many(Worker.who, [(key,) for key in owners])
        told = [getattr(outcome, "value", "refused") for outcome in outcomes]
        assert told == [owner if owner == "worker-2" else "refused" for owner in owners.values()]


async def test_a_bad_priority_among_many_leaves_no_load(autojump_clock: MockClock) -> None:
    """What was not sent counts for nobody."""
    rank = creche.by_priority(lambda key: 0 if key == "good" else 99)
    async with opened(workers(size=2, routing="least_loaded", priority=rank)) as (_, pool):
        with pytest.raises(creche.SpecInvalid):
            await pool.call_many(Worker.who, [("good",), ("bad",)])
        assert {seat.load for seat in pool._running().front.backlog.seats} == {0}


# --- the wait-for graph, and keys ---------------------------------------------------------------------------


async def test_a_message_put_back_still_waits_for_its_worker(autojump_clock: MockClock) -> None:
    """A handler that waits for whoever waits for that is a circle."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        pool: Any = await runtime.start(creche.pool("p", creche.child(Mixed), size=2, routing=creche.by_key()))
        asker: Any = await runtime.start(creche.child(Asker))
        gates = Gate(), Gate()
        circle = asking(nursery, pool.call, Mixed.beside, "k", gates[0], asker)
        await gates[0].entered.wait()
        asking(nursery, asker.call, Asker.ask_beside, pool, gates[1])
        await settle()
        for gate in gates:
            gate.opened.set()
        with trio.move_on_after(5):
            await circle.settled()
        what, why = circle.what, repr(circle.value)
        nursery.cancel_scope.cancel()
        assert what == "OutcomeUnknown", why


async def test_keys_of_a_batch_are_in_hand_until_it_ends(autojump_clock: MockClock) -> None:
    """All of them, not the last one only."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        spec = creche.pool("p", creche.child(Mixed, log), size=2, routing=creche.sticky(first_of))
        pool: Any = await runtime.start(spec)
        gates = [Gate() for _ in range(3)]
        blockers, _ = await block(nursery, pool, "x", "y")
        for key, gate in zip("ab", gates, strict=False):
            pool.cast_nowait(Mixed.together, (key, gate))
        blockers[0].opened.set()
        await gates[0].entered.wait()
        pool.cast_nowait(Mixed.together, ("a", gates[2]))
        blockers[1].opened.set()
        await settle()
        overlaps = gates[2].entered.is_set()
        for gate in gates:
            gate.opened.set()
        assert not overlaps


async def test_what_was_held_for_a_key_is_older_than_what_waits(autojump_clock: MockClock) -> None:
    """A worker retires with a key in hand, the next of that key in its line, and one more in the common line."""
    log: list[str] = []
    spec = workers(size=2, routing=creche.sticky(), log=log)
    async with opened(spec) as (_, pool), trio.open_nursery() as nursery:
        seats = pool._running().front.backlog.seats
        blockers, _ = await block(nursery, pool, "x", "y")
        first = 0 if seats[1].hand is not None and seats[1].hand[2] == "x" else 1
        one, other, unused = Gate(), Gate(), Gate()
        unused.opened.set()
        for key, gate in (("a", one), ("a", unused), ("z", other)):
            pool.cast_nowait(Worker.keep, key, gate)
        pool.cast_nowait(Worker.who, "a")
        log.clear()
        blockers[first].opened.set()  # worker-2 takes the first of the key
        await one.entered.wait()
        blockers[1 - first].opened.set()  # worker-1 finds the second one, gives it to worker-2, and goes on
        await other.entered.wait()
        shrinking = asking(nursery, pool.resize, 1)
        await settle()
        one.opened.set()
        assert await shrinking.settled() == "value"
        other.opened.set()
        await settle()
        assert [word for word in log if word.startswith("a")] == ["a+", "a-", "a+", "a-", "a"]
