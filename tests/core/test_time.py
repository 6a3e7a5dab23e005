"""Deadlines: `within`, how they travel, and the heap that keeps them."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.deadlines import Deadlines, Timer
from tests.core.support import Gate, Probe, asking, cell_of, recorded, settle

NEVER = float("inf")


class Clocked(Probe):
    """Tells the deadline that its handler sees, relative to now."""

    def __init__(self, log: list[str] | None = None) -> None:
        super().__init__(log)
        self.seen: list[float] = []

    async def look(self) -> float:
        self.seen.append(creche.current_deadline() - trio.current_time())
        return self.seen[-1]


async def test_deadline_while_queued(autojump_clock: MockClock) -> None:
    """A call that is out of time while it waits gets DeadlineExceeded(delivered=False) and never runs."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        began = trio.current_time()
        with pytest.raises(creche.DeadlineExceeded) as caught:
            await probe.within(2).ask.note("late")
        assert trio.current_time() - began == 2
        assert not caught.value.delivered
        gate.opened.set()
        await probe.ask.life()
        assert log == ["held"]


async def test_deadline_while_running_and_finish(autojump_clock: MockClock) -> None:
    """Out of time while a "finish" handler runs: DeadlineExceeded(delivered=True) at once, and the handler goes on."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe, log))
        gate = Gate()
        with pytest.raises(creche.DeadlineExceeded) as caught:
            await probe.within(2).ask.hold(gate)
        assert caught.value.delivered
        gate.opened.set()
        await probe.ask.life()
        assert log == ["held"]


async def test_deadline_while_running_and_cancel(autojump_clock: MockClock) -> None:
    """Out of time while a "cancel" handler runs: it is cancelled, DeadlineExceeded(delivered=True), and the
    actor lives."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        began = trio.current_time()
        with pytest.raises(creche.DeadlineExceeded) as caught:
            await probe.within(2).ask.wait(Gate())
        assert trio.current_time() - began == 2
        assert caught.value.delivered
        assert await probe.ask.life() == 1


async def test_deadline_exceeded_is_too_slow(autojump_clock: MockClock) -> None:
    """DeadlineExceeded is a trio.TooSlowError and a CallFailed."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(trio.TooSlowError) as caught:
            await probe.within(1).call(Probe.hold, Gate())
        assert isinstance(caught.value, creche.CallFailed)


@pytest.mark.parametrize("message", ["run", "run_for_caller"])
async def test_deadline_and_reply_in_one_tick(message: str, autojump_clock: MockClock) -> None:
    """When the time is up in the moment in which the handler returns, the caller gets one of the two, whole."""

    async def body(probe: Probe) -> str:
        await trio.sleep(1)
        return "in time"

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        outcomes = set[str]()
        for _ in range(50):
            try:
                outcome = await getattr(probe.within(1).ask, message)(body)
            except creche.DeadlineExceeded:
                outcome = "late"
            outcomes.add(outcome)
            assert await probe.ask.life() == 1
        assert outcomes <= {"in time", "late"}


async def test_deadline_covers_the_time_down(autojump_clock: MockClock) -> None:
    """`within` is the whole time until the reply, that of a restart included."""
    backoff = creche.Backoff(first=50, cap=50, free=0)
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(backoff=backoff, down_wait=100))
        runtime.kill(probe, "down")
        await settle()
        with pytest.raises(creche.DeadlineExceeded) as caught:
            await probe.within(3).ask.life()
        assert (trio.current_time(), caught.value.delivered) == (3, False)


@pytest.mark.parametrize("seconds", [0, -1])
async def test_no_time_left_is_never_delivered(seconds: float, autojump_clock: MockClock) -> None:
    """`within(0)` and less raise DeadlineExceeded(delivered=False), and the message never runs, idle actor or not."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe, log))
        for _ in range(20):
            with pytest.raises(creche.DeadlineExceeded) as caught:
                await probe.within(seconds).ask.note("late")
            assert not caught.value.delivered
        assert log == []


def test_expired_mail_is_never_handled() -> None:
    """A call whose time ran out while another handler kept the whole loop busy is dropped, not handled late."""
    log: list[str] = []
    clock = MockClock()

    async def main() -> str:
        async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
            probe = await runtime.start(creche.child(Probe, log))
            gate = Gate()

            async def busy(probe: Probe) -> None:
                await gate.hold()
                clock.jump(5)  # as a computation of five seconds would

            first = asking(nursery, probe.ask.run, busy)
            await gate.entered.wait()
            late = asking(nursery, probe.within(2).ask.note, "late")
            await settle()
            gate.opened.set()
            await first.settled()
            return await late.settled()

    for _ in range(5):
        assert trio.run(main, clock=clock) == "DeadlineExceeded"
    assert log == []


