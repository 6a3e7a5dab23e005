"""The traps that were found when the core was measured, each with the test that would fall into it.

The numbers are those of the list in the design notes; those that concern pools and batches come with them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.context import baggage, carrying
from creche.runtime.handling import BATCH
from tests.core.support import Boom, Gate, Probe, asking, cell_of, recorded, settle

ROOT = Path(__file__).resolve().parents[2]
MANY = creche.Intensity(10_000, 1)
AT_ONCE = creche.Backoff(free=10_000)


async def test_trap_01_cancelled_callers_leave_no_garbage() -> None:
    """Three hundred callers that gave up neither block a live one nor run later, and hold little."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=100))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        callers = [asking(nursery, probe.ask.note, "garbage") for _ in range(300)]
        await settle()
        for caller in callers:
            caller.scope.cancel()
        await settle()
        cell = cell_of(probe)
        assert cell.queued == 0
        assert len(cell._mailbox.queue) <= 50
        probe.cast_nowait(Probe.note, "live")
        gate.opened.set()
        await probe.ask.life()
        assert log == ["held", "live"]


@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 64, 100])
async def test_trap_01_a_mailbox_of_the_dead_is_not_full(capacity: int) -> None:
    """Tombstones take no room, however small the mailbox: when all callers have left, the whole capacity is free."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(mailbox=capacity))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        callers = [asking(nursery, probe.ask.add) for _ in range(capacity)]
        await settle()
        for caller in callers:
            caller.scope.cancel()
        await settle()
        for _ in range(capacity):
            probe.cast_nowait(Probe.add)
        with pytest.raises(creche.MailboxFull):
            probe.cast_nowait(Probe.add)
        assert len(cell_of(probe)._mailbox.queue) <= 2 * capacity
        gate.opened.set()
        assert await probe.ask.add() == capacity + 1


async def test_trap_02_a_crash_loses_only_the_message_in_hand() -> None:
    """Messages are popped one at a time: a crash in the middle of a burst loses one, not the rest of it."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe, log))
        for number in range(10):
            if number == 3:
                probe.cast_nowait(Probe.crash)
            else:
                probe.cast_nowait(Probe.note, str(number))
        await probe.ask.life()
        assert log == [str(number) for number in range(10) if number != 3]


@pytest.mark.parametrize("first", ["message", "stop"])
async def test_trap_03_wake_and_stop_in_one_tick(first: str) -> None:
    """A message and an end that come in the same tick: the message is handled or answered, never lost."""
    for want in ("stop", "kill", "exit"):
        async with creche.open_runtime("t", intensity=MANY) as runtime, trio.open_nursery() as nursery:
            probe = await runtime.start(creche.child(Probe))
            await probe.ask.life()
            replies = []

            def end(probe: creche.Handle[Probe] = probe, want: str = want) -> None:
                if want == "stop":
                    nursery.start_soon(runtime.stop, probe)
                elif want == "kill":
                    runtime.kill(probe, "now")
                else:
                    cell_of(probe).exit()

            if first == "stop":
                end()
            replies += [asking(nursery, probe.ask.life) for _ in range(5)]
            if first == "message":
                end()
            for reply in replies:
                assert await reply.settled() in ("value", "NotDelivered", "ActorStopped")


@pytest.mark.parametrize("want", ["kill", "exit"])
async def test_trap_03_a_wake_that_is_declined_is_passed_on(want: str) -> None:
    """An actor that is woken for a message and told to end in the same tick leaves the message to its successor."""
    log: list[str] = []
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        probe = await runtime.start(creche.child(Probe, log).options(backoff=AT_ONCE))
        for number in range(200):
            await settle()
            probe.cast_nowait(Probe.note, str(number))
            if want == "kill":
                runtime.kill(probe, "in the tick of the wake")
            else:
                cell_of(probe).exit()
        assert await probe.ask.life() == 201
        assert log == [str(number) for number in range(200)]


class NeverParkedWithMail(trio.abc.Instrument):
    """After each step of any task: no actor is parked while it has mail."""

    def __init__(self) -> None:
        self.cells: list[object] = []
        self.violations = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        for cell in self.cells:
            self.violations += bool(cell._parked and cell._mailbox)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


async def test_trap_04_no_lost_wake_up() -> None:
    """Between the look at an empty mailbox and the parking nothing can come in: a parked actor never has mail."""
    instrument = NeverParkedWithMail()
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        instrument.cells.append(cell_of(probe))
        trio.lowlevel.add_instrument(instrument)
        try:
            for pause in range(200):
                probe.cast_nowait(Probe.add)
                for _ in range(pause % 4):
                    await trio.lowlevel.checkpoint()
            with trio.fail_after(5):
                assert await probe.ask.add() == 201
        finally:
            trio.lowlevel.remove_instrument(instrument)
    assert instrument.violations == 0


