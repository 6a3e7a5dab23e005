"""Many calls at once, senders, statistics."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.core.support import Gate, Probe, asking, settle


def what(outcomes: list[Any]) -> list[str]:
    return [type(getattr(result, "error", None)).__name__ for result in outcomes]


class Sums(creche.Actor):
    """Adds, and calls others from its handler."""

    def __init__(self) -> None:
        self.total = 0

    async def add(self, value: int, factor: int = 1) -> int:
        if value < 0:
            raise creche.DomainError(1, "negative")
        self.total += value * factor
        return self.total

    async def read(self) -> int:
        return self.total

    async def ask_many(self, other: creche.Handle[Sums]) -> list[Any]:
        return await other.call_many(Sums.add, [(1,), (2,)])


async def test_call_many(autojump_clock: MockClock) -> None:
    """All outcomes, in the order of the calls; they are handled in that order too."""
    async with creche.open_runtime("test") as runtime:
        sums = await runtime.start(creche.child(Sums).options(mailbox=2))
        results = await sums.call_many(Sums.add, [(1,), (-1,), (2,), (3,)])
        assert what(results) == ["NoneType", "DomainError", "NoneType", "NoneType"]
        assert [result.unwrap() for result in results if result is not results[1]] == [1, 3, 6]
        with pytest.raises(creche.DomainError):
            results[1].unwrap()
        assert await sums.call_many(Sums.add, []) == []


async def test_call_many_is_one_outcome_for_each(autojump_clock: MockClock) -> None:
    """A crash, a full mailbox, a deadline: each of the calls has its own outcome, and its own exception."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(mailbox=2, overflow="reject"))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        nursery.start_soon(release_later, gate)
        results = await probe.call_many(Probe.crash, [("one",), ("two",), ("three",)])
        assert what(results) == ["OutcomeUnknown", "OutcomeUnknown", "NotDelivered"]
        errors: list[Any] = [getattr(result, "error", None) for result in results]
        assert errors[0] is not errors[1]
        assert str(errors[1].__cause__) == "two"

        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        late = await probe.within(1).call_many(Probe.note, [("a",), ("b",)])
        assert what(late) == ["DeadlineExceeded"] * 2
        gate.opened.set()
        await runtime.stop(probe)
        assert what(await probe.call_many(Probe.note, [("a",)])) == ["ActorStopped"]


async def release_later(gate: Gate) -> None:
    await settle()
    gate.opened.set()


