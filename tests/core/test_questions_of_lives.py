"""The hard questions of the design notes, second part: Q8, Q10, Q12 to Q14, Q21 and Q22. See test_questions.py."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.errors import IncarnationEnded
from creche.runtime.node import State
from creche.supervisors.spec import supervisor
from tests.core.support import Boom, Gate, Probe, asking, cell_of, kinds, reach, recorded, settle

MANY = creche.Intensity(10_000, 1)
AT_ONCE = creche.Backoff(free=10_000)


async def failing(error: BaseException) -> None:
    raise error


async def in_a_nursery(*errors: BaseException) -> None:
    """Raises them in one group, together with the cancellation of a task that waits."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        for error in errors:
            nursery.start_soon(failing, error)


# --- Q8: a full mailbox ---------------------------------------------------------------------------


class Echo(Probe):
    """Answers each cast with two."""

    def __init__(self) -> None:
        super().__init__()
        self.other: creche.Handle[Echo] | None = None

    async def meet(self, other: creche.Handle[Echo]) -> None:
        self.other = other

    async def echo(self) -> None:
        assert self.other is not None
        for _ in range(2):
            await self.other.cast(Echo.echo)


async def test_q08_two_that_amplify_each_other_do_not_deadlock(autojump_clock: MockClock) -> None:
    """With a bound of one, both would wait for room at the other's: one of them is refused, and both stay reachable."""
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        seen = recorded(runtime)
        backoff = creche.Backoff(first=1, factor=1, free=0)
        echoes = [await runtime.start(creche.child(Echo).options(mailbox=1, backoff=backoff)) for _ in range(2)]
        for one, other in zip(echoes, reversed(echoes), strict=True):
            await one.ask.meet(other)
        await echoes[0].cast(Echo.echo)
        await trio.sleep(10)
        assert any(isinstance(event, events.Crashed) and "CallCycle" in event.error for event in seen)
        for one in echoes:
            with trio.fail_after(10):
                await one.ask.life()


async def test_q08_a_refusal_does_not_restart_the_sender() -> None:
    """A handler that is refused by a full mailbox lives on; its own caller learns that a peer failed."""
    async with creche.open_runtime("t", intensity=creche.Intensity(0, 1)) as runtime, trio.open_nursery() as nursery:
        full = await runtime.start(creche.child(Probe).options(mailbox=1))
        gate = Gate()
        asking(nursery, full.ask.hold, gate)
        await settle()
        full.cast_nowait(Probe.add)

        async def tell(probe: Probe) -> None:
            full.cast_nowait(Probe.add)

        sender = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.PeerFailed) as caught:
            await sender.ask.run(tell)
        assert isinstance(caught.value.cause, creche.MailboxFull)
        sender.cast_nowait(Probe.run, tell)
        assert await sender.ask.life() == 1
        gate.opened.set()


@pytest.mark.parametrize("control", ["kill", "stop", "background failure", "exit"])
async def test_q08_control_needs_no_room(control: str) -> None:
    """Kill, stop, exit and the failure of background work reach an actor whose mailbox is full, before its mail."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Probe).options(mailbox=1, drain=0))
        gate = Gate()
        first = asking(nursery, actor.ask.hold, gate)
        await gate.entered.wait()
        waiting = [asking(nursery, actor.ask.life) for _ in range(3)]
        await settle()
        if control == "kill":
            runtime.kill(actor, "now")
        elif control == "stop":
            nursery.start_soon(runtime.stop, actor)
        elif control == "exit":
            cell_of(actor).exit()
            gate.opened.set()
        else:
            cell_of(actor).companion().spawn(failing, (Boom("in the background"),))
        assert await first.settled() == ("value" if control == "exit" else "OutcomeUnknown")
        expected = ("NotDelivered", None) if control == "stop" else ("value", 2)
        assert [(await reply.settled(), reply.value) for reply in waiting] == [expected] * 3


# --- Q10: brutal kill -----------------------------------------------------------------------------


async def deaf(_probe: Probe, swallowed: int = 1001) -> int:
    """Swallows that many cancellations, ten milliseconds apart."""
    count = 0
    while count < swallowed:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            count += 1
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
    return count


async def test_q10_who_swallows_its_cancellation_is_named_with_its_stack(autojump_clock: MockClock) -> None:
    """Trio cannot end a task that swallows Cancelled: it is reported with path and stack, and waited for."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(drain=1, shutdown=3))
        probe.cast_nowait(Probe.run, deaf)
        await settle()
        await runtime.stop(probe)
        assert 10 < trio.current_time() - 1 < 11
        [unstopped] = runtime.unstopped
        assert unstopped.path == probe.path
        assert "in deaf" in unstopped.stack
        [event] = [event for event in seen if isinstance(event, events.Unstopped)]
        assert event.time == 4


