"""What went wrong with messages in other actor systems, as reported in their trackers; each must not go wrong here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche import events, testing
from tests.core.support import Boom, Gate, Probe, asking, cell_of, recorded, settle

SLOWLY = creche.Backoff(first=5, free=0, jitter=0)
LONG = 10_000


async def test_kameo_335_mail_that_waits_at_a_crash_is_handled_by_the_successor(autojump_clock: MockClock) -> None:
    """There, it was lost."""
    log: list[str] = []
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(backoff=SLOWLY, down_wait=60))
        gate = Gate()
        held = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        for word in ("one", "two"):
            await probe.cast(Probe.note, word)
        runtime.kill(probe, "now")
        assert await held.settled() == "OutcomeUnknown"
        assert await probe.ask.note("three") == "three"
        assert log == ["one", "two", "three"]


class Parent(creche.Actor):
    """Owns a child, and is asked by it while it stops."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield
        await trio.sleep(1)

    async def advice(self) -> str:
        return "be good"


class Child(creche.Actor):
    """Asks its elder when it is about to leave."""

    def __init__(self, elder: creche.Handle[Parent], answers: list[str]) -> None:
        self.elder = elder
        self.answers = answers

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield
        try:
            self.answers.append(await self.elder.ask.advice())
        except creche.CallFailed as error:
            self.answers.append(type(error).__name__)


async def test_kameo_345_a_child_that_asks_a_stopping_elder_does_not_deadlock(autojump_clock: MockClock) -> None:
    """There, the buffered mail of a stopping actor was never answered, and it waited for its child."""
    answers: list[str] = []
    async with creche.open_runtime("r", stop_within=60) as runtime:
        elder = await runtime.start(creche.child(Parent))
        await runtime.start(creche.child(Child, elder, answers))
    assert answers == ["be good"]  # what depends on it stops before it
    assert trio.current_time() < 10


async def test_kameo_351_casts_are_kept_and_calls_are_answered_when_a_stop_begins(autojump_clock: MockClock) -> None:
    """There, calls that waited were dropped without an answer."""
    log: list[str] = []
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        await probe.cast(Probe.note, "cast")
        called = asking(nursery, probe.ask.note, "call")
        await settle()
        stopping = asking(nursery, runtime.stop, probe)
        await settle()
        gate.opened.set()
        assert (await called.settled(), await stopping.settled()) == ("value", "value")
        assert log == ["held", "cast", "call"]


async def test_kameo_359_a_call_that_was_never_handled_says_so(autojump_clock: MockClock) -> None:
    """There, it looked like one whose outcome is unknown."""
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        rules = {"backoff": creche.Backoff(first=60, free=0, jitter=0, cap=60), "down_wait": 1.0}
        probe = await runtime.start(creche.child(Probe).options(**rules))  # type: ignore[arg-type]
        gate = Gate()
        in_hand = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        queued = asking(nursery, probe.ask.note, "queued")
        await settle()
        runtime.kill(probe, "now")
        assert (await in_hand.settled(), await queued.settled()) == ("OutcomeUnknown", "NotDelivered")
        assert isinstance(queued.error, creche.NotDelivered)
        assert queued.error.reason == "crash"
        assert queued.error.retry_after == pytest.approx(59)


async def test_kameo_362_what_comes_after_a_graceful_stop_has_begun_is_refused() -> None:
    """There, it was accepted and never handled."""
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        asking(nursery, runtime.stop, probe)
        await settle()
        with testing.expect_not_delivered("closed"):
            await probe.ask.note("late")
        with testing.expect_not_delivered("closed"):
            probe.cast_nowait(Probe.note, "late")
        gate.opened.set()


async def test_kameo_364_mail_that_is_left_when_the_budget_is_spent_is_told(autojump_clock: MockClock) -> None:
    """There, it vanished."""
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        once = creche.Intensity(0, 5)
        probe = await runtime.start(creche.child(Probe).options(intensity=once, on_exhausted="stop"))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        await probe.cast(Probe.note, "cast")
        called = asking(nursery, probe.ask.note, "call")
        await settle()
        runtime.kill(probe, "now")
        assert await called.settled() == "NotDelivered"
        letters = [event for event in seen if isinstance(event, events.DeadLetter)]
        assert [(letter.message, letter.reason) for letter in letters] == [("note", "closed")]
        with testing.expect_actor_stopped(creche.Killed):
            await probe.ask.add()


