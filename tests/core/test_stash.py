"""The stash: messages that a handler puts aside for later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import DeadLetter, Overflowed
from tests.core.support import LONG, Boom, Gate, Probe, Reply, asking, cell_of, recorded, settle


class Door(Probe):
    """Lets in what comes when it is open, and puts aside what comes before."""

    def __init__(self, log: list[str] | None = None) -> None:
        super().__init__(log)
        self.is_open = False

    async def enter(self, name: str) -> str:
        if not self.is_open:
            self.context.stash()
        self.log.append(name)
        return f"{name} is in"

    @creche.message(on_caller_gone="cancel", raises=Exception)
    async def enter_for_caller(self, name: str) -> str:
        return await self.enter(name)

    @creche.message(concurrency=2)
    async def enter_beside(self, name: str) -> str:
        return await self.enter(name)

    @creche.message(concurrency=2)
    async def knock(self, gate: Gate, name: str) -> str:
        await gate.hold()
        if not self.is_open:
            self.context.after(1, self.open)
        return await self.enter(name)

    @creche.batched(limit=4)
    async def enter_together(self, items: Sequence[creche.BatchItem[str, str]]) -> None:
        self.context.stash()

    async def open(self) -> None:
        self.is_open = True
        self.context.unstash_all()

    async def open_then_crash(self) -> None:
        self.context.unstash_all()
        raise Boom("after it")


def waiting(door: creche.Handle[Door]) -> tuple[int, int]:
    now = door.statistics()
    return now.queued, now.stashed


async def ask_all(nursery: trio.Nursery, door: creche.Handle[Door], *names: str) -> list[Reply]:
    replies: list[Reply] = []
    for name in names:
        replies.append(asking(nursery, door.ask.enter, name))
        await settle()
    return replies


async def test_stashed_messages_come_back_in_order(autojump_clock: MockClock) -> None:
    """At the head of the mailbox, before what has come since; calls and casts alike."""
    log: list[str] = []
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        door = await runtime.start(creche.child(Door, log))
        first = await ask_all(nursery, door, "a")
        await door.cast(Door.enter, "b")
        second = await ask_all(nursery, door, "c")
        gate = Gate()
        asking(nursery, door.ask.hold, gate, "held")
        await settle()
        assert waiting(door) == (0, 3)
        door.cast_nowait(Door.open)
        door.cast_nowait(Door.enter, "d")
        gate.opened.set()
        await settle()
        assert log == ["held", "a", "b", "c", "d"]
        assert [reply.value for reply in first + second] == ["a is in", "c is in"]
        assert waiting(door) == (0, 0)


async def test_no_line_runs_after_a_stash(autojump_clock: MockClock) -> None:
    """The handler is left at once, its `with` blocks and nurseries included; and it counts as not handled."""
    log: list[str] = []

    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        door = await runtime.start(creche.child(Door, log))

        async def aside(actor: Probe) -> None:
            if "again" not in log:
                try:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(trio.sleep_forever)
                        actor.context.stash()
                finally:
                    log.append("left")

        reply = asking(nursery, door.ask.run, aside)
        await settle()
        before = door.statistics().handled
        log.append("again")
        await door.ask.open()
        await settle()
        assert (log, reply.what, before, door.statistics().handled) == (["left", "again"], "value", 0, 2)


async def test_the_stash_is_bounded(autojump_clock: MockClock) -> None:
    """What finds no room is `StashFull` for its caller, and a dead letter if it is a cast; the actor lives."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        door = await runtime.start(creche.child(Door).options(stash=2))
        await ask_all(nursery, door, "a", "b")
        with pytest.raises(creche.StashFull, match="not delivered") as refused:
            await door.ask.enter("c")
        assert (refused.value.path, refused.value.reason, refused.value.capacity) == ("root/door", "overflow", 2)
        await door.cast(Door.enter, "d")
        await settle()
        assert [event.policy for event in seen if isinstance(event, Overflowed)] == ["stash", "stash"]
        assert [(event.message, event.reason) for event in seen if isinstance(event, DeadLetter)] == [
            ("enter", "overflow")
        ]
        assert (door.statistics().incarnation, waiting(door)) == (1, (0, 2))
        await door.ask.open()


async def test_a_stashed_call_can_be_revoked(autojump_clock: MockClock) -> None:
    """Its caller leaves at once, as from the mailbox; it never runs, and holds no room."""
    log: list[str] = []
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        door = await runtime.start(creche.child(Door, log).options(stash=2))
        replies = await ask_all(nursery, door, "a", "b")
        replies[0].scope.cancel()
        assert await replies[0].settled() == "cancelled"
        assert waiting(door) == (0, 1)
        await ask_all(nursery, door, "c")
        await door.ask.open()
        await settle()
        assert (log, door.statistics().revoked) == (["b", "c"], 1)


