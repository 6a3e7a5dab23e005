"""Found in review: circles of waits that were not seen, one that was none, and refusals that let nobody else run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.cancelling import prove_idle
from tests.core.support import Gate, Probe, Reply, asking, settle
from tests.supervisors.test_pools import workers

Body = Callable[[Any], Awaitable[Any]]


class Crew(Probe):
    @creche.message(concurrency=2)
    async def work(self, body: Callable[[Crew], Awaitable[Any]]) -> Any:
        return await body(self)


def asks(target: creche.Handle[Any], gate: Gate) -> Body:
    """Calls `target` when the gate opens, and tells whether that was refused."""

    async def ask(_: Any) -> str:
        await gate.hold()
        try:
            await target.ask.life()
        except creche.CallCycle:
            return "refused"
        return "answered"

    return ask


async def one_after_the_other(gates: list[Gate], replies: list[Reply]) -> list[Any]:
    """Open the gates; what comes of it, without any time going on."""
    for gate in gates:
        gate.opened.set()
        await settle()
    return sorted(str(reply.value) for reply in replies)


async def test_an_answer_takes_only_its_own_wait_out_of_the_graph(autojump_clock: MockClock) -> None:
    """A handler waits for two actors, and the second answers: for the first one it waits still."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        a, b, c = [await runtime.start(creche.child(Probe).options(name=name)) for name in "abc"]
        gate = Gate()

        async def ask_both(_: Probe) -> None:
            async with trio.open_nursery() as both:
                both.start_soon(b.ask.run, asks(a, gate))
                await gate.entered.wait()
                both.start_soon(c.ask.life)

        asking(nursery, a.ask.run, ask_both)
        await gate.entered.wait()
        await settle()
        assert [str(wait) for wait in runtime.wait_for_graph()] == ["root/a --run--> root/b  [handled]"]
        gate.opened.set()
        await settle()
        assert (await b.ask.life(), await a.ask.life()) == (1, 1)
        await prove_idle(runtime)


async def test_concurrent_handlers_that_all_wait_for_their_own_actor(autojump_clock: MockClock) -> None:
    """At their limit, with one more that waits in front: none of them could ever end. The last call is refused."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        crew = await runtime.start(creche.child(Crew))
        gates = [Gate(), Gate(), Gate()]
        replies = [asking(nursery, crew.ask.work, asks(crew, gate)) for gate in gates]
        await settle()
        assert await one_after_the_other(gates, replies) == ["answered", "answered", "refused"]
        await prove_idle(runtime)


async def test_concurrent_handlers_that_all_wait_for_who_waits_for_one_of_them(autojump_clock: MockClock) -> None:
    """The same over another actor, which waits in the mailbox of theirs."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        crew, other = await runtime.start(creche.child(Crew)), await runtime.start(creche.child(Probe))
        gates = [Gate(), Gate(), Gate()]
        replies = [asking(nursery, crew.ask.work, asks(other, gate)) for gate in gates]
        await settle()

        async def ask_crew(_: Probe) -> int:
            return await crew.ask.life()

        waiting = asking(nursery, other.ask.run, ask_crew)
        await settle()
        assert await one_after_the_other(gates, replies) == ["answered", "answered", "refused"]
        assert waiting.value == 1
        await prove_idle(runtime)


async def test_the_last_worker_of_two_pools_that_wait_for_each_other(autojump_clock: MockClock) -> None:
    """It asks its own pool, whose other worker waits for the other pool, whose workers wait for the first."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        p, q = [await runtime.start(workers(size=2).options(name=name)) for name in "pq"]
        gates, replies = [], []
        for whose, target in ((q, p), (q, p), (p, q), (p, p)):
            gates.append(Gate())
            replies.append(asking(nursery, whose.ask.run, asks(target, gates[-1])))
            await gates[-1].entered.wait()
        assert await one_after_the_other(gates, replies) == ["answered"] * 3 + ["refused"]
        await prove_idle(runtime)


class Host(Probe):
    """Has a nursery in its lifespan, in which a concurrent handler leaves work behind."""

    def __init__(self) -> None:
        super().__init__()
        self.nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as self.nursery:
            yield
            self.nursery.cancel_scope.cancel()

    @creche.message(concurrency=1)
    async def begin(self, got: list[object]) -> None:
        assert self.nursery is not None
        self.nursery.start_soon(self._call_back, got)
        await trio.sleep(2)

    async def _call_back(self, got: list[object]) -> None:
        await trio.sleep(1)
        try:
            got.append(creche.current_deadline())
            got.append(await self.context.handle.ask.add())
        except creche.CallCycle as error:
            got.append(error)


async def test_what_a_concurrent_handler_left_in_the_lifespans_nursery_is_no_handler(autojump_clock: MockClock) -> None:
    """While the handler is still at work: it may call its own actor, and has no deadline."""
    got: list[object] = []
    async with creche.open_runtime("t") as runtime:
        host = await runtime.start(creche.child(Host))
        await host.within(5).ask.begin(got)
    assert got == [float("inf"), 1]


class Tiny(Probe):
    """Waits for itself in a loop."""

    async def go_on(self, how: str) -> None:
        me = self.context.handle
        if how == "cast":
            me.cast_nowait(Probe.add)  # its mailbox is full from now on
        while True:
            with suppress(creche.CallCycle):
                if how == "many":
                    await me.call_many(Probe.add, [()])
                else:
                    await (me.cast(Probe.add) if how == "cast" else me.ask.add())


@pytest.mark.parametrize("how", ["call", "many", "cast"])
async def test_a_call_cycle_is_a_checkpoint(how: str) -> None:
    """As all refusals are: whoever tries again at once, for ever, starves nobody and can be cancelled."""
    async with creche.open_runtime("t") as runtime:
        tiny = await runtime.start(creche.child(Tiny).options(mailbox=1, drain=0))
        tiny.cast_nowait(Tiny.go_on, how)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
