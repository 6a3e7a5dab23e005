"""Replies that come later than the end of their handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.core.support import LONG, Boom, Gate, asking, kinds, recorded, settle


class Desk(creche.Actor):
    """Keeps the reply slots that it takes until it is told what to do with them."""

    def __init__(self) -> None:
        self.slots: list[creche.ReplySlot[str]] = []

    async def later(self, *, unsent: bool = False) -> str:
        slot: creche.ReplySlot[str] = self.context.defer()
        if unsent:
            slot.unsent()
        self.slots.append(slot)
        return slot.later()

    @creche.message(on_caller_gone="cancel")
    async def later_for_caller(self, gate: Gate) -> str:
        slot: creche.ReplySlot[str] = self.context.defer()
        self.slots.append(slot)
        await gate.hold()
        return "not the answer"

    @creche.message(raises=KeyError)
    async def later_or_never(self) -> str:
        self.slots.append(self.context.defer())
        raise KeyError("after all")

    async def twice(self) -> str:
        first: creche.ReplySlot[str] = self.context.defer()
        try:
            self.context.defer()
        except RuntimeError:
            first.reply("refused")
        return first.later()

    async def do(self, what: Callable[[list[creche.ReplySlot[str]]], Any]) -> Any:
        return what(self.slots)

    async def answer_in_background(self, word: str) -> None:
        async def answer() -> None:
            for slot in self.slots:
                slot.reply(word)

        self.context.spawn(answer)

    async def crash(self) -> None:
        raise Boom("desk")

    async def leave(self) -> None:
        self.context.exit()

    async def call_back(self, caller: creche.Handle[Caller]) -> str:
        return await caller.ask.idle()


class Caller(creche.Actor):
    """Calls a desk from its handler."""

    async def idle(self) -> str:
        return "idle"

    async def pass_on(self, desk: creche.Handle[Desk]) -> str:
        return await desk.ask.later()

    async def call_back_from(self, desk: creche.Handle[Desk], me: creche.Handle[Caller]) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.ask.later)
            await settle()
            try:
                return await desk.ask.call_back(me)
            finally:
                nursery.cancel_scope.cancel()


async def started(runtime: creche.Runtime, **options: Any) -> creche.Handle[Desk]:
    return await runtime.start(creche.child(Desk).options(**options))


async def test_deferred_replies(autojump_clock: MockClock) -> None:
    """The actor takes other messages in between, and the caller gets what the slot says, from wherever it is said."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        replies = []
        for _ in range(3):
            replies.append(asking(nursery, desk.ask.later))
            await settle()
        assert desk.statistics().in_flight == 3
        await desk.ask.do(lambda slots: slots[0].reply("first"))
        await desk.ask.do(lambda slots: slots[1].fail(KeyError("no")))
        assert await replies[0].settled() == "value"
        assert replies[0].value == "first"
        assert await replies[1].settled() == "KeyError"
        await desk.ask.answer_in_background("last")
        assert await replies[2].settled() == "value"
        assert (desk.statistics().in_flight, desk.statistics().incarnation) == (0, 1)


async def test_the_first_answer_counts(autojump_clock: MockClock) -> None:
    """Later ones change nothing and are counted."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        reply = asking(nursery, desk.ask.later)
        await settle()
        await desk.ask.do(answer_three_times)
        assert (await reply.settled(), reply.value) == ("value", "one")
        assert desk.statistics().discarded == 2


def each(slots: list[creche.ReplySlot[str]], do: Callable[[creche.ReplySlot[str]], None]) -> None:
    for slot in slots:
        do(slot)


def answer_three_times(slots: list[creche.ReplySlot[str]]) -> None:
    slots[0].reply("one")
    slots[0].reply("two")
    slots[0].fail(Boom())


async def test_what_the_handler_returns_is_no_answer(autojump_clock: MockClock) -> None:
    """Once its slot is taken, a handler may return what it likes."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk, gate = await started(runtime), Gate()
        gate.opened.set()
        reply = asking(nursery, desk.ask.later_for_caller, gate)
        await settle()
        assert reply.what == "pending"
        await desk.ask.do(lambda slots: slots[0].reply("the answer"))
        assert (await reply.settled(), reply.value) == ("value", "the answer")


