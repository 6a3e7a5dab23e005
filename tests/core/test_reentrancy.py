"""Reentrant messages: a call that comes back along its own chain is let in."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.core.support import LONG, Boom, Gate, Probe, Reply, asking, cell_of, settle


class Node(Probe):
    """Calls the next one, which may call it back."""

    def __init__(self, log: list[str] | None = None) -> None:
        super().__init__(log)
        self.other: creche.Handle[Node] | None = None

    async def meet(self, other: creche.Handle[Node]) -> None:
        self.other = other

    async def outer(self, inner: str) -> object:
        self.log.append("outer begins")
        try:
            return await self._next().ask.forward(inner)
        finally:
            self.log.append("outer ends")

    async def forward(self, inner: str) -> object:
        me = self._next()
        return await getattr(me.ask, inner)()

    @creche.message(reentrant=True)
    async def back(self) -> str:
        self.log.append("back")
        await trio.sleep(1)
        self.count += 1
        return "came back"

    async def not_reentrant(self) -> str:
        return "never"

    @creche.message(reentrant=True)
    async def back_and_crash(self) -> None:
        raise Boom("on the way back")

    @creche.message(reentrant=True, on_caller_gone="cancel")
    async def back_for_caller(self) -> None:
        try:
            await trio.sleep(LONG)
        finally:
            self.log.append("cancelled")

    @creche.message(reentrant=True)
    async def back_and_stay(self) -> None:
        await trio.sleep(20)
        self.log.append("stayed")

    @creche.message(reentrant=True)
    async def back_and_stash(self) -> None:
        self.context.stash()

    @creche.message(reentrant=True)
    async def deeper(self, left: int = 10**6) -> int:
        self.count += 1
        return 0 if not left else 1 + await self._next().ask.deeper(left - 1)

    @creche.message(reentrant=True)
    async def itself(self, again: bool = True) -> int:
        me: creche.Handle[Node] = self.context.handle
        return 1 + await me.ask.itself(False) if again else 1

    async def many(self) -> object:
        me: creche.Handle[Node] = self.context.handle
        return await me.call_many(Node.back, [()])

    def _next(self) -> creche.Handle[Node]:
        assert self.other is not None
        return self.other


async def pair(runtime: creche.Runtime) -> tuple[creche.Handle[Node], creche.Handle[Node], list[str]]:
    log: list[str] = []
    a = await runtime.start(creche.child(Node, log).options(name="a"))
    b = await runtime.start(creche.child(Node).options(name="b"))
    await a.ask.meet(b)
    await b.ask.meet(a)
    return a, b, log


async def test_a_reentrant_call_is_let_in_along_its_own_chain(autojump_clock: MockClock) -> None:
    """It is handled while the outer handler waits; without that it is a `CallCycle`."""
    async with creche.open_runtime("test") as runtime:
        a, _, log = await pair(runtime)
        assert await a.ask.outer("back") == "came back"
        assert log == ["outer begins", "back", "outer ends"]
        assert (a.statistics().in_flight, len(runtime.wait_for_graph())) == (0, 0)
        with pytest.raises(creche.PeerFailed, match="root/b"):
            await a.ask.outer("not_reentrant")


async def test_a_call_of_another_chain_is_not_let_in(autojump_clock: MockClock) -> None:
    """It waits until the outer handler and all that was let in have ended, though its message is reentrant."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        a, _, log = await pair(runtime)
        outer = asking(nursery, a.ask.outer, "back")
        await settle()
        assert str(runtime.wait_for_graph()).splitlines() == [
            "root/a --forward--> root/b  [handled]",
            "root/b --back--> root/a  [handled]",
        ]
        third = await runtime.start(creche.child(Node).options(name="third"))
        await third.ask.meet(a)
        asking(nursery, a.ask.back)
        asking(nursery, third.ask.forward, "back")
        await settle()
        assert (log, a.statistics().queued) == (["outer begins", "back"], 2)
        await outer.settled()
        await trio.sleep(10)
        assert log == ["outer begins", "back", "outer ends", "back", "back"]


async def test_an_actor_may_call_a_reentrant_message_of_its_own(autojump_clock: MockClock) -> None:
    """That is the shortest chain."""
    async with creche.open_runtime("test") as runtime:
        a, _, _ = await pair(runtime)
        assert await a.ask.itself() == 2


async def test_a_recursion_without_end_is_a_call_cycle(autojump_clock: MockClock) -> None:
    """At most so many calls may be let into an actor at once."""
    async with creche.open_runtime("test") as runtime:
        a, b, _ = await pair(runtime)
        assert await a.ask.deeper(99) == 99
        cause: BaseException | None = None
        try:
            await a.ask.deeper()
        except creche.CallFailed as error:
            cause = error
        while cause is not None and not isinstance(cause, creche.CallCycle):
            cause = cause.__cause__
        assert isinstance(cause, creche.CallCycle)
        assert (await a.ask.life() + await b.ask.life()) >= 3
        assert cell_of(a).statistics().in_flight == 0


async def test_a_crash_of_what_was_let_in(autojump_clock: MockClock) -> None:
    """Crashes the incarnation, the outer handler with it."""
    async with creche.open_runtime("test") as runtime:
        a, b, _ = await pair(runtime)
        with pytest.raises(creche.OutcomeUnknown):
            await a.ask.outer("back_and_crash")
        assert (await a.ask.life(), await b.ask.life()) == (2, 1)


