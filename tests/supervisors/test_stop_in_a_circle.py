"""A handler that stops an actor waits for what that has in hand: no circle of the two sits out the drain time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import MockClock

import creche
from tests.cancelling import prove_idle
from tests.core.support import Gate, Probe, asking, settle

Body = Callable[[Probe], Awaitable[Any]]


@asynccontextmanager
async def family(*names: str) -> AsyncIterator[tuple[creche.Runtime, trio.Nursery, list[creche.Handle[Probe]]]]:
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        yield runtime, nursery, [await runtime.start(creche.child(Probe).options(name=name)) for name in names]
        await prove_idle(runtime)
    assert trio.current_time() == 0  # nothing waited for a drain


def stop(runtime: creche.Runtime, target: creche.Handle[Probe], gate: Gate | None = None) -> Body:
    async def body(_: Probe) -> str:
        if gate is not None:
            await gate.hold()
        await runtime.stop(target)
        return "stopped"

    return body


def call(target: creche.Handle[Probe], gate: Gate | None = None) -> Body:
    async def body(_: Probe) -> int:
        if gate is not None:
            await gate.hold()
        return await target.ask.life()

    return body


def cycle(reply: Any) -> tuple[str, ...] | None:
    """The chain of the cycle that a handler of `Probe`, which declares no errors, died of."""
    error = reply.error
    while error is not None and not isinstance(error, creche.CallCycle):
        error = error.__cause__
    return None if error is None else error.chain


async def test_a_call_to_who_stops_one_is_refused(autojump_clock: MockClock) -> None:
    """What is in hand calls whoever waits for its end: refused before it blocks. The stop does not fail."""
    async with family("a", "b") as (runtime, nursery, (a, b)):
        gate = Gate()
        calling = asking(nursery, b.ask.run, call(a, gate))
        await gate.entered.wait()
        stopping = asking(nursery, a.ask.run, stop(runtime, b))
        await settle()
        assert [str(wait) for wait in runtime.wait_for_graph()] == ["root/a --stop--> root/b  [stopped]"]
        gate.opened.set()
        await settle()
        assert cycle(calling) == ("root/b", "root/a", "root/b")
        assert (stopping.value, await a.ask.life()) == ("stopped", 1)


async def test_a_call_that_waits_for_who_stops_its_caller_is_refused(autojump_clock: MockClock) -> None:
    """It was sent before, and waits to be taken: the same."""
    async with family("a", "b") as (runtime, nursery, (a, b)):
        gate = Gate()
        stopping = asking(nursery, a.ask.run, stop(runtime, b, gate))
        await gate.entered.wait()
        calling = asking(nursery, b.ask.run, call(a))
        await settle()
        gate.opened.set()
        await settle()
        assert cycle(calling) == ("root/b", "root/a", "root/b")
        assert (stopping.value, await a.ask.life()) == ("stopped", 1)


async def test_parts_of_many_calls_that_wait_for_who_stops_their_caller(autojump_clock: MockClock) -> None:
    """Each is refused, and what else the caller waited for is not."""
    async with family("a", "b") as (runtime, nursery, (a, b)):
        gate = Gate()
        stopping = asking(nursery, a.ask.run, stop(runtime, b, gate))
        await gate.entered.wait()
        told: list[Any] = []

        async def many(_: Probe) -> None:
            told.extend(await a.call_many(Probe.life, [(), ()]))

        asking(nursery, b.ask.run, many)
        await settle()
        gate.opened.set()
        await settle()
        assert [type(outcome.error) for outcome in told] == [creche.CallCycle] * 2
        assert stopping.value == "stopped"


async def test_a_call_through_another_that_waits_for_who_stops_its_caller(autojump_clock: MockClock) -> None:
    """`b` waits for `c`, whose handler waits for `a`, which stops `b`: it is `c` that is told."""
    async with family("a", "b", "c") as (runtime, nursery, (a, b, c)):
        gate = Gate()
        stopping = asking(nursery, a.ask.run, stop(runtime, b, gate))
        await gate.entered.wait()
        calling = asking(nursery, b.ask.run, lambda _: c.ask.run(call(a)))
        await settle()
        gate.opened.set()
        await settle()
        assert cycle(calling) == ("root/c", "root/a", "root/c")
        assert stopping.value == "stopped"


async def test_a_call_to_who_waits_for_who_stops_its_caller(autojump_clock: MockClock) -> None:
    """`b` waits behind what `c` has in hand, which waits for `a`: `b` is told, and `c` has nothing to do with it."""
    async with family("a", "b", "c") as (runtime, nursery, (a, b, c)):
        gate = Gate()
        stopping = asking(nursery, a.ask.run, stop(runtime, b, gate))
        await gate.entered.wait()
        first = asking(nursery, c.ask.run, call(a))
        await settle()
        behind = asking(nursery, b.ask.run, call(c))
        await settle()
        gate.opened.set()
        await settle()
        assert cycle(behind) == ("root/b", "root/c", "root/a", "root/b")
        assert (first.value, stopping.value) == (1, "stopped")  # it never waited for `b`


async def test_who_handles_a_call_cannot_wait_for_the_end_of_its_caller(autojump_clock: MockClock) -> None:
    """`CallCycle` for the stop, and nothing has been stopped or refused."""
    async with family("a", "b") as (runtime, nursery, (a, b)):
        calling = asking(nursery, b.ask.run, lambda _: a.ask.run(stop(runtime, b)))
        await settle()
        assert cycle(calling) == ("root/a", "root/b", "root/a")
        assert (await a.ask.life(), await b.ask.life()) == (2, 1)


async def test_two_that_stop_each_other(autojump_clock: MockClock) -> None:
    """The second one is told; the first stop goes on."""
    async with family("a", "b") as (runtime, nursery, (a, b)):
        gate = Gate()
        second = asking(nursery, b.ask.run, stop(runtime, a, gate))
        await gate.entered.wait()
        first = asking(nursery, a.ask.run, stop(runtime, b))
        await settle()
        gate.opened.set()
        await settle()
        assert cycle(second) == ("root/b", "root/a", "root/b")
        assert (first.value, await a.ask.life()) == ("stopped", 1)


async def test_what_is_stopped_may_still_call_others(autojump_clock: MockClock) -> None:
    """The rest of its drain goes on as ever."""
    async with family("a", "b", "c") as (runtime, nursery, (a, b, c)):
        gate = Gate()
        calling = asking(nursery, b.ask.run, call(c, gate))
        await gate.entered.wait()
        stopping = asking(nursery, a.ask.run, stop(runtime, b))
        await settle()
        gate.opened.set()
        await settle()
        assert (calling.value, stopping.value) == (1, "stopped")


async def test_who_handles_a_call_of_a_worker_cannot_take_its_place_away(autojump_clock: MockClock) -> None:
    """To shrink a pool waits for the ends of workers: a `CallCycle`, and nobody has retired."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        pool = await runtime.start(creche.pool("p", creche.child(Probe), size=2))
        a, gate = await runtime.start(creche.child(Probe).options(name="a")), Gate()

        async def shrink(_: Probe) -> None:
            await pool.resize(1)

        async def work(worker: Probe) -> None:
            if worker.context.path == "root/p/worker-2":
                await a.ask.run(shrink)
            await gate.hold()

        replies = [asking(nursery, pool.ask.run, work) for _ in range(2)]
        await settle()
        gate.opened.set()
        await settle()
        (refused,) = [reply for reply in replies if reply.what != "value"]
        assert cycle(refused) == ("root/a", "root/p/worker-2", "root/a")
        assert (pool.statistics().size, len(runtime.node_of("root/p").children())) == (2, 2)
        await prove_idle(runtime)