async def test_actor_ts_919_a_full_mailbox_does_not_fail_who_sends(autojump_clock: MockClock) -> None:
    """There, the refusal crashed the sender, which was restarted because another was slow."""
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        slow = await runtime.start(creche.child(Probe).options(name="slow", mailbox=1, overflow="reject"))
        sender = await runtime.start(creche.child(Probe).options(name="sender"))
        gate = Gate()
        asking(nursery, slow.ask.hold, gate)
        await gate.entered.wait()
        slow.cast_nowait(Probe.note, "fills it")

        async def send(_: Probe) -> None:
            slow.cast_nowait(Probe.note, "too much")

        with testing.expect_peer_failed(slow.path):
            await sender.ask.run(send)
        assert cell_of(sender).restarts == 0
        gate.opened.set()


async def test_ractor_466_19_what_a_drain_has_accepted_is_handled(autojump_clock: MockClock) -> None:
    """There, a send could be acknowledged and land behind the mark that ends the drain."""
    log: list[str] = []
    accepted: list[str] = []
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=4))

        async def flood(me: int) -> None:
            for number in range(20):
                word = f"{me}-{number}"
                try:
                    await probe.cast(Probe.note, word)
                except creche.CallFailed:
                    return
                accepted.append(word)

        for me in range(5):
            nursery.start_soon(flood, me)
        while not accepted:  # Trio may let this task run before all of them
            await trio.lowlevel.checkpoint()
        await runtime.stop(probe)
    assert sorted(log) == sorted(accepted)
    assert accepted


async def test_ractor_466_20_any_number_may_wait_for_the_end_also_after_it() -> None:
    """There, the first who waited took the only notification."""
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        before = [asking(nursery, probe.wait_stopped) for _ in range(3)]
        await settle()
        await runtime.stop(probe)
        after = [asking(nursery, probe.wait_stopped) for _ in range(3)]
        assert [await one.settled() for one in (*before, *after)] == ["value"] * 6


class Other(creche.Actor):
    """Has other messages."""

    async def something(self) -> None:
        """Nothing."""


async def test_ractor_466_21_a_handle_of_the_wrong_type_kills_nobody() -> None:
    """There, it could be had without an error, and its message crashed the receiver."""
    async with creche.open_runtime("r") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.SpecInvalid, match="Other"):
            runtime.handle(probe.path, Other)
        with pytest.raises(AttributeError, match="something"):
            await probe.call(Other.something)
        with pytest.raises(TypeError):
            await probe.ask.note()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        assert cell_of(probe).restarts == 0


async def test_ractor_466_22_who_reads_slowly_goes_on_reading(autojump_clock: MockClock) -> None:
    """There, a subscriber that had lagged once was never served again."""
    async with creche.open_runtime("r", intensity=creche.Intensity(1000, 1)) as runtime:
        probe = await runtime.start(creche.child(Probe).options(backoff=creche.Backoff(first=0, free=100)))
        async with probe.monitor() as feed:
            for _ in range(100):
                runtime.kill(probe, "flood")
                await probe.ask.add()
            while feed.statistics().current_buffer_used:
                await feed.receive()
            await runtime.stop(probe)
            assert (await feed.receive()).what == "stopped"


class Amplifier(creche.Actor):
    """Passes each message on twice, until it is told that it would wait for itself."""

    def __init__(self, others: list[creche.Handle[Amplifier]], circles: list[creche.CallCycle]) -> None:
        self.others = others
        self.circles = circles

    async def pass_on(self, depth: int) -> None:
        if depth:
            for _ in range(2):
                try:
                    await self.others[0].cast(Amplifier.pass_on, depth - 1)
                except creche.CallCycle as circle:
                    self.circles.append(circle)


