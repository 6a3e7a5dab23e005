"""Timers: what an actor does in turn with its messages, at a time of its own."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.agenda import Alarm
from tests.core.support import Boom, Gate, Probe, asking, cell_of, kinds, recorded, settle


class Clockwork(Probe):
    """Sets timers as it is told."""

    def __init__(self, every: float | None = None) -> None:
        super().__init__()
        self.ticks: list[float] = []
        self.alarms: list[Alarm] = []
        if every is not None:
            self.context.every(every, self._tick)

    async def after(self, seconds: float) -> None:
        self.alarms.append(self.context.after(seconds, self._tick))

    async def every(self, seconds: float) -> None:
        self.alarms.append(self.context.every(seconds, self._tick))

    async def run_after(self, seconds: float, what: str) -> None:
        self.context.after(seconds, getattr(self, what))

    async def cancel(self) -> list[bool]:
        before = [alarm.active for alarm in self.alarms]
        for alarm in self.alarms:
            alarm.cancel()
            alarm.cancel()
        assert not any(alarm.active for alarm in self.alarms)
        return before

    async def seen(self) -> list[float]:
        return self.ticks

    async def call_self_from_timer(self) -> None:
        self.context.after(1, self._call_self)

    async def _tick(self) -> None:
        self.ticks.append(trio.current_time())

    async def _call_self(self) -> None:
        me: creche.Handle[Clockwork] = self.context.handle
        await me.ask.seen()

    async def _boom(self) -> None:
        raise Boom("timer")

    async def _refuse(self) -> None:
        raise creche.DomainError(1, "an answer to nobody")


async def test_timers_run_in_turn_with_the_messages(autojump_clock: MockClock) -> None:
    """`after` once, `every` again and again, each at its time."""
    async with creche.open_runtime("test") as runtime:
        clock = await runtime.start(creche.child(Clockwork))
        now = trio.current_time()
        await clock.ask.every(2)
        await clock.ask.after(3)
        await trio.sleep(6.5)
        assert [at - now for at in await clock.ask.seen()] == [2, 3, 4, 6]


async def test_timers_overtake_the_mail_but_not_the_message_in_hand(autojump_clock: MockClock) -> None:
    """They have a lane of their own, which no overflow policy touches."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        log: list[str] = []

        class Busy(Probe):
            async def set(self) -> None:
                self.context.after(1, self._late)

            async def _late(self) -> None:
                log.append("timer")

        probe, gate = await runtime.start(creche.child(Busy, log).options(mailbox=1)), Gate()
        await probe.ask.set()
        asking(nursery, probe.ask.hold, gate, "in hand")
        await gate.entered.wait()
        probe.cast_nowait(Busy.note, "mail")
        await trio.sleep(2)
        assert log == []
        gate.opened.set()
        await settle()
        assert log == ["in hand", "timer", "mail"]


async def test_missed_ticks_are_skipped(autojump_clock: MockClock) -> None:
    """A slow actor is not flooded: what came due while a tick waits counts once, and the rhythm stays."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        clock, gate = await runtime.start(creche.child(Clockwork)), Gate()
        now = trio.current_time()
        await clock.ask.every(1)
        asking(nursery, clock.ask.hold, gate)
        await gate.entered.wait()
        await trio.sleep(3.5)
        gate.opened.set()
        await trio.sleep(1)
        assert [at - now for at in await clock.ask.seen()] == [3.5, 4]


async def test_timers_can_be_cancelled(autojump_clock: MockClock) -> None:
    """Also when they are due already; nothing of them is left."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        clock, gate = await runtime.start(creche.child(Clockwork)), Gate()
        await clock.ask.every(1)
        await clock.ask.after(5)

        async def cancel_late(actor: Probe) -> list[bool]:
            await trio.sleep(10)
            assert isinstance(actor, Clockwork)
            return await actor.cancel()

        reply = asking(nursery, clock.ask.run, cancel_late)
        assert (await reply.settled(), reply.value) == ("value", [True, True])
        await trio.sleep(5)
        assert await clock.ask.seen() == []
        assert gate.entered.is_set() is False
        assert not any(entry.live() for _, _, entry in runtime.deadlines._heap)


async def test_timers_end_with_their_incarnation(autojump_clock: MockClock) -> None:
    """A restarted actor has only those that its new incarnation sets."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        clock = await runtime.start(creche.child(Clockwork, 4))
        await clock.ask.every(1)
        await asking(nursery, clock.ask.crash).settled()
        now = trio.current_time()
        await trio.sleep(5)
        assert [at - now for at in await clock.ask.seen()] == [4]
        await runtime.stop(clock)
        assert not any(entry.live() for _, _, entry in runtime.deadlines._heap)
        assert cell_of(clock)._companion is None


async def test_an_error_in_a_timer_crashes_or_is_dropped(autojump_clock: MockClock) -> None:
    """As in the handler of a cast."""
    async with creche.open_runtime("test") as runtime:
        seen = recorded(runtime)
        clock = await runtime.start(creche.child(Clockwork))
        await clock.ask.run_after(1, "_refuse")
        await trio.sleep(2)
        assert clock.statistics().incarnation == 1
        await clock.ask.run_after(1, "_boom")
        await trio.sleep(2)
        assert clock.statistics().incarnation == 2
        assert kinds(seen, clock.path).count("Crashed") == 1


async def test_a_timer_is_in_the_wait_for_graph(autojump_clock: MockClock) -> None:
    """It runs in the actor's task: a self-call from it is refused, which is a crash."""
    async with creche.open_runtime("test") as runtime:
        seen = recorded(runtime)
        clock = await runtime.start(creche.child(Clockwork))
        await clock.ask.call_self_from_timer()
        await trio.sleep(2)
        (crash,) = (event for event in seen if event.kind == "Crashed")
        assert "CallCycle" in getattr(crash, "error", "")


async def test_a_stop_does_not_wait_for_timers(autojump_clock: MockClock) -> None:
    """What is not due yet is dropped."""
    async with creche.open_runtime("test") as runtime:
        clock = await runtime.start(creche.child(Clockwork, 1000))
        before = trio.current_time()
        await runtime.stop(clock)
        assert trio.current_time() == before


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", True, None])
async def test_wrong_times_are_refused(autojump_clock: MockClock, seconds: Any) -> None:
    """With a SpecInvalid that names the value; `every` refuses 0 as well."""
    async with creche.open_runtime("test") as runtime:
        clock = await runtime.start(creche.child(Clockwork).options(backoff=creche.Backoff(first=0)))
        for fn in (clock.ask.after, clock.ask.every):
            with pytest.raises(creche.OutcomeUnknown) as caught:
                await fn(seconds)
            assert isinstance(caught.value.__cause__, creche.SpecInvalid)
        with pytest.raises(creche.OutcomeUnknown):
            await clock.ask.every(0)