async def test_trap_05_a_late_cancel_hits_nobody_else(autojump_clock: MockClock) -> None:
    """The scope of a call that completed although it was cancelled is not used for the next message."""

    async def deaf(probe: Probe) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        return "deaf"

    async def innocent(probe: Probe) -> str:
        await trio.sleep(1)
        return "innocent"

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        guilty = asking(nursery, probe.within(1).ask.run_for_caller, deaf)
        await settle()
        after = asking(nursery, probe.ask.run_for_caller, innocent)
        assert await guilty.settled() == "value"
        assert await after.settled() == "value"


async def test_trap_06_nobody_is_woken_twice() -> None:
    """A second outcome is a counted no-op, a second wake does nothing."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        cell = cell_of(probe)
        for _ in range(3):
            cell.wake()
        gate = Gate()
        reply = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        request = cell._current
        assert request is not None
        gate.opened.set()
        assert await reply.settled() == "value"
        request.fail(creche.OutcomeUnknown("late"))
        assert cell.discarded == 1
        assert await probe.ask.life() == 1


OPTIMISED = """
import trio, trio.testing, creche

assert_is_off = True
assert not assert_is_off

class Racing(creche.Actor):
    async def finish(self, at):
        await trio.sleep_until(at)
        return "value"

    @creche.message(on_caller_gone="cancel")
    async def cancel(self, at):
        await trio.sleep_until(at)
        return "value"

async def ask(actor, method, at, outcomes):
    with trio.CancelScope(deadline=at):
        try:
            outcomes.append(await actor.within(at - trio.current_time()).call(method, at))
        except creche.CallFailed as error:
            outcomes.append(type(error).__name__)
        return
    outcomes.append("cancelled")

async def main():
    outcomes = []
    async with creche.open_runtime("t", intensity=creche.Intensity(10_000, 1)) as runtime:
        backoff = creche.Backoff(free=10_000)
        actor = await runtime.start(creche.child(Racing).options(backoff=backoff))
        for round in range(200):
            at = trio.current_time() + 1
            async with trio.open_nursery() as nursery:
                for method in (Racing.finish, Racing.cancel, Racing.finish):
                    nursery.start_soon(ask, actor, method, at, outcomes)
                await trio.sleep_until(at)
                if round % 2:
                    runtime.kill(actor, "in the same tick")
    print(len(outcomes), set(outcomes) <= {"value", "cancelled", "DeadlineExceeded", "OutcomeUnknown", "NotDelivered"})

trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
"""


def test_trap_06_nobody_is_woken_twice_where_trio_does_not_look() -> None:
    """Under `python -O` Trio lets a task be woken twice: reply, deadline, cancel and kill in one tick still do not."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-O", "-c", OPTIMISED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "600 True\n"), done.stderr


async def test_trap_07_tracebacks_do_not_grow_with_the_callers() -> None:
    """A thousand callers of one crash get a thousand exceptions with a few traceback entries each."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(restart="temporary", mailbox=1000))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        replies = [asking(nursery, probe.ask.life) for _ in range(1000)]
        await settle()
        runtime.kill(probe, "all")
        longest = 0
        for reply in replies:
            await reply.settled()
            entry = reply.error.__traceback__ if reply.error is not None else None
            length = 0
            while entry is not None:
                entry, length = entry.tb_next, length + 1
            longest = max(longest, length)
        assert 0 < longest < 12
        assert len({id(reply.error) for reply in replies}) == 1000
        cause = replies[0].error.__cause__ if replies[0].error is not None else None
        assert cause is None or cause.__traceback__ is None


class WithLifespan(Probe):
    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield


@pytest.mark.parametrize("cls", [Probe, WithLifespan])
async def test_trap_08_causes_do_not_chain_over_restarts(cls: type[Probe]) -> None:
    """The error of the hundredth crash knows nothing of the ninety-nine before it."""
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        probe = await runtime.start(creche.child(cls).options(backoff=AT_ONCE))
        for _ in range(99):
            with pytest.raises(creche.OutcomeUnknown):
                await probe.ask.crash()
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await probe.ask.crash()
        error: BaseException | None = caught.value
        depth = 0
        while error is not None:
            error, depth = error.__context__ or error.__cause__, depth + 1
        assert depth == 2


async def test_trap_09_cancel_with_a_cleanup_error_is_that_error(autojump_clock: MockClock) -> None:
    """A kill whose victim raises in cleanup, inside a nursery, is still a kill, and the error is not lost."""

    async def body(probe: Probe) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise Boom("in cleanup")

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe))
        reply = asking(nursery, probe.ask.run, body)
        await settle()
        runtime.kill(probe, "now")
        assert await reply.settled() == "OutcomeUnknown"
        assert await probe.ask.life() == 2
        crash = next(event for event in seen if isinstance(event, events.Crashed))
        assert crash.error == "Killed: killed: now"
        assert "Boom: in cleanup" in crash.detail


async def test_trap_09_a_declared_error_that_a_nursery_wrapped_is_declared() -> None:
    """`raises=` finds its error in the group that a nursery in the handler makes of it, beside cancellations."""

    class Wrapping(Probe):
        @creche.message(raises=Boom)
        async def wrapped(self) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(self._fail)

        async def _fail(self) -> None:
            async with trio.open_nursery():
                raise Boom("deep")

    async with creche.open_runtime("t") as runtime:
        wrapping = await runtime.start(creche.child(Wrapping))
        with pytest.raises(Boom, match="deep"):
            await wrapping.ask.wrapped()
        assert await wrapping.ask.life() == 1


async def test_trap_10_a_flood_is_served_in_bounded_bursts() -> None:
    """Everybody else gets a turn after at most 64 messages."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        cell = cell_of(probe)
        steps: list[int] = []

        async def heartbeat() -> None:
            while cell.handled < 1000:
                steps.append(cell.handled)
                await trio.lowlevel.checkpoint()

        for _ in range(1000):
            probe.cast_nowait(Probe.add)
        nursery.start_soon(heartbeat)
        await probe.ask.life()
        bursts = [after - before for before, after in pairwise(steps)]
        assert 0 < max(bursts) <= 2 * BATCH