async def test_call_many_that_is_cancelled(autojump_clock: MockClock) -> None:
    """What is queued is revoked; a running handler is cancelled or not, as its message says; nothing runs later."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        probe, gate = await runtime.start(creche.child(Probe)), Gate()
        many = asking(nursery, probe.call_many, Probe.wait, [(gate, "one"), (gate, "two")])
        await gate.entered.wait()
        many.scope.cancel()
        assert await many.settled() == "cancelled"
        gate.opened.set()
        assert await probe.ask.run(read_log) == []
        assert (probe.statistics().revoked, probe.statistics().incarnation) == (1, 1)

        gate = Gate()
        many = asking(nursery, probe.call_many, Probe.hold, [(gate, "finished"), (gate, "never")])
        await gate.entered.wait()
        many.scope.cancel()
        assert await many.settled() == "cancelled"
        gate.opened.set()
        assert await probe.ask.run(read_log) == ["finished"]


async def read_log(probe: Probe) -> list[str]:
    await trio.lowlevel.checkpoint()
    return list(probe.log)


async def test_call_many_that_is_cancelled_waits_for_the_unwinding(autojump_clock: MockClock) -> None:
    """As one call does: its caller leaves when the cancelled handler has unwound."""

    async def slow_to_unwind(probe: Probe) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        many = asking(nursery, probe.call_many, Probe.run_for_caller, [(slow_to_unwind,), (slow_to_unwind,)])
        await settle()
        before = trio.current_time()
        many.scope.cancel()
        assert await many.settled() == "cancelled"
        assert trio.current_time() - before == 2


async def test_call_many_with_an_overflow_that_drops(autojump_clock: MockClock) -> None:
    """A later call may push out an earlier one of the same caller; each still has one outcome."""
    async with creche.open_runtime("test") as runtime:
        for overflow, refused in (("drop_oldest", [0, 1]), ("drop_newest", [1, 2])):
            options: Any = {"mailbox": 1, "overflow": overflow}
            sums = await runtime.start(creche.child(Sums).options(**options))
            results = await sums.call_many(Sums.add, [(1,), (2,), (3,)])
            assert [index for index, kind in enumerate(what(results)) if kind == "NotDelivered"] == refused


async def test_call_many_takes_tuples(autojump_clock: MockClock) -> None:
    """A TypeError says so before anything is sent; arguments that do not fit are an outcome."""
    async with creche.open_runtime("test") as runtime:
        probe = await runtime.start(creche.child(Probe))
        wrong: Any = ["word"]
        with pytest.raises(TypeError, match="as a tuple"):
            await probe.call_many(Probe.note, wrong)
        too_many: Any = [("a", "b")]
        assert what(await probe.call_many(Probe.note, too_many)) == ["TypeError"]


async def test_call_many_makes_no_circles(autojump_clock: MockClock) -> None:
    """From a handler to its own actor it is refused as a call is, as a whole."""
    async with creche.open_runtime("test") as runtime:
        sums, other = await runtime.start(creche.child(Sums)), await runtime.start(creche.child(Sums))
        assert [result.unwrap() for result in await sums.ask.ask_many(other)] == [1, 3]
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await sums.ask.ask_many(sums)
        assert isinstance(caught.value.__cause__, creche.CallCycle)


async def test_a_sender_is_a_channel(autojump_clock: MockClock) -> None:
    """Values become casts; backpressure, closing and a stopped actor are what Trio's channels make of them."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        probe, gate = await runtime.start(creche.child(Probe).options(mailbox=2)), Gate()
        sender = probe.sender(Probe.note)
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        sender.send_nowait("a")
        await sender.send("b")
        with pytest.raises(trio.WouldBlock):
            sender.send_nowait("c")
        waiting = asking(nursery, sender.clone().send, "c")
        await settle()
        assert waiting.what == "pending"
        gate.opened.set()
        assert await waiting.settled() == "value"
        assert await probe.ask.run(read_log) == ["held", "a", "b", "c"]
        async with sender:
            pass
        for closed in (sender.clone, lambda: sender.send_nowait("d")):
            with pytest.raises(trio.ClosedResourceError):
                closed()
        with pytest.raises(trio.ClosedResourceError):
            await sender.send("d")
        sender = probe.sender(Probe.note)
        await runtime.stop(probe)
        with pytest.raises(trio.BrokenResourceError):
            await sender.send("e")
        with pytest.raises(trio.BrokenResourceError):
            sender.send_nowait("e")
        no_message: Any = Probe.__init__
        with pytest.raises(AttributeError):
            probe.sender(no_message)


async def test_statistics(autojump_clock: MockClock) -> None:
    """What an actor has done, over all its incarnations, and what waits."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        probe, gate = await runtime.start(creche.child(Probe)), Gate()
        await probe.ask.add()
        left = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        revoked, waiting = asking(nursery, probe.ask.add), asking(nursery, probe.ask.add)
        await settle()
        for reply in (left, revoked):
            reply.scope.cancel()
            await reply.settled()
        now = probe.statistics()
        assert (now.path, now.state, now.queued, now.handled, now.revoked) == ("root/probe", "running", 1, 1, 1)
        gate.opened.set()
        await waiting.settled()
        await asking(nursery, probe.ask.crash).settled()
        await probe.ask.add()
        now = probe.statistics()
        assert (now.handled, now.discarded, now.restarts, now.incarnation, now.queued) == (4, 1, 1, 2, 0)
