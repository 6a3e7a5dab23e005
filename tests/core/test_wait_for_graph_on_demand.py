"""`runtime.wait_for_graph()`: who waits for whom, to be looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

import creche
from tests.core.support import Gate, Probe, asking, settle


class Relay(Probe):
    """Passes on what it is asked."""

    def __init__(self, next_up: creche.Handle[Probe]) -> None:
        super().__init__()
        self.next_up = next_up

    async def pass_on(self, gate: Gate) -> None:
        await self.next_up.ask.hold(gate)

    async def pass_many(self, gate: Gate) -> None:
        await self.next_up.call_many(Probe.hold, [(gate,), (gate,)])

    async def tell(self) -> None:
        await self.next_up.cast(Probe.note, "told")

    async def bear(self, gate: Gate) -> None:
        await self.context.runtime.start(creche.child(Slow, gate))


class Slow(Probe):
    """Takes its time to start."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await self.gate.hold()
        yield


async def test_the_wait_for_graph_can_be_looked_at(autojump_clock: MockClock) -> None:
    """Each wait of a handler is an edge: waiter, message, target, and until what it waits."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        gate = Gate()
        last = await runtime.start(creche.child(Probe).options(name="last", mailbox=1))
        first = await runtime.start(creche.child(Relay, last).options(name="first"))
        second = await runtime.start(creche.child(Relay, last).options(name="second"))
        third = await runtime.start(creche.child(Relay, last).options(name="third"))
        outer = await runtime.start(creche.child(Relay, last).options(name="outer"))
        assert str(runtime.wait_for_graph()) == ""
        asking(nursery, first.ask.pass_on, gate)
        await settle()
        asking(nursery, second.ask.pass_on, gate)
        await settle()
        asking(nursery, third.ask.tell)

        async def through(actor: Probe) -> None:
            await second.ask.add()

        asking(nursery, outer.ask.run, through)
        await settle()
        graph = runtime.wait_for_graph()
        assert str(graph).splitlines() == [
            "root/first --hold--> root/last  [handled]",
            "root/second --hold--> root/last  [taken]",
            "root/third --note--> root/last  [room]",
            "root/outer --add--> root/second  [taken]",
        ]
        assert graph.behind("root/last") == ("root/first", "root/second", "root/third", "root/outer")
        assert graph.behind("root/second") == ("root/outer",)
        assert '  "root/first" -> "root/last" [label="hold (handled)"];' in graph.dot().splitlines()
        gate.opened.set()
        await settle()
        assert len(runtime.wait_for_graph()) == 0


async def test_the_wait_for_graph_shows_starts_many_and_deferred(autojump_clock: MockClock) -> None:
    """The start of a child, each of many calls that has no outcome yet, and a reply that comes later."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        gate = Gate()

        class Lazy(Probe):
            async def later(self) -> int:
                self.slot: creche.ReplySlot[int] = self.context.defer()
                return self.slot.later()

        last = await runtime.start(creche.child(Probe).options(name="last"))
        lazy = await runtime.start(creche.child(Lazy).options(name="lazy"))
        first = await runtime.start(creche.child(Relay, last).options(name="first"))
        second = await runtime.start(creche.child(Relay, last).options(name="second"))
        asking(nursery, first.ask.pass_many, gate)

        async def wait_for_lazy(_: Probe) -> int:
            return await lazy.ask.later()

        asking(nursery, second.ask.run, wait_for_lazy)
        third = await runtime.start(creche.child(Relay, last).options(name="third"))
        asking(nursery, third.ask.bear, gate)
        await settle()
        assert [(wait.waiter, wait.target, wait.until) for wait in runtime.wait_for_graph()] == [
            ("root/first", "root/last", "handled"),
            ("root/first", "root/last", "taken"),
            ("root/second", "root/lazy", "answered"),
            ("root/third", "root/slow", "started"),
        ]
        runtime.kill(lazy, "enough")
        gate.opened.set()