async def test_trap_11_a_blocked_cast_keeps_its_place() -> None:
    """A call that comes after a cast that waits for room does not overtake it."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=1))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        probe.cast_nowait(Probe.note, "1")
        asking(nursery, probe.cast, Probe.note, "2")
        await settle()
        last = asking(nursery, probe.ask.note, "3")
        await settle()
        gate.opened.set()
        await last.settled()
        assert log == ["held", "1", "2", "3"]


@pytest.mark.parametrize("capacity", [1, 2, 5])
async def test_trap_12_capacity_means_capacity(capacity: int) -> None:
    """A mailbox takes exactly its capacity, idle actor or not: no slot more for a parked one, none less."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(mailbox=capacity))
        await settle()
        for _ in range(capacity):
            probe.cast_nowait(Probe.add)
        with pytest.raises(trio.WouldBlock):
            probe.cast_nowait(Probe.add)


@pytest.mark.parametrize("message", ["run", "run_for_caller"])
@pytest.mark.parametrize("stamped", [False, True])
async def test_trap_13_a_cancelled_call_ends_with_its_handler(
    stamped: bool, message: str, autojump_clock: MockClock
) -> None:
    """A "cancel" handler that shields itself for a second holds its caller's timeout for that second, stamped or not; a
    "finish" handler holds nobody."""

    async def body(probe: Probe) -> None:
        try:
            await trio.sleep(5.5)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        if stamped:
            with pytest.raises(creche.DeadlineExceeded):
                await getattr(probe.within(5).ask, message)(body)
        else:
            with trio.move_on_after(5):
                await getattr(probe.ask, message)(body)
        assert trio.current_time() == (6 if message == "run_for_caller" else 5)
        assert await probe.ask.life() == 1


@pytest.mark.parametrize("when", [0, 1, 2, 3])
async def test_trap_14_a_cancel_during_the_stop_corrupts_nothing(when: int, autojump_clock: MockClock) -> None:
    """An outside cancel at any moment of a polite stop neither shortens it nor breaks the nesting of scopes."""

    async def body(probe: Probe) -> None:
        await trio.sleep(2)
        probe.log.append("finished")

    log: list[str] = []
    runtime = None
    with trio.CancelScope() as outside:
        async with creche.open_runtime("t") as runtime:
            probe = await runtime.start(creche.child(Probe, log))
            probe.cast_nowait(Probe.run, body)
            await settle()
            outside.deadline = trio.current_time() + when
    assert log == ["finished"]
    assert runtime is not None
    assert runtime.tree().state == "stopped"
    await trio.lowlevel.checkpoint()


async def test_trap_15_idle_actors_are_stopped_without_a_cancel() -> None:
    """A polite stop lets an idle actor's lifespan end normally: no Cancelled is raised in it."""
    ends: list[str] = []

    class Ending(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            try:
                yield
            except BaseException as error:
                ends.append(type(error).__name__)
                raise
            await trio.lowlevel.checkpoint()
            ends.append("normally")

    async with creche.open_runtime("t") as runtime:
        for _ in range(3):
            await runtime.start(creche.child(Ending))
    assert ends == ["normally"] * 3


async def test_trap_16_handlers_run_in_the_actors_task() -> None:
    """A handler runs in the actor's own task and context; the caller's trace comes with the message."""
    tasks: list[trio.lowlevel.Task] = []

    async def body(probe: Probe) -> object:
        tasks.append(trio.lowlevel.current_task())
        return baggage()["trace"]

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with carrying(trace="parent"):
            assert await probe.ask.run(body) == "parent"
        assert tasks == [cell_of(probe).task]


async def test_trap_17_casts_are_bare_tuples() -> None:
    """A queued cast is no object of its own, however it was sent: two hundred thousand of them must not be the garbage
    collector's bottleneck."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(mailbox=3))
        gate = Gate()
        first = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        probe.cast_nowait(Probe.add)
        probe.within(expires=5).cast_nowait(Probe.add)
        await probe.cast(Probe.add)
        waited = asking(nursery, probe.cast, Probe.add)
        await settle()
        assert [type(item) for item in cell_of(probe)._mailbox.queue] == [tuple] * 3
        gate.opened.set()
        assert [await first.settled(), await waited.settled()] == ["value"] * 2
        assert await probe.ask.add() == 5