@pytest.mark.parametrize("inner", ["back", "back_for_caller"])
async def test_a_chain_that_is_cancelled_with_what_was_let_in(autojump_clock: MockClock, inner: str) -> None:
    """A kill of the outer actor ends all of it; nothing is left."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        a, b, _ = await pair(runtime)
        outer = asking(nursery, a.ask.outer, inner)
        await settle()
        assert runtime.kill(a, "in the middle")
        assert await outer.settled() == "OutcomeUnknown"
        assert (await a.ask.life(), await b.ask.life(), len(runtime.wait_for_graph())) == (2, 1, 0)
        await a.ask.meet(b)
        assert await a.ask.outer("back") == "came back"


async def test_a_caller_in_the_chain_that_goes(autojump_clock: MockClock) -> None:
    """What it has let in follows its own message's rule."""

    class Hasty(Node):
        async def forward(self, inner: str) -> object:
            with trio.move_on_after(2):
                return await super().forward(inner)
            return "gave up"

    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        log: list[str] = []
        a = await runtime.start(creche.child(Node, log).options(name="a"))
        b = await runtime.start(creche.child(Hasty).options(name="b"))
        await a.ask.meet(b)
        await b.ask.meet(a)
        assert await a.ask.outer("back_for_caller") == "gave up"
        assert log == ["outer begins", "cancelled", "outer ends"]
        log.clear()
        assert await a.ask.outer("back_and_stay") == "gave up"
        late = [asking(nursery, a.ask.note, "next")]
        await trio.sleep(5)
        assert (log, late[0].what) == (["outer begins", "outer ends"], "pending")
        await late[0].settled()
        assert log == ["outer begins", "outer ends", "stayed", "next"]


async def test_what_waits_behind_one_that_was_let_in_is_in_the_graph(autojump_clock: MockClock) -> None:
    """One that stays alone in the actor and calls somebody who waits for the actor is a circle all the same."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        gate = Gate()
        b = await runtime.start(creche.child(Probe).options(name="b"))

        class Guest(Probe):
            @creche.message(reentrant=True)
            async def back_and_call(self) -> object:
                await gate.hold()
                return await b.ask.add()

            async def start(self) -> None:
                me: creche.Handle[Guest] = self.context.handle
                with trio.move_on_after(1):
                    await me.ask.back_and_call()

        c = await runtime.start(creche.child(Guest).options(name="c"))
        await c.ask.start()

        async def call_c(_: Probe) -> object:
            return await c.ask.add()

        waits = asking(nursery, b.ask.run, call_c)
        await settle()
        assert waits.what == "pending"
        gate.opened.set()
        await settle()
        assert (waits.what, await c.ask.life()) == ("value", 2)  # who closed the circle has crashed


async def test_deadlines_of_what_is_let_in(autojump_clock: MockClock) -> None:
    """They travel as through any chain; without time left nothing is let in."""
    async with creche.open_runtime("test") as runtime:
        a, _, log = await pair(runtime)
        with pytest.raises(creche.DeadlineExceeded):
            await a.within(3).call(Node.outer, "back_for_caller")
        await trio.sleep(1)
        assert sorted(log) == ["cancelled", "outer begins", "outer ends"]

        async def late(_: Probe) -> None:
            await a.within(0).call(Node.back)

        with pytest.raises(creche.PeerFailed) as caught:
            await a.ask.run(late)
        assert isinstance(caught.value.__cause__, creche.DeadlineExceeded)
        assert log.count("back") == 0


async def test_what_was_let_in_cannot_be_stashed(autojump_clock: MockClock) -> None:
    """The message in hand waits for it: `CallCycle`. Nor is one of many calls let in."""
    async with creche.open_runtime("test") as runtime:
        a, b, _ = await pair(runtime)
        for call in (a.ask.outer("back_and_stash"), b.ask.many()):
            with pytest.raises(creche.OutcomeUnknown) as caught:
                await call
            cause: BaseException | None = caught.value
            while cause is not None and not isinstance(cause, creche.CallCycle):
                cause = cause.__cause__
            assert isinstance(cause, creche.CallCycle)


async def test_a_stop_waits_for_what_was_let_in(autojump_clock: MockClock) -> None:
    """As for the message in hand."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        a, _, _ = await pair(runtime)
        replies: list[Reply] = [asking(nursery, a.ask.outer, "back")]
        await settle()
        await runtime.stop(a)
        assert (await replies[0].settled(), replies[0].value) == ("value", "came back")


async def test_what_comes_back_is_let_in_while_the_actor_stops(autojump_clock: MockClock) -> None:
    """It is no new work, but part of the message in hand; who is not in that chain is refused."""

    class Slow(Node):
        async def forward(self, inner: str) -> object:
            await trio.sleep(1)
            return await super().forward(inner)

    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        a = await runtime.start(creche.child(Node).options(name="a"))
        b = await runtime.start(creche.child(Slow).options(name="b"))
        await a.ask.meet(b)
        await b.ask.meet(a)
        c = await runtime.start(creche.child(Node).options(name="c"))
        await c.ask.meet(a)
        outer = asking(nursery, a.ask.outer, "back")
        await settle()
        stop = asking(nursery, runtime.stop, a)
        await settle()
        with pytest.raises(creche.PeerFailed, match=r"not delivered \(closed\)"):
            await c.ask.forward("back")
        assert (await outer.settled(), outer.value, await stop.settled()) == ("value", "came back", "value")


def test_wrong_values_of_reentrant_are_refused() -> None:
    """`SpecInvalid`."""
    with pytest.raises(creche.SpecInvalid):
        creche.message(reentrant=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_an_actor_that_has_been_stopped_while_it_was_idle_is_not_kept(autojump_clock: MockClock) -> None:
    """Though there still is a handle."""
    async with creche.open_runtime("t") as runtime:
        seen: list[weakref.ref[Probe]] = []

        async def look(node: Probe) -> None:
            seen.append(weakref.ref(node))

        node = await runtime.start(creche.child(Node))
        await node.ask.run(look)
        await runtime.stop(node)
        await settle()
        gc.collect()
        assert seen[0]() is None
