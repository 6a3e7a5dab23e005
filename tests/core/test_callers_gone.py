"""Callers that leave: cancelled or out of time, with their request in each of its states."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.events import Stuck
from creche.runtime.node import State
from tests.core.support import Boom, Gate, Probe, asking, cell_of, recorded, settle


async def stubborn(probe: Probe) -> str:
    """A handler that takes 100 s to unwind."""
    with trio.CancelScope(shield=True):
        await trio.sleep(100)
    await trio.lowlevel.checkpoint()
    return "not reached when cancelled"


async def test_revoked_when_queued() -> None:
    """A caller that is cancelled while its request waits leaves at once, and the request never runs."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        queued = asking(nursery, probe.ask.note, "revoked")
        after = asking(nursery, probe.ask.note, "kept")
        await settle()
        queued.scope.cancel()
        assert await queued.settled() == "cancelled"
        gate.opened.set()
        await after.settled()
        assert sorted(log) == ["held", "kept"]
        assert cell_of(probe).revoked == 1


async def test_revoked_while_waiting_for_room() -> None:
    """The same for a request that waits for room in a full mailbox; those behind it move up."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=1))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        replies = []
        for word in ("1", "2", "3"):
            replies.append(asking(nursery, probe.ask.note, word))
            await settle()
        replies[1].scope.cancel()
        assert await replies[1].settled() == "cancelled"
        gate.opened.set()
        await replies[2].settled()
        assert log == ["held", "1", "3"]


async def test_revoked_in_the_same_tick_as_its_turn() -> None:
    """A request that is revoked when its actor has been woken for it already does not run either."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log))
        for _ in range(20):
            reply = asking(nursery, probe.ask.note, "late")
            await trio.lowlevel.checkpoint()
            reply.scope.cancel()
            await reply.settled()
            ran = len(log)
            assert (reply.what, ran) in {("value", 1), ("cancelled", 0), ("cancelled", 1)}
            await probe.ask.life()
            assert len(log) == ran
            log.clear()


async def test_finish_lets_the_caller_leave_at_once() -> None:
    """By default a running handler goes on when its caller is cancelled; the caller does not wait for it."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log))
        gate = Gate()
        reply = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        assert log == []
        gate.opened.set()
        await probe.ask.life()
        assert log == ["held"]


async def test_cancel_waits_for_the_handler_to_unwind(autojump_clock: MockClock) -> None:
    """With on_caller_gone="cancel" the handler is cancelled, and the caller leaves when it has unwound; the
    actor lives."""
    log: list[str] = []

    async def body(probe: Probe) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
            log.append("unwound")

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        reply = asking(nursery, probe.ask.run_for_caller, body)
        await settle()
        began = trio.current_time()
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        assert trio.current_time() - began == 2
        assert log == ["unwound"]
        assert await probe.ask.life() == 1


async def test_cancel_hits_only_its_message() -> None:
    """A cancel that comes when its handler is done already does not hit the next message."""

    async def unaware(probe: Probe) -> str:
        with trio.CancelScope(shield=True):
            await gate.hold()
        return "done"

    async def sensitive(probe: Probe) -> str:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        return "unharmed"

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        for _ in range(3):
            gate = Gate()
            first = asking(nursery, probe.ask.run_for_caller, unaware)
            await gate.entered.wait()
            following = [asking(nursery, probe.ask.run_for_caller, sensitive) for _ in range(2)]
            await settle()
            first.scope.cancel()
            await settle()
            gate.opened.set()
            assert await first.settled() in ("value", "cancelled")
            assert [await reply.settled() for reply in following] == ["value", "value"]
        assert await probe.ask.life() == 1


async def test_a_swallowed_cancel_returns_its_value() -> None:
    """A handler that finishes although it was cancelled gives its caller the value: the first transition is
    the outcome."""

    async def body(probe: Probe) -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            pass
        return "in time"

    values: list[str] = []

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))

        async def caller() -> None:
            values.append(await probe.ask.run_for_caller(body))

        reply = asking(nursery, caller)
        await settle()
        reply.scope.cancel()
        await reply.settled()
        assert values == ["in time"]
        assert await probe.ask.life() == 1


async def test_a_crash_while_unwinding_is_a_crash() -> None:
    """An undeclared error in the cleanup of a cancelled handler crashes the incarnation; its caller is told."""

    async def body(probe: Probe) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise Boom("in cleanup")

    errors: list[Exception] = []

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        seen = recorded(runtime)

        async def caller() -> None:
            try:
                await probe.ask.run_for_caller(body)
            except creche.OutcomeUnknown as error:
                errors.append(error)

        reply = asking(nursery, caller)
        await settle()
        reply.scope.cancel()
        await reply.settled()
        assert repr(errors[0].__cause__) == "Boom('in cleanup')"
        assert await probe.ask.life() == 2
        assert [event.error for event in seen if isinstance(event, events.Crashed)] == ["Boom: in cleanup"]


async def test_unwound_too_late_is_outcome_unknown(autojump_clock: MockClock) -> None:
    """A caller waits at most `unwind_grace` for its cancelled handler; then OutcomeUnknown, and the cell is stuck."""
    errors: list[Exception] = []

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(unwind_grace=3))

        async def caller() -> None:
            try:
                await probe.ask.run_for_caller(stubborn)
            except creche.OutcomeUnknown as error:
                errors.append(error)

        reply = asking(nursery, caller)
        await settle()
        began = trio.current_time()
        reply.scope.cancel()
        await reply.settled()
        assert trio.current_time() - began == 3
        assert len(errors) == 1
        assert runtime.tree().find("root/probe").stuck
        stuck = [event for event in seen if isinstance(event, Stuck)]
        assert "stubborn" in stuck[0].stack


async def test_stuck_rejects_at_once(autojump_clock: MockClock) -> None:
    """A stuck cell refuses calls and casts at once with NotDelivered("stuck", retry_after)."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(unwind_grace=3))
        with pytest.raises(creche.OutcomeUnknown):
            await probe.within(1).ask.run_for_caller(stubborn)
        began = trio.current_time()
        with pytest.raises(creche.NotDelivered) as caught:
            await probe.ask.life()
        assert (caught.value.reason, caught.value.retry_after) == ("stuck", 3)
        with pytest.raises(creche.NotDelivered):
            probe.cast_nowait(Probe.add)
        assert trio.current_time() == began