async def test_an_answer_that_leaves_the_handler_after_deferring(autojump_clock: MockClock) -> None:
    """A declared error is the answer although the slot was taken."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        reply = asking(nursery, desk.ask.later_or_never)
        assert await reply.settled() == "KeyError"
        assert desk.statistics().in_flight == 0


async def test_callers_of_deferred_replies_leave_at_once(autojump_clock: MockClock) -> None:
    """Whatever the message declares; its handler is not cancelled."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk, gate = await started(runtime), Gate()
        reply = asking(nursery, desk.ask.later_for_caller, gate)
        await gate.entered.wait()
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        gate.opened.set()
        assert await desk.ask.do(lambda slots: slots[0].wanted) is False
        await desk.ask.do(lambda slots: slots[0].reply("too late"))
        assert desk.statistics().incarnation == 1


async def test_out_of_time_while_deferred(autojump_clock: MockClock) -> None:
    """The caller gets DeadlineExceeded(delivered=True); the slot knows the deadline."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        until = trio.current_time() + 2
        reply = asking(nursery, desk.within(2).ask.later)
        await settle()
        assert await desk.ask.do(lambda slots: slots[0].deadline) == until
        assert await reply.settled() == "DeadlineExceeded"
        assert isinstance(reply.error, creche.DeadlineExceeded)
        assert reply.error.delivered
        assert trio.current_time() == until


async def test_a_crash_answers_deferred_replies(autojump_clock: MockClock) -> None:
    """OutcomeUnknown from the crash for each of them, an exception of its own for each."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        replies = [asking(nursery, desk.ask.later) for _ in range(2)]
        await settle()
        await asking(nursery, desk.ask.crash).settled()
        assert [await reply.settled() for reply in replies] == ["OutcomeUnknown"] * 2
        first, second = (reply.error for reply in replies)
        assert first is not second
        assert first is not None
        assert second is not None
        assert isinstance(first.__cause__, Boom)
        assert first.__cause__ is second.__cause__


async def test_unsent_is_not_delivered(autojump_clock: MockClock) -> None:
    """What was marked as not begun when the actor died is safe to retry; after `begin` it is not."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        begun, not_begun = (asking(nursery, lambda: desk.ask.later(unsent=True)) for _ in range(2))
        await settle()
        assert await desk.ask.do(lambda slots: slots[0].begin()) is True
        await asking(nursery, desk.ask.crash).settled()
        outcomes = {await begun.settled(), await not_begun.settled()}
        assert outcomes == {"OutcomeUnknown", "NotDelivered"}
        (error,) = (reply.error for reply in (begun, not_begun) if isinstance(reply.error, creche.NotDelivered))
        assert error.reason == "not_sent"


async def test_unsent_and_gone_is_never_begun(autojump_clock: MockClock) -> None:
    """`begin` says no when the caller has been told that nothing was delivered."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        reply = asking(nursery, lambda: desk.within(1).ask.later(unsent=True))
        assert await reply.settled() == "DeadlineExceeded"
        assert isinstance(reply.error, creche.DeadlineExceeded)
        assert not reply.error.delivered
        assert await desk.ask.do(lambda slots: slots[0].begin()) is False
        assert desk.statistics().in_flight == 0, "there is nothing left to finish"


async def test_slots_of_a_dead_incarnation_are_dead(autojump_clock: MockClock) -> None:
    """Nothing that a slot says after its incarnation has ended reaches anybody."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        reply = asking(nursery, desk.ask.later)
        await settle()
        (slot,) = await desk.ask.do(list)
        await asking(nursery, desk.ask.crash).settled()
        slot.reply("from the grave")
        assert await reply.settled() == "OutcomeUnknown"
        assert not slot.wanted
        assert not slot.begin()


async def test_a_forgotten_slot_is_given_up(autojump_clock: MockClock) -> None:
    """A caller that nobody can answer any more gets OutcomeUnknown instead of waiting for ever."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        reply = asking(nursery, desk.ask.later)
        await settle()
        await desk.ask.do(lambda slots: slots.clear())
        assert await reply.settled() == "OutcomeUnknown"
        assert "forgotten" in str(reply.error)
        assert desk.statistics().incarnation == 1


async def test_a_slot_can_be_given_up(autojump_clock: MockClock) -> None:
    """`give_up` is OutcomeUnknown from the cause, or NotDelivered("not_sent") where nothing had begun."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        replies = [asking(nursery, desk.ask.later), asking(nursery, lambda: desk.ask.later(unsent=True))]
        await settle()
        await desk.ask.do(lambda slots: each(slots, lambda slot: slot.give_up(OSError("reset"))))
        outcomes = {await reply.settled(): reply.error for reply in replies}
        assert outcomes.keys() == {"OutcomeUnknown", "NotDelivered"}
        assert all(error is not None and isinstance(error.__cause__, OSError) for error in outcomes.values())


async def test_deferred_casts(autojump_clock: MockClock) -> None:
    """A cast has a slot too; what is said through it goes nowhere, and a crash makes it a dead letter."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk, seen = await started(runtime), recorded(runtime)
        desk.cast_nowait(Desk.later)
        desk.cast_nowait(Desk.later)
        assert await desk.ask.do(lambda slots: [slot.wanted for slot in slots]) == [True, True]
        await desk.ask.do(lambda slots: slots[0].reply("to nobody"))
        assert desk.statistics().in_flight == 1
        await asking(nursery, desk.ask.crash).settled()
        assert kinds(seen, desk.path).count("DeadLetter") == 1


