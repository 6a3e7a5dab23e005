"""Concurrent messages: handlers in tasks of their own, up to a limit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.context import actor_path, baggage, carrying
from tests.core.support import Boom, Gate, asking, kinds, reach, recorded, settle

Body = Callable[["Crew"], Awaitable[Any]]


class Crew(creche.Actor):
    """Concurrent messages with different options; what they do is given by the test."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    @creche.message(concurrency=2)
    async def work(self, body: Body) -> Any:
        return await body(self)

    @creche.message(concurrency=2, on_caller_gone="cancel", raises=KeyError)
    async def work_for_caller(self, body: Body) -> Any:
        return await body(self)

    @creche.message(concurrency=1)
    async def alone(self, body: Body) -> Any:
        return await body(self)

    async def serial(self, word: str = "serial") -> str:
        self.log.append(word)
        return word

    async def run(self, body: Body) -> Any:
        return await body(self)

    async def seen(self) -> list[Any]:
        return self.log

    async def leave(self) -> None:
        self.context.exit()


class Held(Crew):
    """With a lifespan."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        async with trio.open_nursery():
            yield


def held(gate: Gate, word: str = "held") -> Body:
    async def body(crew: Crew) -> str:
        await gate.hold()
        crew.log.append(word)
        return word

    return body


async def test_concurrent_messages_run_beside_the_others(autojump_clock: MockClock) -> None:
    """The actor goes on to the next message, and each caller gets its own answer."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        crew, gate = await runtime.start(creche.child(Crew)), Gate()
        reply = asking(nursery, crew.ask.work, held(gate))
        await gate.entered.wait()
        assert await crew.ask.serial() == "serial"
        assert (reply.what, crew.statistics().in_flight) == ("pending", 1)
        gate.opened.set()
        assert (await reply.settled(), reply.value) == ("value", "held")
        assert await crew.ask.seen() == ["serial", "held"]


async def test_concurrency_is_the_limit(autojump_clock: MockClock) -> None:
    """Never more handlers of one message than it says; the next one starts as soon as one has ended."""
    async with creche.open_runtime("test") as runtime:
        crew = await runtime.start(creche.child(Crew))
        running = most = 0

        async def body(_crew: Crew) -> float:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await trio.sleep(1)
            running -= 1
            return trio.current_time()

        began = trio.current_time()
        results = await crew.call_many(Crew.work, [(body,)] * 5)
        assert [result.unwrap() - began for result in results] == [1, 1, 2, 2, 3]
        assert most == 2


async def test_what_comes_after_a_full_concurrent_message_waits(autojump_clock: MockClock) -> None:
    """Order is kept: a message that may not start yet holds up what was sent later; other limits do not count."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        crew, gate = await runtime.start(creche.child(Crew)), Gate()
        asking(nursery, crew.ask.alone, held(gate, "first"))
        await gate.entered.wait()
        other = Gate()
        other.opened.set()
        assert await crew.ask.work(held(other, "another kind")) == "another kind"
        crew.cast_nowait(Crew.alone, held(gate, "second"))
        crew.cast_nowait(Crew.serial, "third")
        await settle()
        assert crew.statistics().queued == 2
        gate.opened.set()
        await settle()
        assert sorted(await crew.ask.seen()) == ["another kind", "first", "second", "third"]


async def test_a_concurrent_message_that_waits_can_be_revoked(autojump_clock: MockClock) -> None:
    """By its caller or its deadline; then it does not hold up anybody."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        crew, gate = await runtime.start(creche.child(Crew)), Gate()
        asking(nursery, crew.ask.alone, held(gate))
        await gate.entered.wait()
        waiting = asking(nursery, crew.ask.alone, held(gate, "never"))
        late = asking(nursery, crew.within(1).ask.alone, held(gate, "never"))
        await settle()
        after = asking(nursery, crew.ask.serial)
        await settle()
        assert after.what == "pending"
        waiting.scope.cancel()
        assert await waiting.settled() == "cancelled"
        assert await late.settled() == "DeadlineExceeded"
        assert await after.settled() == "value"
        gate.opened.set()
        await settle()
        assert await crew.ask.seen() == ["serial", "held"]


async def test_a_cancel_hits_only_its_activity(autojump_clock: MockClock) -> None:
    """on_caller_gone="cancel": the handler whose caller has gone unwinds, its caller leaves then, the others go on."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        crew = await runtime.start(creche.child(Crew))
        gates = [Gate(), Gate()]
        replies = [asking(nursery, crew.ask.work_for_caller, held(gate)) for gate in gates]
        for gate in gates:
            await gate.entered.wait()
        replies[0].scope.cancel()
        assert await replies[0].settled() == "cancelled"
        assert crew.statistics().in_flight == 1
        gates[1].opened.set()
        assert await replies[1].settled() == "value"
        assert crew.statistics().incarnation == 1


async def test_a_concurrent_finish_lets_its_caller_leave(autojump_clock: MockClock) -> None:
    """on_caller_gone="finish": the caller leaves at once, the handler goes on."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        crew, gate = await runtime.start(creche.child(Crew)), Gate()
        reply = asking(nursery, crew.ask.work, held(gate, "finished"))
        await gate.entered.wait()
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        gate.opened.set()
        await settle()
        assert await crew.ask.seen() == ["finished"]