async def test_revoked_calls_do_not_pile_up_in_the_stash(autojump_clock: MockClock) -> None:
    """However many of their callers give up."""
    async with creche.open_runtime("test") as runtime:
        door = await runtime.start(creche.child(Door))
        for number in range(500):
            with trio.move_on_after(1):
                await door.ask.enter(str(number))
        stash = cell_of(door)._stash
        assert stash is not None
        assert (len(stash), len(stash._items) < 80, door.statistics().revoked) == (0, True, 500)


async def test_a_deadline_goes_on_in_the_stash(autojump_clock: MockClock) -> None:
    """Out of time there: `DeadlineExceeded(delivered=False)`; a cast expires."""
    log: list[str] = []
    async with creche.open_runtime("test") as runtime:
        door = await runtime.start(creche.child(Door, log))
        await door.within(expires=3).cast(Door.enter, "cast")
        await door.within(expires=3).cast(Door.enter_beside, "beside")
        with pytest.raises(creche.DeadlineExceeded) as late:
            await door.within(2).call(Door.enter, "a")
        assert not late.value.delivered
        assert waiting(door) == (0, 2)
        await trio.sleep(2)
        await door.ask.open()
        await settle()
        assert (log, waiting(door)) == ([], (0, 0))


@pytest.mark.parametrize("end", ["crash", "kill", "exit", "unstashed"])
async def test_stashed_messages_survive_a_crash(autojump_clock: MockClock, end: str) -> None:
    """They are mail that waits: they go to the head of the mailbox, in order; the successor decides anew."""
    log: list[str] = []
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        door = await runtime.start(creche.child(Door, log))
        replies = await ask_all(nursery, door, "a", "b")
        gate = Gate()
        holds = asking(nursery, door.ask.hold, gate)
        await settle()
        late = asking(nursery, door.ask.enter, "c")
        await settle()

        async def leave(actor: Probe) -> None:
            actor.context.exit()

        if end == "kill":
            runtime.kill(door, "between stash and unstash")
        else:
            actions = {"crash": door.ask.crash, "unstashed": door.ask.open_then_crash}
            asking(nursery, actions[end]) if end in actions else asking(nursery, door.ask.run, leave)
            gate.opened.set()
        await settle()
        assert (door.statistics().incarnation, waiting(door)) == (2, (0, 3))
        await door.ask.open()
        await settle()
        assert [reply.what for reply in [*replies, late]] == ["value"] * 3
        assert log == (["a", "b", "c"] if end == "kill" else ["held", "a", "b", "c"])
        assert holds.what == ("OutcomeUnknown" if end == "kill" else "value")


async def test_a_graceful_stop_waits_for_the_stash(autojump_clock: MockClock) -> None:
    """Until the drain time is over: what brings it back may be a timer. Then its callers are told that it is closed."""
    log: list[str] = []
    for delay, fate in ((2, "value"), (LONG, "NotDelivered")):
        async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
            door = await runtime.start(creche.child(Door, log).options(drain=5))

            async def later(actor: Probe, delay: float = delay) -> None:
                actor.context.after(delay, cast("Door", actor).open)

            await door.ask.run(later)
            replies = await ask_all(nursery, door, "a", "b")
            began = trio.current_time()
            await runtime.stop(door)
            await settle()
            assert [reply.what for reply in replies] == [fate, fate]
            assert trio.current_time() - began == min(delay, 5)


async def test_a_graceful_stop_waits_for_what_is_put_aside_meanwhile(autojump_clock: MockClock) -> None:
    """By a concurrent message that was in flight when the stop began."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        door, gate = await runtime.start(creche.child(Door)), Gate()
        reply = asking(nursery, door.ask.knock, gate, "a")
        await gate.entered.wait()
        nursery.start_soon(runtime.stop, door)
        await settle()
        gate.opened.set()
        assert (await reply.settled(), reply.value) == ("value", "a is in")
        assert trio.current_time() == 1


async def test_a_stop_that_waits_for_a_stash_ends_when_its_callers_have_left(autojump_clock: MockClock) -> None:
    """Nothing is left to be drained then."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        door = await runtime.start(creche.child(Door).options(drain=5))
        replies = await ask_all(nursery, door, "a")
        began = trio.current_time()
        stop = asking(nursery, runtime.stop, door)
        await trio.sleep(1)
        replies[0].scope.cancel()
        assert await stop.settled() == "value"
        assert trio.current_time() - began == 1


