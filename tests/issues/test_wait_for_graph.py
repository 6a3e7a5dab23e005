"""Found in review: some waits were missing in the wait-for graph, and some tasks stood in it that no handler awaits."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import Crashed
from tests.core.support import LONG, Gate, Probe, asking, recorded, settle

LENGTH = 1200  # more than Python's recursion limit


class Kid(Probe):
    """Calls its mother before it is ready."""

    def __init__(self, mother: creche.Handle[Probe]) -> None:
        super().__init__()
        self.mother = mother

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await self.mother.ask.add()
        yield


class Mother(Probe):
    async def bear(self, supervised: bool) -> None:
        kid = creche.child(Kid, self.context.handle)
        await self.context.runtime.start(creche.supervisor("nursery", kid) if supervised else kid)


@pytest.mark.parametrize("supervised", [False, True])
async def test_a_child_that_calls_its_waiting_starter_is_refused(autojump_clock: MockClock, supervised: bool) -> None:
    """A start is something to wait for: the child's call back is a CallCycle, whatever stands between the two."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        mother = await runtime.start(creche.child(Mother))
        reply = asking(nursery, mother.ask.bear, supervised)
        with trio.move_on_after(LONG):
            await reply.done.wait()
        if reply.what == "pending":
            runtime.kill(mother, "so that the block can be left")
        cause: BaseException | None = reply.error
        while cause is not None and not isinstance(cause, creche.CallCycle):
            cause = cause.__cause__
        assert (reply.what, type(cause)) == ("OutcomeUnknown", creche.CallCycle)


class Host(Probe):
    """Has a nursery in its lifespan, in which handlers leave work behind."""

    def __init__(self) -> None:
        super().__init__()
        self.nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as self.nursery:
            yield
            self.nursery.cancel_scope.cancel()

    async def begin(self, got: list[object]) -> None:
        assert self.nursery is not None
        self.nursery.start_soon(self._call_back, got)

    async def _call_back(self, got: list[object]) -> None:
        await trio.sleep(1)  # the message has ended long ago
        try:
            got.append(creche.current_deadline())
            got.append(await self.context.handle.ask.add())
        except creche.CallCycle as error:
            got.append(error)


async def test_what_a_handler_left_in_the_lifespans_nursery_is_no_handler(autojump_clock: MockClock) -> None:
    """Its message has ended: it may call its own actor, and has no deadline."""
    got: list[object] = []
    async with creche.open_runtime("t") as runtime:
        host = await runtime.start(creche.child(Host))
        await host.within(0.5).ask.begin(got)
        await trio.sleep(2)
    assert got == [float("inf"), 1]


class Leaving(Probe):
    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.log.append(f"deadline {creche.current_deadline()}")


async def test_the_exit_of_a_lifespan_has_no_deadline_of_a_message() -> None:
    """After a crash in a message with a deadline, the exit belongs to no message."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Leaving, log).options(restart="temporary"))
        with pytest.raises(creche.OutcomeUnknown):
            await actor.within(5).ask.crash()
    assert log == ["deadline inf"]


class Link(creche.Actor):
    def __init__(self) -> None:
        self.following: creche.Handle[Link] | None = None

    async def follow(self, following: creche.Handle[Link]) -> None:
        self.following = following

    async def go(self) -> None:
        assert self.following is not None
        await self.following.ask.go()


async def test_a_ring_longer_than_the_recursion_limit_is_a_call_cycle() -> None:
    """However long the way round is, it is told as what it is."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        ring = [await runtime.start(creche.child(Link)) for _ in range(LENGTH)]
        for link, following in zip(ring, [*ring[1:], ring[0]], strict=True):
            await link.ask.follow(following)
        with pytest.raises(creche.CallFailed):
            await ring[0].ask.go()
        assert [event.error.partition(":")[0] for event in seen if isinstance(event, Crashed)] == ["CallCycle"]


class Fan(Probe):
    """Asks all that follow it at once, in tasks of its handler; the last ones wait, and may then ask the first."""

    def __init__(self, log: list[str], following: list[creche.Handle[Fan]], gate: Gate) -> None:
        super().__init__(log)
        self.following = following
        self.gate = gate
        self.calls = 0

    async def spread(self, back_to: list[creche.Handle[Fan]]) -> None:
        async with trio.open_nursery() as nursery:
            for one in self.following:
                nursery.start_soon(one.ask.spread, back_to)
            if not self.following:
                await self.gate.hold()
                for first in back_to:
                    with pytest.raises(creche.CallCycle):
                        await first.ask.add()
                    self.log.append("refused")

    async def count_steps(self) -> int:
        """How many Python functions are called until the check is through and the call is under way."""
        sys.setprofile(self._count)
        try:
            with trio.move_on_after(0):
                await self.following[0].ask.add()
        finally:
            sys.setprofile(None)
        return self.calls

    def _count(self, _frame: object, event: str, _argument: object) -> None:
        self.calls += event == "call"


@asynccontextmanager
async def layers(
    depth: int, log: list[str]
) -> AsyncIterator[tuple[creche.Handle[Fan], list[creche.Handle[Fan]], Gate, trio.Nursery]]:
    """The first, and so many layers of two, each of which asks both of the next: two to the `depth` paths."""
    gate = Gate()
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        layer: list[creche.Handle[Fan]] = []
        for _ in range(depth):
            layer = [await runtime.start(creche.child(Fan, log, layer, gate)) for _ in range(2)]
        yield await runtime.start(creche.child(Fan, log, layer, gate)), layer, gate, nursery
        nursery.cancel_scope.cancel()


async def steps_of_a_check(depth: int) -> int:
    async with layers(depth, []) as (top, second, _, nursery):
        for one in second:
            asking(nursery, one.ask.spread, [])
        await settle()
        return await top.ask.count_steps()


async def test_a_check_costs_as_much_as_there_are_actors_not_paths(autojump_clock: MockClock) -> None:
    """Eight more layers of a fan-out of fan-outs are eight times the steps of one more, and not 256 times as many."""
    few, many, most = [await steps_of_a_check(depth) for depth in (4, 5, 12)]
    assert most - few <= 8 * (many - few) + 50


async def test_a_circle_through_a_fan_out_of_fan_outs_is_found(autojump_clock: MockClock) -> None:
    log: list[str] = []
    async with layers(4, log) as (top, _, gate, nursery):
        reply = asking(nursery, top.ask.spread, [top])
        await settle()
        gate.opened.set()
        with trio.move_on_after(LONG):
            await reply.done.wait()
    assert (reply.what, log) == ("value", ["refused"] * 2**4)