async def test_answers_of_concurrent_messages(autojump_clock: MockClock) -> None:
    """Declared errors and failed calls are answers, also out of the cleanup of a cancelled handler."""

    async def declared(_crew: Crew) -> None:
        raise KeyError("declared")

    async def in_cleanup(crew: Crew) -> None:
        try:
            await trio.sleep_forever()
        finally:
            crew.log.append("cleanup")
            raise KeyError("in cleanup")

    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        crew = await runtime.start(creche.child(Crew))
        with pytest.raises(KeyError):
            await crew.ask.work_for_caller(declared)
        with pytest.raises(KeyError):
            await crew.within(1).ask.work_for_caller(in_cleanup)
        reply = asking(nursery, crew.ask.work_for_caller, in_cleanup)
        await settle()
        reply.scope.cancel()
        assert await reply.settled() == "KeyError"
        assert (crew.statistics().incarnation, crew.statistics().in_flight) == (1, 0)


@pytest.mark.parametrize("cls", [Crew, Held])
async def test_a_crash_of_a_concurrent_message(autojump_clock: MockClock, cls: type[Crew]) -> None:
    """Crashes the incarnation: all that was in flight or in hand has an unknown outcome, what waited goes on."""

    async def crash(_crew: Crew) -> None:
        raise Boom("concurrent")

    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        crew, gate = await runtime.start(creche.child(cls)), Gate()
        crew.cast_nowait(Crew.work_for_caller, crash)
        await settle()
        others = [asking(nursery, crew.ask.work, held(gate)), asking(nursery, crew.ask.alone, held(gate))]
        await settle()
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await crew.ask.work_for_caller(crash)
        assert isinstance(caught.value.__cause__, Boom)
        assert [await reply.settled() for reply in others] == ["OutcomeUnknown", "OutcomeUnknown"]
        assert await crew.ask.serial() == "serial"
        assert kinds(seen, crew.path).count("Crashed") == 2
        assert kinds(seen, crew.path).count("DeadLetter") == 1


async def test_what_travels_with_a_concurrent_message(autojump_clock: MockClock) -> None:
    """Its own caller's baggage and deadline, and its actor's place."""

    async def look(_crew: Crew) -> Any:
        await trio.lowlevel.checkpoint()
        return dict(baggage()), creche.current_deadline(), actor_path(), creche.current_runtime()

    async with creche.open_runtime("test") as runtime:
        crew = await runtime.start(creche.child(Crew))
        with carrying(trace="abc"):
            deadline = trio.current_time() + 5
            assert await crew.within(5).ask.work(look) == ({"trace": "abc"}, deadline, crew.path, runtime)
        assert await crew.ask.work(look) == ({}, float("inf"), crew.path, runtime)
        assert await crew.ask.run(look) == ({}, float("inf"), crew.path, runtime)


async def test_concurrent_messages_are_in_a_circle_only_together(autojump_clock: MockClock) -> None:
    """A concurrent handler may call its own actor as long as one of its kind could still end; else it is refused."""

    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        crew = await runtime.start(creche.child(Crew))

        async def call_serial(crew: Crew) -> str:
            me: creche.Handle[Crew] = crew.context.handle
            return await me.ask.serial()

        async def call_again(crew: Crew) -> Any:
            me: creche.Handle[Crew] = crew.context.handle
            return await me.ask.work(call_again)

        assert await crew.ask.work(call_serial) == "serial"
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await crew.ask.alone(call_serial)
        assert isinstance(caught.value.__cause__, creche.CallCycle)
        with pytest.raises(creche.CallFailed) as recursive:
            await crew.ask.work(call_again)
        assert isinstance(_root_of(recursive.value), creche.CallCycle)
        nursery.cancel_scope.cancel()