async def test_stuck_answers_who_waits(autojump_clock: MockClock) -> None:
    """Requests that wait when the cell gets stuck are answered with NotDelivered, not left hanging."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(unwind_grace=3))
        first = asking(nursery, probe.within(1).ask.run_for_caller, stubborn)
        await settle()
        queued = asking(nursery, probe.ask.life)
        await first.settled()
        await settle()
        assert queued.what == "NotDelivered"


async def test_stuck_ends_when_the_handler_does(autojump_clock: MockClock) -> None:
    """When the handler unwinds at last, the same incarnation takes messages again, under their own deadlines only."""
    deadlines: list[float] = []

    class Looking(Probe):
        async def look(self) -> None:
            deadlines.append(creche.current_deadline())

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Looking))
        with pytest.raises(creche.OutcomeUnknown):
            await probe.within(1).ask.run_for_caller(stubborn)
        await trio.sleep(150)
        probe.cast_nowait(Looking.look)
        assert await probe.ask.life() == 1
        assert not runtime.tree().find(probe.path).stuck
        assert deadlines == [float("inf")]


async def test_casts_are_not_tied_to_their_sender() -> None:
    """A cast that has been accepted is handled although its sender is cancelled."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()

        async def sender() -> None:
            await probe.cast(Probe.note, "cast")
            await trio.sleep_forever()

        sending = asking(nursery, sender)
        await settle()
        sending.scope.cancel()
        await sending.settled()
        gate.opened.set()
        await probe.ask.life()
        assert log == ["held", "cast"]


@pytest.mark.parametrize("state", ["paused", "down", "stopped"])
async def test_cancelled_while_the_actor_is_down(state: str, autojump_clock: MockClock) -> None:
    """A caller that waits for an actor between two incarnations can be cancelled, and its request never runs."""
    log: list[str] = []
    backoff = creche.Backoff(first=5, free=0, jitter=0)
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(backoff=backoff, down_wait=100))
        runtime.kill(probe, "down")
        await cell_of(probe).wait_for(State.DOWN)
        reply = asking(nursery, probe.ask.note, "revoked")
        await settle()
        if state == "stopped":
            await runtime.stop(probe)
            assert await reply.settled() in ("NotDelivered", "ActorStopped")
            return
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        await trio.sleep(10)
        assert await probe.ask.life() == 2
        assert log == []


@pytest.mark.parametrize("message", ["hold", "wait"])
async def test_cancel_and_deadline_together(message: str, autojump_clock: MockClock) -> None:
    """When the deadline and the caller's cancel come at one moment there is still one outcome, and the actor
    goes on."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        for _ in range(10):
            gate = Gate()
            reply = asking(nursery, getattr(probe.within(1).ask, message), gate)
            await gate.entered.wait()
            reply.scope.deadline = trio.current_time() + 1
            assert await reply.settled() in ("cancelled", "DeadlineExceeded")
            gate.opened.set()
            assert await probe.ask.life() == 1


async def test_cancel_first_then_deadline(autojump_clock: MockClock) -> None:
    """A caller that is cancelled while its handler unwinds from the deadline leaves as cancelled, and the
    other way round."""

    async def slow(probe: Probe) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        for deadline, cancel in ((1, 2), (2, 1)):
            reply = asking(nursery, probe.within(deadline).ask.run_for_caller, slow)
            reply.scope.deadline = trio.current_time() + cancel
            assert await reply.settled() == "cancelled"
        assert await probe.ask.life() == 1


async def test_an_answer_while_unwinding_is_an_answer() -> None:
    """A declared error that leaves a cancelled handler in one group with the cancellation is told to the caller."""

    async def body(probe: Probe) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise creche.DomainError(1, "declared")

    errors: list[Exception] = []
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        async with trio.open_nursery() as nursery:

            async def caller() -> None:
                try:
                    await probe.ask.run_for_caller(body)
                except creche.DomainError as error:
                    errors.append(error)

            nursery.start_soon(caller)
            await settle()
            nursery.cancel_scope.cancel()
        assert len(errors) == 1
        assert await probe.ask.life() == 1