async def test_a_slot_is_taken_once(autojump_clock: MockClock) -> None:
    """Twice, or without a message in hand, is a RuntimeError."""
    async with creche.open_runtime("test") as runtime:
        desk = await started(runtime)
        assert await desk.ask.twice() == "refused"

        class Early(creche.Actor):
            def __init__(self) -> None:
                self.context.defer()

        with pytest.raises(creche.StartFailed) as caught:
            await runtime.start(creche.child(Early))
        assert isinstance(caught.value.__cause__, RuntimeError)


async def test_a_stop_waits_for_deferred_replies(autojump_clock: MockClock) -> None:
    """They were accepted: they may still be answered, until the drain time is over."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        for seconds, outcome in ((1, "value"), (100, "OutcomeUnknown")):
            desk = await started(runtime, drain=5)
            reply = asking(nursery, desk.ask.later)
            await settle()
            (slot,) = await desk.ask.do(list)

            async def answer_after(seconds: float, slot: creche.ReplySlot[str]) -> None:
                await trio.sleep(seconds)
                slot.reply("in time")

            nursery.start_soon(answer_after, seconds, slot)
            before = trio.current_time()
            await runtime.stop(desk)
            assert await reply.settled() == outcome
            assert trio.current_time() - before == min(seconds, 5)
        nursery.cancel_scope.cancel()


async def test_timers_go_on_while_a_stop_waits(autojump_clock: MockClock) -> None:
    """For it may be a timer that answers."""

    class Slow(creche.Actor):
        async def ask(self) -> str:
            slot: creche.ReplySlot[str] = self.context.defer()
            self.context.after(1, self._answer, slot)
            return slot.later()

        async def _answer(self, slot: creche.ReplySlot[str]) -> None:
            slot.reply("from a timer")

    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        slow = await runtime.start(creche.child(Slow))
        reply = asking(nursery, slow.call, Slow.ask)
        await settle()
        await runtime.stop(slow)
        assert (await reply.settled(), reply.value) == ("value", "from a timer")


async def test_an_exit_does_not_wait_for_deferred_replies(autojump_clock: MockClock) -> None:
    """An actor that ends itself takes nothing more that could answer them."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        reply = asking(nursery, desk.ask.later)
        await settle()
        await desk.ask.leave()
        with trio.fail_after(LONG):
            assert await reply.settled() == "OutcomeUnknown"


async def test_a_deferred_call_still_waits(autojump_clock: MockClock) -> None:
    """For the wait-for graph, until it is answered: calling back from a handler meanwhile is a circle."""
    async with creche.open_runtime("test") as runtime:
        desk = await started(runtime)
        caller = await runtime.start(creche.child(Caller))
        with pytest.raises(creche.PeerFailed) as caught:
            await caller.ask.call_back_from(desk, caller)
        assert isinstance(caught.value.cause.__cause__, creche.CallCycle)


async def test_a_failed_call_through_a_slot_is_peer_failed(autojump_clock: MockClock) -> None:
    """A caller never gets a NotDelivered that was about somebody else, through a slot either."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        reply = asking(nursery, desk.ask.later)
        await settle()
        await desk.ask.do(lambda slots: slots[0].fail(creche.NotDelivered("root/other", "overflow")))
        assert await reply.settled() == "PeerFailed"
        assert isinstance(reply.error, creche.PeerFailed)
        assert reply.error.origin == "root/other"


async def test_each_slot_gets_its_own_error(autojump_clock: MockClock) -> None:
    """One error given to many slots: each caller gets a copy, which leads to the original."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        desk = await started(runtime)
        replies = [asking(nursery, desk.ask.later) for _ in range(2)]
        await settle()
        error = Boom("shared")
        await desk.ask.do(lambda slots: each(slots, lambda slot: slot.fail(error)))
        first, second = [reply.error for reply in replies if await reply.settled() == "Boom"]
        assert len({id(first), id(second), id(error)}) == 3
        assert str(first) == str(second) == "shared"