async def test_deadlines_travel_through_chains(autojump_clock: MockClock) -> None:
    """A call that a handler makes inherits the deadline of the message in hand, over any number of actors."""
    async with creche.open_runtime("t") as runtime:
        last = await runtime.start(creche.child(Clocked).options(name="last"))
        middle = await runtime.start(creche.child(Probe).options(name="middle"))
        first = await runtime.start(creche.child(Probe).options(name="first"))

        async def ask_last(probe: Probe) -> float:
            await trio.sleep(1)
            return await last.ask.look()

        async def ask_middle(probe: Probe) -> float:
            await trio.sleep(1)
            return await middle.ask.run(ask_last)

        assert await first.within(10).ask.run(ask_middle) == 8
        assert await first.ask.run(ask_middle) == NEVER


async def test_the_nearer_deadline_wins(autojump_clock: MockClock) -> None:
    """A handler can shorten the time of its own calls, not lengthen it."""
    async with creche.open_runtime("t") as runtime:
        last = await runtime.start(creche.child(Clocked).options(name="last"))
        first = await runtime.start(creche.child(Probe).options(name="first"))

        async def ask_last(probe: Probe) -> list[float]:
            return [await last.within(3).ask.look(), await last.within(30).ask.look()]

        assert await first.within(10).ask.run(ask_last) == [3, 10]


async def test_a_chain_that_is_out_of_time_unwinds(autojump_clock: MockClock) -> None:
    """When the time of a chain is up, its caller gets DeadlineExceeded and every actor of it lives."""
    async with creche.open_runtime("t") as runtime:
        last = await runtime.start(creche.child(Probe).options(name="last"))
        first = await runtime.start(creche.child(Probe).options(name="first"))

        async def ask_last(probe: Probe) -> object:
            return await last.ask.wait(Gate())

        with pytest.raises(creche.DeadlineExceeded):
            await first.within(2).ask.run(ask_last)
        assert [await last.ask.life(), await first.ask.life()] == [1, 1]


async def test_current_deadline_tells(autojump_clock: MockClock) -> None:
    """`current_deadline()` is the deadline of the message in hand; infinity without one, in casts, and outside
    of actors."""
    async with creche.open_runtime("t") as runtime:
        clocked = await runtime.start(creche.child(Clocked))
        assert creche.current_deadline() == NEVER
        assert await clocked.within(7).ask.look() == 7
        assert await clocked.ask.look() == NEVER
        clocked.within(7).cast_nowait(Clocked.look)
        assert await clocked.ask.look() == NEVER
        seen: list[float] = []

        async def read(probe: Probe) -> None:
            assert isinstance(probe, Clocked)
            seen.extend(probe.seen)

        await clocked.ask.run(read)
        assert seen == [7, NEVER, NEVER, NEVER]


async def test_background_work_inherits_no_deadline(autojump_clock: MockClock) -> None:
    """Work that a handler spawns is not bound by the deadline of the message that happened to be in hand."""
    seen: list[float] = []

    async def body(probe: Probe) -> None:
        async def work() -> None:
            seen.append(creche.current_deadline())

        probe.context.spawn(work)
        await trio.sleep(1)

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        await probe.within(5).ask.run(body)
        assert seen == [NEVER]