async def test_protoactor_kotlin_16_two_that_fill_each_others_mailbox_do_not_hang(autojump_clock: MockClock) -> None:
    """There, a bounded mailbox and a send that blocks made a deadlock. Here the circle is refused before it blocks."""
    async with creche.open_runtime("r", stop_within=5) as runtime:
        first_knows: list[creche.Handle[Amplifier]] = []
        second_knows: list[creche.Handle[Amplifier]] = []
        circles: list[creche.CallCycle] = []
        first = await runtime.start(creche.child(Amplifier, first_knows, circles).options(name="first", mailbox=1))
        second = await runtime.start(creche.child(Amplifier, second_knows, circles).options(name="second", mailbox=1))
        first_knows.append(second)
        second_knows.append(first)
        with trio.fail_after(LONG):
            for number in range(5):
                await (first, second)[number % 2].cast(Amplifier.pass_on, 5)
        await trio.sleep(60)
        assert circles
        assert (cell_of(first).restarts, cell_of(second).restarts) == (0, 0)
        assert (first.statistics().queued, second.statistics().queued) == (0, 0)


async def test_thespian_38_no_message_vanishes_under_load() -> None:
    """There, some were gone after a few thousand."""
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(mailbox=16))

        async def flood() -> None:
            for _ in range(2000):
                await probe.cast(Probe.add)

        async with trio.open_nursery() as senders:
            for _ in range(5):
                senders.start_soon(flood)
        assert await probe.ask.add() == 10_001
        nursery.cancel_scope.cancel()


async def test_thespian_64_each_call_is_either_answered_or_refused(autojump_clock: MockClock) -> None:
    """There, one was neither delivered nor a dead letter."""
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(backoff=creche.Backoff(first=0.5, free=0)))
        replies = [asking(nursery, probe.ask.crash if number % 7 == 3 else probe.ask.add) for number in range(50)]
        stopped = asking(nursery, runtime.stop, probe)
        outcomes = [await reply.settled() for reply in replies]
        assert "pending" not in outcomes
        assert await stopped.settled() == "value"


async def test_thespian_83_a_time_limit_is_kept(autojump_clock: MockClock) -> None:
    """There, it was ignored by one kind of system."""
    async with creche.open_runtime("r") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with testing.expect_deadline_exceeded(delivered=True):
            await probe.within(0.4).ask.wait(Gate())
        assert trio.current_time() == pytest.approx(0.4)


async def test_triotp_1_a_caller_without_a_time_limit_is_told_of_the_crash() -> None:
    """There, it waited for ever."""
    async with creche.open_runtime("r") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with testing.expect_outcome_unknown(Boom):
            await probe.ask.crash()


async def test_triotp_2_a_reply_that_comes_too_late_does_not_crash_the_server(autojump_clock: MockClock) -> None:
    """There, it did."""
    async with creche.open_runtime("r") as runtime:
        probe = await runtime.start(creche.child(Probe))
        gate = Gate()
        with testing.expect_deadline_exceeded(delivered=True):
            await probe.within(1).ask.hold(gate)
        gate.opened.set()
        assert await probe.ask.life() == 1
        assert probe.statistics().discarded == 1


async def test_triotp_3_callers_out_of_time_cost_no_budget(autojump_clock: MockClock) -> None:
    """There, the fourth in five seconds took the whole tree down."""
    async with creche.open_runtime("r", intensity=creche.Intensity(3, 5)) as runtime:
        probe = await runtime.start(creche.child(Probe))
        for _ in range(10):
            gate = Gate()
            with testing.expect_deadline_exceeded(delivered=True):
                await probe.within(0.1).ask.hold(gate)
            gate.opened.set()
        assert cell_of(probe).restarts == 0


async def test_triotp_4_who_waits_for_room_at_a_crash_is_not_thrown_out(autojump_clock: MockClock) -> None:
    """There, senders got a closed resource."""
    log: list[str] = []
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=1, backoff=SLOWLY, down_wait=60))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        senders = [asking(nursery, probe.cast, Probe.note, str(number)) for number in range(4)]
        await settle()
        runtime.kill(probe, "now")
        assert [await one.settled() for one in senders] == ["value"] * 4
        await probe.ask.add()
        assert sorted(log) == ["0", "1", "2", "3"]
