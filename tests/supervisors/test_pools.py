"""Pools: who gets a message, what becomes of it when workers crash, and how a pool grows, shrinks and ends."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from outcome import Error, Value
from trio.testing import MockClock

import creche
from creche.runtime.events import Crashed, DeadLetter
from creche.supervisors.pools.pool import PoolSpec
from creche.supervisors.pools.routing import Routing
from tests.core.support import Gate, Probe, Reply, asking, recorded, settle

MANY = creche.Intensity(1000, 1)
NOW = creche.Backoff(first=0, jitter=0)
OWNER_OF_A = "worker-2"  # found once: a change of the hash would move every key of every service
LATER = creche.Backoff(first=100, cap=100, free=0, jitter=0)


class Worker(Probe):
    """Knows its name, and may call its own pool."""

    @property
    def _name(self) -> str:
        return self.context.path.rpartition("/")[2]

    async def who(self, key: object = None) -> str:
        self.log.append(f"{key}")
        return self._name

    async def keep(self, key: object, gate: Gate) -> str:
        self.log.append(f"{key}+")
        await gate.hold()
        self.log.append(f"{key}-")
        return self._name

    async def ask_on(self, pool: creche.Pool[Worker], key: object = None) -> str:
        return await pool.ask.who(key)


def workers(
    *,
    size: int = 2,
    routing: Routing = "shared",
    backoff: creche.Backoff = NOW,
    log: list[str] | None = None,
    priority: Any = None,
    admission: creche.Admission | None = None,
    **options: Any,
) -> PoolSpec[Worker]:
    """A pool without admission unless it is asked for."""
    worker = creche.child(Worker, [] if log is None else log).options(backoff=backoff, **options)
    return creche.pool("p", worker, size=size, routing=routing, priority=priority, admission=admission, intensity=MANY)


@asynccontextmanager
async def opened(spec: PoolSpec[Worker]) -> AsyncIterator[tuple[creche.Runtime, creche.Pool[Worker]]]:
    async with creche.open_runtime("t") as runtime:
        yield runtime, await runtime.start(spec)


async def block(nursery: trio.Nursery, pool: creche.Pool[Worker], *keys: object) -> tuple[list[Gate], list[Reply]]:
    """Keep one worker busy with each key."""
    gates, replies = [Gate() for _ in keys], []
    for key, gate in zip(keys, gates, strict=True):
        replies.append(asking(nursery, pool.call, Worker.keep, key, gate))
        await gate.entered.wait()
    return gates, replies


# --- one handle ---------------------------------------------------------------------------------------------


async def test_a_pool_is_used_as_an_actor_is(autojump_clock: MockClock) -> None:
    """Calls, casts, many calls, time limits, senders: all that a handle can do."""
    log: list[str] = []
    async with opened(workers(log=log)) as (runtime, pool):
        assert isinstance(pool, creche.Handle)
        assert await pool.ask.who(1) in ("worker-1", "worker-2")
        assert await pool.within(1).call(Worker.note, "a") == "a"
        assert [one.unwrap() for one in await pool.call_many(Worker.note, [("b",), ("c",)])] == ["b", "c"]
        await pool.cast(Worker.note, "d")
        pool.cast_nowait(Worker.note, "e")
        await pool.sender(Worker.note).send("f")
        await settle()
        assert sorted(log) == ["1", "a", "b", "c", "d", "e", "f"]
        assert (pool.path, runtime.tree().find("root/p/worker-2").state) == ("root/p", "running")
        with pytest.raises(AttributeError, match="no message of root/p"):
            getattr(pool.ask, "unknown")  # noqa: B009


async def test_a_pool_says_not_started(autojump_clock: MockClock) -> None:
    """Until it runs."""
    pool = workers().new_handle()
    with pytest.raises(creche.NotStarted):
        await pool.resize(3)
    with pytest.raises(creche.NotStarted):
        _ = pool.ask


async def test_a_pool_stands_in_an_app_and_in_a_supervisor(autojump_clock: MockClock) -> None:
    """Its handle is bound when the app opens."""
    app = creche.App("a")
    pool = app.use(workers().options(name="thumbs"))
    async with app.open() as running:
        assert pool.path == "root/service/thumbs"
        assert await pool.ask.who() == "worker-2"
        assert running.tree().find("root/service/thumbs/worker-1").state == "running"


async def test_statistics_of_a_pool(autojump_clock: MockClock) -> None:
    """Of the whole and of each worker; what workers did that have ended counts too."""
    async with opened(workers()) as (_, pool), trio.open_nursery() as nursery:
        gates, _ = await block(nursery, pool, 1, 2)
        asking(nursery, pool.ask.who)
        await settle()
        now = pool.statistics()
        assert (now.size, now.busy, now.queued, now.handled, now.shed) == (2, 2, 1, 0, 0)
        for gate in gates:
            gate.opened.set()
        await settle()
        assert (pool.statistics().handled, sorted(worker.handled for worker in pool.statistics().workers)) == (
            3,
            [1, 2],
        )
        await pool.resize(1)
        assert (pool.statistics().handled, pool.size) == (3, 1)


# --- routing ------------------------------------------------------------------------------------------------


async def test_shared_has_no_head_of_line_blocking(autojump_clock: MockClock) -> None:
    """While a worker is idle nothing waits behind a slow message."""
    async with opened(workers(size=2)) as (_, pool), trio.open_nursery() as nursery:
        gates, _ = await block(nursery, pool, "slow")
        for number in range(20):
            await pool.ask.who(number)
        gates[0].opened.set()


async def test_shared_keeps_the_order_in_which_messages_are_taken(autojump_clock: MockClock) -> None:
    """First come, first served."""
    log: list[str] = []
    async with opened(workers(size=3, log=log)) as (_, pool):
        for number in range(20):
            pool.cast_nowait(Worker.who, number)
        await settle()
    assert log == [str(number) for number in range(20)]


async def test_round_robin_takes_turns(autojump_clock: MockClock) -> None:
    """Busy or not."""
    async with opened(workers(size=3, routing="round_robin")) as (_, pool):
        assert len({await pool.ask.who() for _ in range(3)}) == 3
        first = [await pool.ask.who() for _ in range(3)]
        assert [await pool.ask.who() for _ in range(3)] == first


async def test_least_loaded_avoids_the_busy(autojump_clock: MockClock) -> None:
    """What is in hand counts as what waits does."""
    async with opened(workers(size=2, routing="least_loaded")) as (_, pool), trio.open_nursery() as nursery:
        gates, replies = await block(nursery, pool, 1)
        others = {await pool.ask.who() for _ in range(4)}
        gates[0].opened.set()
        assert await replies[0].settled() == "value"
        assert others.isdisjoint({replies[0].value})


async def test_by_key_gives_a_key_to_one_worker(autojump_clock: MockClock) -> None:
    """Always the same, in any process: the hash is stable."""
    async with opened(workers(size=4, routing=creche.by_key())) as (_, pool):
        owners = {key: await pool.ask.who(key) for key in ("a", "b", "c", 4, None, (1, "x"), b"y")}
        for key, owner in owners.items():
            assert await pool.ask.who(key) == owner
        assert owners["a"] == OWNER_OF_A


@pytest.mark.parametrize("routing", [creche.by_key(), creche.sticky()])
async def test_messages_of_one_key_are_handled_one_after_the_other(routing: Routing, autojump_clock: MockClock) -> None:
    """In the order in which they were sent, while others are handled beside them."""
    log: list[str] = []
    async with opened(workers(size=3, routing=routing, log=log)) as (_, pool), trio.open_nursery() as nursery:
        gates = [Gate() for _ in range(6)]
        for gate in gates:  # all in one step, while all workers are idle
            pool.cast_nowait(Worker.keep, "k", gate)
        await settle()
        assert [gate.entered.is_set() for gate in gates] == [True] + [False] * 5
        for gate in gates:
            gate.opened.set()
            await settle()
        nursery.cancel_scope.cancel()
    assert log == ["k+", "k-"] * 6


async def test_by_key_waits_for_its_worker(autojump_clock: MockClock) -> None:
    """While it is down its keys wait, as ``while_down`` says, and other keys go on."""
    async with opened(workers(routing=creche.by_key(), backoff=LATER, down_wait=5)) as (runtime, pool):
        mine = {await pool.ask.who(key): key for key in range(10)}
        runtime.kill("root/p/worker-1", "test")
        assert await pool.ask.who(mine["worker-2"]) == "worker-2"
        start = trio.current_time()
        with pytest.raises(creche.NotDelivered) as caught:
            await pool.ask.who(mine["worker-1"])
        assert (caught.value.reason, trio.current_time() - start) == ("crash", 5)
        with pytest.raises(creche.NotDelivered):
            await pool.cast(Worker.who, mine["worker-1"])
        assert trio.current_time() - start == 5


async def test_sticky_stays_while_the_key_is_in_hand_or_queued(autojump_clock: MockClock) -> None:
    """Else whoever is free takes it."""
    async with opened(workers(size=2, routing=creche.sticky())) as (_, pool), trio.open_nursery() as nursery:
        gates, replies = await block(nursery, pool, "a", "b")
        same = asking(nursery, pool.ask.who, "a")
        other = asking(nursery, pool.ask.who, "c")
        await settle()
        gates[1].opened.set()
        assert (await other.settled(), same.what) == ("value", "pending")
        gates[0].opened.set()
        assert (await same.settled(), same.value) == ("value", replies[0].value)


async def test_sticky_keys_leave_a_crashed_worker(autojump_clock: MockClock) -> None:
    """At once, and in order; only the message in its hand is lost."""
    log: list[str] = []
    spec = workers(size=2, routing=creche.sticky(), backoff=LATER, log=log)
    async with opened(spec) as (runtime, pool), trio.open_nursery() as nursery:
        _, replies = await block(nursery, pool, "a")
        waiting = [asking(nursery, pool.ask.who, "a") for _ in range(3)]
        await settle()
        victim = next(node.path for node in runtime.node_of(pool).children() if node.queued)
        runtime.kill(victim, "test")
        assert await replies[0].settled() == "OutcomeUnknown"
        assert [await reply.settled() for reply in waiting] == ["value"] * 3
        assert {reply.value for reply in waiting}.isdisjoint({victim.rpartition("/")[2]})


async def test_a_bad_key_is_the_senders_error(autojump_clock: MockClock) -> None:
    """Raised where the message is sent, calls and casts alike, also when it would have to wait for room."""
    async with opened(workers(routing=creche.by_key(lambda key: key[0])).options(mailbox=1)) as (_, pool):
        for send in (pool.ask.who, lambda key: pool.cast(Worker.who, key)):
            with pytest.raises(TypeError):
                await send(None)
        with pytest.raises(TypeError):
            pool.cast_nowait(Worker.who, None)
        with pytest.raises(TypeError):
            await pool.call_many(Worker.who, [(None,)])
    async with opened(workers(routing=creche.by_key())) as (_, pool):
        with pytest.raises(TypeError, match="a key is a str"):
            await pool.ask.who(object())
        assert pool.statistics().queued == 0


async def test_broadcast_reaches_every_worker(autojump_clock: MockClock) -> None:
    """Whatever the routing; each has its own outcome; others do not take it over."""
    for routing in ("shared", "round_robin", creche.by_key()):
        async with opened(workers(size=3, routing=routing)) as (_, pool):
            assert await pool.broadcast(Worker.who, "x") == [Value(f"worker-{n}") for n in (1, 2, 3)]
            outcomes = await pool.broadcast(Worker.crash)
            assert [type(one.error).__name__ for one in outcomes if isinstance(one, Error)] == ["OutcomeUnknown"] * 3


# --- crashes ------------------------------------------------------------------------------------------------


async def test_a_crash_loses_only_the_message_in_hand(autojump_clock: MockClock) -> None:
    """Its caller gets `OutcomeUnknown`; what waits is taken by others at once, though the worker stays down."""
    async with opened(workers(size=2, backoff=LATER)) as (runtime, pool), trio.open_nursery() as nursery:
        gates, replies = await block(nursery, pool, 1, 2)
        waiting = [asking(nursery, pool.ask.who, number) for number in range(5)]
        await settle()
        runtime.kill("root/p/worker-1", "test")
        gates[1].opened.set()
        gates[0].opened.set()
        assert sorted([await reply.settled() for reply in replies]) == ["OutcomeUnknown", "value"]
        assert {(await reply.settled(), reply.value) for reply in waiting} == {("value", "worker-2")}
        assert trio.current_time() < 1


def shard_of(body: partial[Any]) -> int:
    """A key."""
    number: int = body.keywords["number"] % 16
    return number


@pytest.mark.parametrize(
    "routing", ["shared", "round_robin", "least_loaded", creche.by_key(shard_of), creche.sticky(shard_of)]
)
async def test_accepted_casts_are_handled_or_dead_letters(routing: Routing, autojump_clock: MockClock) -> None:
    """While workers are killed again and again: none is lost, none is handled twice."""
    log: list[str] = []
    quick = creche.Backoff(first=0.05, free=0)
    async with opened(workers(size=4, routing=routing, log=log, backoff=quick)) as (runtime, pool):
        seen = recorded(runtime)
        done: list[int] = []

        async def work(worker: Probe, number: int) -> None:
            await trio.sleep(0.02)
            done.append(number)

        for number in range(400):
            await pool.cast(Worker.run, partial(work, number=number))
            if number % 7 == 0:
                await trio.sleep(0.02)
                runtime.kill(f"root/p/worker-{runtime.random.randint(1, 4)}", "chaos")
        await trio.sleep(100)
        lost = [event for event in seen if isinstance(event, DeadLetter)]
        assert len(done) == len(set(done))
        assert {event.reason for event in lost} == {"crash"}
        assert len(done) + len(lost) == 400
        assert len(lost) <= len([event for event in seen if isinstance(event, Crashed)])


async def test_a_wake_is_passed_on(autojump_clock: MockClock) -> None:
    """A worker that was woken for a message and is killed before it comes: an idle one comes instead."""
    async with opened(workers(size=2, backoff=LATER)) as (runtime, pool):
        await settle()
        pool.cast_nowait(Worker.who, 1)
        (woken,) = pool._running().front.backlog._woken
        runtime.kill(woken.worker.path, "test")
        await settle()
        assert (pool.statistics().handled, pool.statistics().queued, trio.current_time()) == (1, 0, 0)


@pytest.mark.parametrize(
    ("routing", "priority"), [("shared", None), ("shared", creche.by_priority(lambda *_: 1)), (creche.sticky(), None)]
)
async def test_a_burst_gets_all_workers_to_work(routing: Routing, priority: Any, autojump_clock: MockClock) -> None:
    """Though not all of them are woken at once."""
    async with opened(workers(size=8, routing=routing, priority=priority)) as (_, pool):
        await settle()
        gates = [Gate() for _ in range(9)]
        for number, gate in enumerate(gates):
            pool.cast_nowait(Worker.keep, number, gate)
        await settle()
        assert [gate.entered.is_set() for gate in gates] == [True] * 8 + [False]
        for gate in gates:
            gate.opened.set()


async def test_a_pool_refuses_when_all_its_workers_are_down(autojump_clock: MockClock) -> None:
    """For longer than `down_wait`: those who wait, and those who come. Accepted casts stay."""
    log: list[str] = []
    async with opened(workers(backoff=LATER, down_wait=5, log=log)) as (runtime, pool):
        for number in (1, 2):
            runtime.kill(f"root/p/worker-{number}", "test")
        pool.cast_nowait(Worker.who, "cast")
        start = trio.current_time()
        with pytest.raises(creche.NotDelivered) as caught:
            await pool.ask.who("call")
        assert (caught.value.reason, trio.current_time() - start) == ("crash", 5)
        with pytest.raises(creche.NotDelivered):
            await pool.ask.who("call")
        assert trio.current_time() - start == 5
        await trio.sleep(100)
        assert log == ["cast"]
        await pool.ask.who("again")


async def test_a_parked_worker_leaves_its_work_to_the_others(autojump_clock: MockClock) -> None:
    """A pool whose workers are all parked refuses at once, and takes messages again when one is tried."""
    probe = creche.Backoff(first=100, cap=100, free=0, jitter=0)
    spec = workers(size=2, on_exhausted="park", intensity=creche.Intensity(0, 10), probe=probe)
    async with opened(spec) as (_, pool):
        for left in (1, 0):
            with pytest.raises(creche.OutcomeUnknown):
                await pool.ask.crash()
            if left:
                assert len({await pool.ask.who() for _ in range(4)}) == 1
        with pytest.raises(creche.NotDelivered) as caught:
            await pool.ask.who()
        assert caught.value.reason == "parked"
        assert caught.value.retry_after == pytest.approx(100)
        await trio.sleep(101)
        assert await pool.ask.who() in ("worker-1", "worker-2")


async def test_a_pool_goes_on_without_a_stuck_worker(autojump_clock: MockClock) -> None:
    """What a stuck worker has in hand is lost; the queue is served by the others."""
    async with opened(workers(size=2, unwind_grace=1)) as (_, pool), trio.open_nursery() as nursery:

        async def hang(_worker: Probe) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(50)

        hanging = asking(nursery, pool.within(1).call, Worker.run_for_caller, hang)
        assert await hanging.settled() == "OutcomeUnknown"
        assert trio.current_time() == pytest.approx(2)
        names = [await pool.ask.who() for _ in range(5)]
        assert len(set(names)) == 1


async def test_a_pool_escalates_and_keeps_its_queue(autojump_clock: MockClock) -> None:
    """Too many crashes: the pool is restarted by its supervisor, with what waited."""
    log: list[str] = []
    worker = creche.child(Worker, log).options(backoff=NOW)
    spec = creche.pool("p", worker, size=2, intensity=creche.Intensity(1, 100))
    async with opened(spec) as (_, pool):
        for _ in range(3):
            pool.cast_nowait(Worker.crash)
        pool.cast_nowait(Worker.who, "last")
        assert await pool.ask.who("next") in ("worker-1", "worker-2")
        await settle()
        assert (log, pool.statistics().incarnation) == (["last", "next"], 2)


# --- the wait-for graph -------------------------------------------------------------------------------------


async def test_a_pool_is_in_a_cycle_only_if_all_its_workers_are(autojump_clock: MockClock) -> None:
    """A worker may ask its own pool while another one is free; the last one that would is refused."""
    async with opened(workers(size=3)) as (_, pool), trio.open_nursery() as nursery:
        assert await pool.ask.ask_on(pool) != ""
        gates, _ = await block(nursery, pool, 1)
        both = [asking(nursery, pool.ask.ask_on, pool) for _ in range(2)]
        await settle()
        assert [reply.what for reply in both] == ["pending", "pending"]  # worker 1 will come
        gates[0].opened.set()
        assert [await reply.settled() for reply in both] == ["value", "value"]


async def test_the_last_free_worker_must_not_wait_for_its_pool(autojump_clock: MockClock) -> None:
    """It would wait for itself."""
    async with opened(workers(size=1)) as (_, pool):

        async def ask(_worker: Probe) -> str:
            with pytest.raises(creche.CallCycle) as caught:
                await pool.ask.who()
            return " ".join(caught.value.chain)

        assert await pool.ask.run(ask) == "root/p/worker-1 root/p root/p/worker-1"


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_pools_that_wait_for_each_other_are_a_cycle(size: int, autojump_clock: MockClock) -> None:
    """When all workers of both do: the last call is refused, and all others get an answer."""
    async with opened(workers(size=size)) as (runtime, pool):
        other = await runtime.start(workers(size=size).options(name="q"))
        gates = [Gate() for _ in range(2 * size)]

        def asks(gate: Gate, target: creche.Pool[Worker]) -> Callable[[Probe], Awaitable[str]]:
            async def ask(_worker: Probe) -> str:
                await gate.hold()
                try:
                    return await target.ask.who()
                except creche.CallCycle:
                    return "refused"

            return ask

        async with trio.open_nursery() as nursery:
            replies = []
            for number, gate in enumerate(gates):
                ours, theirs = (pool, other) if number % 2 else (other, pool)
                replies.append(asking(nursery, ours.ask.run, asks(gate, theirs)))
                await gate.entered.wait()
            for number, gate in enumerate(gates, 1):
                gate.opened.set()
                await settle()
                assert (replies[0].what == "pending") is (number < 2 * size)
            assert [await reply.settled() for reply in replies] == ["value"] * 2 * size
            assert [reply.value for reply in replies].count("refused") == 1


@pytest.mark.parametrize("make", [creche.by_key, creche.sticky])
async def test_a_key_must_not_wait_for_itself(make: Callable[..., Routing], autojump_clock: MockClock) -> None:
    """A handler that asks its pool for its own key would wait for itself, though other workers are free."""
    async with opened(workers(size=3, routing=make(lambda *args: args[-1]))) as (_, pool):
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await pool.ask.ask_on(pool, "k")
        assert isinstance(caught.value.__cause__, creche.CallCycle)


# --- the end ------------------------------------------------------------------------------------------------


async def test_a_drain_finishes_the_queue_with_all_workers(autojump_clock: MockClock) -> None:
    """New messages are refused at once."""
    async with opened(workers(size=4).options(drain=5)) as (_, pool), trio.open_nursery() as nursery:

        async def work(_worker: Probe) -> int:
            await trio.sleep(1)
            return 1

        replies = [asking(nursery, pool.ask.run, work) for _ in range(16)]
        await settle()
        start = trio.current_time()
        draining = asking(nursery, pool.drain)
        await settle()
        with pytest.raises(creche.NotDelivered) as caught:
            await pool.ask.who()
        assert caught.value.reason == "closed"
        assert await draining.settled() == "value"
        assert trio.current_time() - start == pytest.approx(4)
        assert [await reply.settled() for reply in replies] == ["value"] * 16
        with pytest.raises(creche.ActorStopped):
            await pool.ask.who()


async def test_a_drain_has_a_limit(autojump_clock: MockClock) -> None:
    """One for all workers together: then what runs is cancelled, and what waits is refused."""
    async with opened(workers(size=2).options(drain=5)) as (_, pool), trio.open_nursery() as nursery:
        _, replies = await block(nursery, pool, 1, 2)
        waiting = asking(nursery, pool.ask.who)
        await settle()
        start = trio.current_time()
        await pool.drain()
        assert trio.current_time() - start == pytest.approx(5)
        assert [await reply.settled() for reply in (*replies, waiting)] == ["OutcomeUnknown"] * 2 + ["NotDelivered"]


async def test_temporary_workers_are_not_replaced(autojump_clock: MockClock) -> None:
    """When the last one has gone the pool says so, until it is resized."""
    async with opened(workers(size=2, restart="temporary")) as (_, pool):
        for size in (1, 0):
            with pytest.raises(creche.OutcomeUnknown):
                await pool.ask.crash()
            assert pool.size == size
        with pytest.raises(creche.ActorStopped):
            await pool.ask.who()
        await pool.resize(1)
        assert await pool.ask.who() == "worker-1"


async def test_pools_with_what_is_wrong_are_refused(autojump_clock: MockClock) -> None:
    """Before anything starts, with what to write instead."""
    worker = creche.child(Worker)
    bad: Any = True
    wrong: list[Callable[[], Any]] = [
        lambda: creche.pool("p", bad),
        lambda: creche.pool("a b", worker),
        lambda: creche.pool("p", worker, size=0),
        lambda: creche.pool("p", worker, routing=bad),
        lambda: creche.pool("p", worker, routing=creche.by_key(bad)),
        lambda: creche.pool("p", worker, admission=bad),
        lambda: creche.pool("p", worker, size=9, autoscale=creche.Autoscale(1, 4)),
        lambda: creche.pool("p", worker.options(mailbox=5)),
        lambda: creche.pool("p", worker.options(register="x")),
        lambda: creche.pool("p", worker).options(overflow="latest_by_key"),
        lambda: creche.Admission(target=0),
        lambda: creche.Admission(interval=float("inf")),
        lambda: creche.Autoscale(0, 4),
        lambda: creche.Autoscale(4, 3),
        lambda: creche.Autoscale(1, 3, every=0),
        lambda: creche.by_priority(len, classes=1),
        lambda: creche.RetryBudget(tokens=0),
        lambda: creche.RetryBudget(ratio=2),
    ]
    for make in wrong:
        with pytest.raises(creche.SpecInvalid):
            make()


async def test_a_pool_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    """No worker of a stopped pool is kept alive by its handle."""
    async with opened(workers(size=3)) as (runtime, pool):
        await pool.ask.who()
        await runtime.stop(pool)
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is Worker]