def _root_of(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _root_of(error.__cause__)


async def test_circles_through_concurrent_messages_of_two_actors(autojump_clock: MockClock) -> None:
    """A serial handler that waits for a concurrent one that calls it back is refused, whatever the limit."""

    class Front(creche.Actor):
        async def go(self, back: creche.Handle[Crew], me: creche.Handle[Front]) -> str:
            async def call_front(_crew: Crew) -> str:
                return await me.ask.idle()

            return str(await back.ask.work(call_front))

        async def idle(self) -> str:
            return "idle"

    async with creche.open_runtime("test") as runtime:
        back, front = await runtime.start(creche.child(Crew)), await runtime.start(creche.child(Front))
        with pytest.raises(creche.PeerFailed) as caught:
            await front.ask.go(back, front)
        assert isinstance(caught.value.cause.__cause__, creche.CallCycle)
        assert caught.value.cause.__cause__.chain == ("root/crew", "root/front", "root/crew")


@pytest.mark.parametrize("cls", [Crew, Held])
async def test_a_stop_waits_for_concurrent_messages(autojump_clock: MockClock, cls: type[Crew]) -> None:
    """Until the drain time is over; then they are cancelled, with an unknown outcome."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        for seconds, outcome in ((1, "value"), (100, "OutcomeUnknown")):

            async def body(_crew: Crew, seconds: float = seconds) -> None:
                await trio.sleep(seconds)

            crew = await runtime.start(creche.child(cls).options(drain=5))
            reply, queued = asking(nursery, crew.ask.work, body), asking(nursery, crew.ask.work, body)
            await settle()
            last = asking(nursery, crew.ask.work, body)
            await settle()
            before = trio.current_time()
            await runtime.stop(crew)
            assert trio.current_time() - before == min(2 * seconds, 5)
            assert {await reply.settled(), await queued.settled()} == {outcome}
            assert await last.settled() == (outcome if outcome == "value" else "NotDelivered")


async def test_an_exit_waits_for_concurrent_messages(autojump_clock: MockClock) -> None:
    """They are in hand; what waits is for the next incarnation."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        crew, gate = await runtime.start(creche.child(Crew)), Gate()
        reply = asking(nursery, crew.ask.work, held(gate))
        await gate.entered.wait()
        await crew.ask.leave()
        waiting = asking(nursery, crew.ask.serial)
        await settle()
        assert (waiting.what, reply.what) == ("pending", "pending")
        gate.opened.set()
        assert (await reply.settled(), await waiting.settled()) == ("value", "value")
        assert crew.statistics().incarnation == 2


async def test_a_group_restart_waits_for_concurrent_messages(autojump_clock: MockClock) -> None:
    """A sibling's crash does not cut them short."""

    class Crashing(creche.Actor):
        async def crash(self) -> None:
            raise Boom

    first, second = creche.child(Crashing).options(name="first"), creche.child(Crew).options(name="second")
    root = creche.supervisor("root", first, second, strategy="rest_for_one")
    async with creche.open_runtime("test", root=root) as runtime, trio.open_nursery() as nursery:
        crashing, crew = reach(runtime, "root/first", Crashing), reach(runtime, "root/second", Crew)
        gate = Gate()
        reply = asking(nursery, crew.ask.work, held(gate))
        await gate.entered.wait()
        crash = asking(nursery, crashing.ask.crash)
        assert await crash.settled() == "OutcomeUnknown"
        await settle()
        assert reply.what == "pending"
        gate.opened.set()
        assert await reply.settled() == "value"
        assert await crew.ask.serial() == "serial"
        assert crew.statistics().incarnation == 2


async def test_a_concurrent_handler_that_does_not_unwind(autojump_clock: MockClock) -> None:
    """Its caller gets OutcomeUnknown after the grace and an event tells where it stands; the actor goes on."""

    async def shielded(_crew: Crew) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        crew = await runtime.start(creche.child(Crew).options(unwind_grace=1))
        reply = asking(nursery, crew.ask.work_for_caller, shielded)
        await settle()
        reply.scope.cancel()
        assert await reply.settled() == "OutcomeUnknown"
        assert await crew.ask.serial() == "serial"
        (stuck,) = (event for event in seen if isinstance(event, events.Stuck))
        assert "shielded" in stuck.stack


async def test_wrong_arguments_of_a_concurrent_message(autojump_clock: MockClock) -> None:
    """Are the caller's; a TypeError out of the body is a crash."""

    async def wrong(_crew: Crew) -> None:
        raise TypeError("a bug")

    async with creche.open_runtime("test") as runtime:
        seen = recorded(runtime)
        crew = await runtime.start(creche.child(Crew))
        ask: Any = crew.ask
        with pytest.raises(TypeError):
            await ask.work()
        crew.cast_nowait(Crew.work, *([]))
        await settle()
        assert kinds(seen, crew.path)[-1] == "DeadLetter"
        with pytest.raises(creche.OutcomeUnknown):
            await crew.ask.work(wrong)


async def test_deferred_replies_of_concurrent_messages(autojump_clock: MockClock) -> None:
    """A concurrent handler may take its slot too, once."""

    async def defer(crew: Crew) -> Any:
        slot: creche.ReplySlot[str] = crew.context.defer()
        with pytest.raises(RuntimeError):
            crew.context.defer()
        crew.log.append(slot)
        return slot.later()

    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        crew = await runtime.start(creche.child(Crew))
        reply = asking(nursery, crew.ask.work, defer)
        await settle()
        (slot,) = await crew.ask.seen()
        assert reply.what == "pending"
        slot.reply("later")
        assert (await reply.settled(), reply.value) == ("value", "later")
        assert crew.statistics().in_flight == 0