async def test_q10_who_swallows_the_cancel_of_its_caller_is_stuck(autojump_clock: MockClock) -> None:
    """A handler that does not unwind for its caller is told with its stack, and its mailbox closed until it does."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(unwind_grace=2))
        reply = asking(nursery, probe.within(1).ask.run_for_caller, deaf)
        assert await reply.settled() == "OutcomeUnknown"
        assert trio.current_time() == 3
        [stuck] = [event for event in seen if isinstance(event, events.Stuck)]
        assert "in deaf" in stuck.stack
        with pytest.raises(creche.NotDelivered):
            await probe.ask.life()
        await trio.sleep(20)
        assert await probe.ask.life() == 1


# --- Q12: whose Cancelled, whose deadline? --------------------------------------------------------


async def test_q12_a_timeout_inside_a_handler_is_an_error_of_the_handler(autojump_clock: MockClock) -> None:
    """TooSlowError of an inner `fail_after` is no stop and no deadline of the caller: it is an undeclared error."""

    async def body(probe: Probe) -> None:
        with trio.fail_after(1):
            await trio.sleep_forever()

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await probe.within(5).ask.run(body)
        assert type(caught.value.__cause__) is trio.TooSlowError
        assert await probe.ask.life() == 2


async def test_q12_a_scope_of_the_handler_ends_at_the_handler() -> None:
    """A handler may cancel scopes and nurseries of its own: nothing else is cancelled by it."""

    async def body(probe: Probe) -> str:
        with trio.CancelScope() as own:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                own.cancel()
        await trio.lowlevel.checkpoint()
        return "went on"

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        assert await probe.ask.run(body) == "went on"
        assert await probe.ask.life() == 1


@pytest.mark.parametrize("swallowed", [False, True])
async def test_q12_a_cancel_that_nobody_asked_for_is_a_crash(swallowed: bool) -> None:
    """An actor that is cancelled by a scope of its own lifespan was not stopped: that is a crash, and it restarts."""

    class Confused(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            with trio.CancelScope() as self.scope:
                try:
                    yield
                except trio.Cancelled:
                    if not swallowed:
                        raise

        async def cancel_myself(self) -> None:
            self.scope.cancel()
            await trio.sleep_forever()

    async with creche.open_runtime("t") as runtime:
        confused = await runtime.start(creche.child(Confused))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await confused.ask.cancel_myself()
        assert isinstance(caught.value.__cause__, IncarnationEnded)
        assert await confused.ask.life() == 2


async def test_q12_a_kill_stays_a_kill(autojump_clock: MockClock) -> None:
    """Whatever a handler makes of the cancellation of a kill, timeouts included, the crash is Killed(reason)."""

    async def other_error(probe: Probe) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise trio.TooSlowError

    async def value(probe: Probe) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            pass

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe))
        for body in (other_error, value):
            asking(nursery, probe.ask.run, body)
            await settle()
            runtime.kill(probe, "on purpose")
            await probe.ask.life()
        assert [event.error for event in seen if isinstance(event, events.Crashed)] == [
            "Killed: killed: on purpose"
        ] * 2


# --- Q13: ExceptionGroups -------------------------------------------------------------------------


@pytest.mark.parametrize("defects", [[Boom("b")], [Boom("b"), Boom("c")], [ExceptionGroup("deeper", [Boom("b")])]])
async def test_q13_the_strictest_decides_in_a_mixed_group(defects: list[Exception]) -> None:
    """An answer that comes in a group with a defect does not hide it: the actor crashes, and the cause is all of it."""

    async def body(probe: Probe) -> None:
        raise ExceptionGroup("mixed", [creche.DomainError(1, "a"), *defects])

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await probe.ask.run(body)
        assert isinstance(caught.value.__cause__, ExceptionGroup)
        assert len(caught.value.__cause__.exceptions) == 1 + len(defects)
        assert await probe.ask.life() == 2


async def test_q13_a_group_of_answers_is_an_answer() -> None:
    """Two calls at once to a peer that is gone are no defect of the actor that made them: PeerFailed, and it lives."""
    async with creche.open_runtime("t", intensity=creche.Intensity(0, 1)) as runtime:
        gone = await runtime.start(creche.child(Probe).options(name="gone"))
        await runtime.stop(gone)

        async def fan_out(probe: Probe) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gone.ask.life)
                nursery.start_soon(gone.ask.add)

        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.PeerFailed) as caught:
            await probe.ask.run(fan_out)
        assert caught.value.origin == gone.path
        assert await probe.ask.life() == 1


async def test_q13_an_error_that_nurseries_wrapped_is_judged_as_itself() -> None:
    """The one error that comes out of nested nurseries, cancellations beside it, matches as if it had been raised."""

    async def body(probe: Probe) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_a_nursery, creche.DomainError(1, "deep"))
            await trio.sleep_forever()

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.DomainError, match="deep"):
            await probe.ask.run(body)
        assert await probe.ask.life() == 1


async def test_q13_history_keeps_no_frames_alive() -> None:
    """What stood in the frames of a crash is gone once its caller has let go of the error."""

    class Big:
        pass

    seen: list[weakref.ref[Big]] = []

    async def body(probe: Probe) -> None:
        big = Big()
        seen.append(weakref.ref(big))
        await in_a_nursery(Boom("one"), Boom("two"))

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        try:
            await probe.ask.run(body)
        except creche.OutcomeUnknown:
            pass
        assert await probe.ask.life() == 2
        gc.collect()
        assert [ref() for ref in seen] == [None]
        assert len(cell_of(probe).history or ()) == 1


# --- Q14: an error during a cancel ----------------------------------------------------------------


class Messy(Probe):
    """Raises in every cleanup that it is given, in nested nurseries too."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.context.spawn(self._mess)
        try:
            yield
        finally:
            if self.context.incarnation == 1:
                raise Boom("in the lifespan")

    async def _mess(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                if self.context.incarnation == 1:
                    raise Boom("in a task")

    async def mess(self) -> None:
        await self._mess()


@pytest.mark.parametrize("busy", [False, True])
async def test_q14_errors_during_a_kill_are_part_of_that_one_crash(busy: bool) -> None:
    """A kill whose victim raises in all its cleanups is one crash, charged once; what was raised is told in it."""
    async with creche.open_runtime("t", intensity=creche.Intensity(1, 100)) as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        messy = await runtime.start(creche.child(Messy))
        if busy:
            asking(nursery, messy.ask.mess)
        await settle()
        runtime.kill(messy, "now")
        assert await messy.ask.life() == 2
        [crash] = [event for event in seen if isinstance(event, events.Crashed)]
        assert crash.error == "Killed: killed: now"
        assert "Boom: in the lifespan" in crash.detail


@pytest.mark.parametrize("busy", [False, True])
async def test_q14_errors_during_a_stop_reach_the_stop(busy: bool, autojump_clock: MockClock) -> None:
    """A stop whose victim raises in all its cleanups ends in stopped: a BadStop, no crash, no restart, no charge."""
    rules = creche.Intensity(0, 100)
    async with creche.open_runtime("t", intensity=rules) as runtime, trio.open_nursery() as nursery:
        messy = await runtime.start(creche.child(Messy))
        if busy:
            asking(nursery, messy.ask.mess)
        await settle()
        seen = recorded(runtime)
        await runtime.stop(messy)
        assert kinds(seen, messy.path) == ["BadStop", "Stopped"]
        assert cell_of(messy).state is State.STOPPED
        bad = next(event for event in seen if isinstance(event, events.BadStop))
        assert "Boom: in the lifespan" in bad.detail


# --- Q21: state across a restart ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["crash", "kill", "exit", "group", "supervisor"])
async def test_q21_each_life_is_a_fresh_object_of_the_same_arguments(how: str) -> None:
    """However an incarnation ends, the next one is constructed anew from the spec: never the live object again."""
    made: list[weakref.ref[Probe]] = []

    class Counting(Probe):
        def __init__(self, log: list[str]) -> None:
            super().__init__(log)
            made.append(weakref.ref(self))

    log: list[str] = []
    first = creche.child(Probe).options(name="first")
    sub = supervisor("sub", first, creche.child(Counting, log), strategy="rest_for_one")
    async with creche.open_runtime("t", root=supervisor("root", sub)) as runtime:
        recorded(runtime)  # with nobody told, the crash would be logged, and a log's record keeps its frames
        counting = reach(runtime, "root/sub/counting", Counting)
        assert [await counting.ask.add(), await counting.ask.add()] == [1, 2]
        match how:
            case "crash":
                counting.cast_nowait(Probe.crash)
            case "kill":
                runtime.kill(counting, "now")
            case "exit":
                cell_of(counting).exit()
            case "group":
                runtime.kill("root/sub/first", "now")
                await settle()
            case _:
                runtime.kill("root/sub", "now")
        assert await counting.ask.add() == 1
        gc.collect()
        assert len(made) == 2
        assert made[0]() is None
        second = made[1]()
        assert second is not None
        assert second.log is log


# --- Q22: atomicity under cancellation ------------------------------------------------------------


@pytest.mark.parametrize("end", ["kill", "exit", "stop", "crash"])
@pytest.mark.parametrize("pause", [0, 1, 2, 3])
async def test_q22_no_message_gets_lost_between_queue_and_hand(end: str, pause: int) -> None:
    """Ends at any moment among casts: each accepted cast is handled once, or is one dead letter."""
    log: list[str] = []
    sent = 0
    async with creche.open_runtime("t", intensity=MANY) as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe, log).options(backoff=AT_ONCE))
        for _ in range(20):
            for _ in range(5):
                try:
                    probe.cast_nowait(Probe.note, str(sent))
                    sent += 1
                except creche.CallFailed:
                    assert end == "stop"
            for _ in range(pause):
                await trio.lowlevel.checkpoint()
            if end == "kill":
                runtime.kill(probe, "now")
            elif end == "exit":
                cell_of(probe).exit()
            elif end == "stop":
                nursery.start_soon(runtime.stop, probe)
            else:
                cell_of(probe).condemn(Boom("as of background work"))
        await settle()
        lost = [event.message for event in seen if isinstance(event, events.DeadLetter)]
        assert len(log) == len(set(log))
        assert len(log) + len(lost) == sent


@pytest.mark.parametrize("pause", [0, 1, 2])
@pytest.mark.parametrize("cancel_first", [False, True])
async def test_q22_a_cast_is_accepted_or_cancelled_never_both(cancel_first: bool, pause: int) -> None:
    """A cast that is cancelled in the tick in which there is room returns if, and only if, it will be handled."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=1))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        probe.cast_nowait(Probe.note, "before")
        cast = asking(nursery, probe.cast, Probe.note, "contended")
        await settle()
        for step in (cast.scope.cancel, gate.opened.set) if cancel_first else (gate.opened.set, cast.scope.cancel):
            step()
            for _ in range(pause):
                await trio.lowlevel.checkpoint()
        what = await cast.settled()
        await probe.ask.life()
        assert ("contended" in log) is (what == "value")