async def test_casts_expire(autojump_clock: MockClock) -> None:
    """A cast that still waits `expires` seconds after it was sent is dropped unhandled, as a dead letter."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe, log))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        probe.within(expires=1).cast_nowait(Probe.note, "old")
        await probe.within(expires=10).cast(Probe.note, "young")
        await trio.sleep(5)
        gate.opened.set()
        await probe.ask.life()
        assert log == ["held", "young"]
        letters = [event for event in seen if isinstance(event, events.DeadLetter)]
        assert [(letter.message, letter.reason) for letter in letters] == [("note", "expired")]


async def test_a_cast_within_waits_so_long_for_room(autojump_clock: MockClock) -> None:
    """`within(s).cast` waits at most `s` seconds for room, then raises trio.TooSlowError: nothing was accepted."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=1))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        await probe.cast(Probe.note, "accepted")
        with pytest.raises(trio.TooSlowError):
            await probe.within(2).cast(Probe.note, "refused")
        assert trio.current_time() == 2
        gate.opened.set()
        await probe.ask.life()
        assert log == ["held", "accepted"]


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_cast_without_time_left_does_not_wait(seconds: float, autojump_clock: MockClock) -> None:
    """`within(0).cast` and less do not wait for room: what is left of a deadline may be passed as it is."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(mailbox=1))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        probe.cast_nowait(Probe.add)
        with pytest.raises(trio.TooSlowError):
            await probe.within(seconds).cast(Probe.add)
        assert trio.current_time() == 0
        gate.opened.set()


@pytest.mark.parametrize("message", ["hold", "wait"])
async def test_fail_after_needs_no_stamp(message: str, autojump_clock: MockClock) -> None:
    """A plain trio timeout around a call revokes it, or lets go of it, or cancels it, as any cancel does."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        gate = Gate()
        with pytest.raises(trio.TooSlowError) as caught, trio.fail_after(2):
            await getattr(probe.ask, message)(gate)
        assert not isinstance(caught.value, creche.DeadlineExceeded)
        gate.opened.set()
        assert await probe.ask.life() == 1


async def test_settled_calls_leave_no_deadlines_behind() -> None:
    """The heap holds at most twice the live deadlines and a constant, however many calls were made."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        for _ in range(1000):
            await probe.within(60).ask.add()
        assert len(runtime.deadlines) <= 130
        assert cell_of(probe).handled == 1000


async def test_an_actor_can_wait_for_nothing_at_time_zero(autojump_clock: MockClock) -> None:
    """A clock that starts at 0 is no special case: deadlines, restarts and healthy times work."""
    assert trio.current_time() == 0
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        runtime.kill(probe, "at zero")
        assert await probe.within(1).ask.life() == 2
        assert cell_of(probe).streak == 1
        assert trio.current_time() == 0


# --- the heap ---------------------------------------------------------------------------------------------------------


class Entry:
    """Something that expires, and tells in which order."""

    place = ""

    def __init__(self, deadline: float, expired: list[float]) -> None:
        self.deadline, self.expired = deadline, expired
        self.alive = True

    def live(self) -> bool:
        return self.alive

    def expire(self, now: float) -> None:
        assert now >= self.deadline
        self.alive = False
        self.expired.append(self.deadline)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=300),
    st.lists(st.integers(0, 20), max_size=5).map(sorted),
)
def test_the_heap_expires_what_is_due_and_live(entries: list[tuple[int, bool]], times: list[int]) -> None:
    """Each live entry expires once, in order of time, at the first look at or after its deadline; dead ones never."""
    heap, expired = Deadlines(), list[float]()
    for deadline, dies in entries:
        entry = Entry(deadline, expired)
        heap.push(deadline, entry)
        if dies:
            entry.alive = False
            heap.note_dead()
    live = sorted(deadline for deadline, dies in entries if not dies)
    for now in times:
        heap.expire_due(now)
        assert expired == [deadline for deadline in live if deadline <= now]
    assert len(heap) <= 2 * (len(live) - len(expired)) + 2 * 65


async def test_the_heap_wakes_for_an_earlier_deadline(autojump_clock: MockClock) -> None:
    """A deadline that is pushed while the task sleeps towards a later one is still kept."""
    heap, fired = Deadlines(), list[float]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heap.run)
        for when in (10.0, 5.0, 1.0):
            await settle()
            Timer(heap, when, lambda: fired.append(trio.current_time()))
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert fired == [1, 5, 10]


def test_a_cancelled_timer_never_calls_back() -> None:
    """A timer can be cancelled any number of times; then it does not call back."""
    heap, fired = Deadlines(), list[str]()
    timer = Timer(heap, 1, lambda: fired.append("late"))
    timer.cancel()
    timer.cancel()
    heap.expire_due(2)
    assert fired == []


async def test_a_deadline_does_not_stop_what_must_finish(autojump_clock: MockClock) -> None:
    """A handler that goes on after its caller's time is up can still call others: it may be between two writes."""
    seen: list[float] = []
    async with creche.open_runtime("t") as runtime:
        last = await runtime.start(creche.child(Clocked).options(name="last"))
        first = await runtime.start(creche.child(Probe).options(name="first"))

        async def two_writes(probe: Probe) -> None:
            await trio.sleep(5)
            seen.append(await last.ask.look())

        with pytest.raises(creche.DeadlineExceeded):
            await first.within(1).ask.run(two_writes)
        await first.ask.life()
        assert seen == [NEVER]