async def test_a_stashed_call_still_waits(autojump_clock: MockClock) -> None:
    """For the wait-for graph it waits for the actor's handler: a circle through a stash is a `CallCycle`."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        door = await runtime.start(creche.child(Door))
        guest = await runtime.start(creche.child(Probe))

        async def knock(_: Probe) -> str:
            return await door.ask.enter("guest")

        knocking = asking(nursery, guest.ask.run, knock)
        await settle()
        assert str(runtime.wait_for_graph()) == "root/probe --enter--> root/door  [taken]"

        async def call_guest(_: Probe) -> int:
            return await guest.ask.add()

        with pytest.raises(creche.OutcomeUnknown) as caught:
            await door.ask.run(call_guest)
        assert isinstance(caught.value.__cause__, creche.CallCycle)
        await door.ask.open()
        await settle()
        assert knocking.value == "guest is in"


async def test_concurrent_messages_can_be_stashed(autojump_clock: MockClock) -> None:
    """As serial ones."""
    log: list[str] = []
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        door = await runtime.start(creche.child(Door, log))
        replies = [asking(nursery, door.ask.enter_beside, name) for name in "abc"]
        await settle()
        assert waiting(door) == (0, 3)
        replies[1].scope.cancel()
        await settle()
        await door.ask.open()
        await settle()
        assert sorted(reply.what for reply in replies) == ["cancelled", "value", "value"]


async def test_many_calls_can_be_stashed(autojump_clock: MockClock) -> None:
    """Each of `call_many` has its own outcome."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        door = await runtime.start(creche.child(Door).options(stash=2))
        many = asking(nursery, door.call_many, Door.enter, [("a",), ("b",), ("c",)])
        await settle()
        await door.ask.open()
        await settle()
        assert [type(one).__name__ for one in many.value] == ["Value", "Value", "Error"]


@pytest.mark.parametrize("name", ["enter", "enter_for_caller"])
async def test_a_caller_that_goes_in_the_moment_of_the_stash(autojump_clock: MockClock, name: str) -> None:
    """Whatever the message declares: it never runs, and its caller leaves; declaring all errors does not catch it."""
    log: list[str] = []
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:

        class Slow(Door):
            async def enter(self, name: str) -> str:
                try:
                    await trio.sleep(5)
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(1)
                    self.context.stash()

        door = await runtime.start(creche.child(Slow, log))
        reply = asking(nursery, getattr(door.ask, name), "a")
        await trio.sleep(2)
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        await trio.sleep(10)
        await door.ask.open()
        assert (log, waiting(door), door.statistics().incarnation) == ([], (0, 0), 1)


async def test_what_cannot_be_stashed(autojump_clock: MockClock) -> None:
    """A batch, a deferred reply, a timer, background work: RuntimeError."""
    async with creche.open_runtime("test") as runtime:
        door = await runtime.start(creche.child(Door))
        errors: list[str] = []

        async def try_it(actor: Probe) -> None:
            try:
                actor.context.stash()
            except RuntimeError as error:
                errors.append(str(error))

        async def defer(actor: Probe) -> None:
            slot: creche.ReplySlot[None] = actor.context.defer()
            await try_it(actor)
            slot.reply(None)

        async def elsewhere(actor: Probe) -> None:
            actor.context.after(1, try_it, actor)
            actor.context.spawn(try_it, actor)

        await door.ask.run(defer)
        await door.ask.run(elsewhere)
        await trio.sleep(2)
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await door.ask.enter_together("x")
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert [error.partition(": ")[2] for error in errors] == [
            "the reply slot has been taken, so the message cannot be stashed",
            "there is no message in hand that could be stashed",
            "there is no message in hand that could be stashed",
        ]


async def test_workers_of_a_pool_have_no_stash(autojump_clock: MockClock) -> None:
    """Their pool's messages are for whoever comes first: RuntimeError."""
    async with creche.open_runtime("test") as runtime:
        doors = await runtime.start(creche.pool("doors", creche.child(Door), size=2))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await doors.ask.enter("a")
        assert "a worker has no stash" in str(caught.value.__cause__)


async def test_a_stash_that_is_caught_is_a_message_handled(autojump_clock: MockClock) -> None:
    """Nothing is put aside then; what the handler returns is the answer."""
    async with creche.open_runtime("test") as runtime:
        door = await runtime.start(creche.child(Door))

        async def swallow(actor: Probe) -> str:
            try:
                actor.context.stash()
            except Exception:
                return "handled"

        assert await door.ask.run(swallow) == "handled"
        assert waiting(door) == (0, 0)


async def test_a_stuck_cell_answers_for_the_stash(autojump_clock: MockClock) -> None:
    """As for what waits in the mailbox; casts stay."""
    log: list[str] = []
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        door = await runtime.start(creche.child(Door, log).options(unwind_grace=1))
        await door.cast(Door.enter, "cast")
        replies = await ask_all(nursery, door, "a")

        async def hang(_: Probe) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)

        with pytest.raises(creche.OutcomeUnknown), trio.move_on_after(1):
            await door.ask.run_for_caller(hang)
        assert (await replies[0].settled(), waiting(door)) == ("NotDelivered", (0, 1))
        await trio.sleep(20)
        await door.ask.open()
        await settle()
        assert log == ["cast"]
