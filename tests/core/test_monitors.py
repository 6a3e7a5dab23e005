"""Monitors and links: how one learns that an actor has died, and how one dies with it."""

from __future__ import annotations

import gc
import weakref
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.monitors import ROOM, Link, Watch
from creche.runtime.node import State
from tests.cancelling import Strike, everywhere, prove_idle
from tests.core.support import Boom, Gate, Probe, asking, becomes, cell_of, kinds, recorded, settle

MANY = creche.Intensity(10_000, 1)
AT_ONCE = creche.Backoff(free=10_000)


def told(event: creche.MonitorEvent) -> tuple[str, int, str]:
    return event.what, event.incarnation, "" if event.cause is None else str(event.cause)


class Mourner(Probe):
    """Monitors and links as it is told."""

    def __init__(self, log: list[str] | None = None, linked_to: creche.Handle[Probe] | None = None) -> None:
        super().__init__(log)
        self.watches: list[Watch] = []
        self.links: list[Link] = []
        if linked_to is not None:
            self.context.link(linked_to)

    async def monitor(self, other: creche.Handle[Probe], times: int = 1) -> None:
        self.watches += [self.context.monitor(other, self._gone) for _ in range(times)]

    async def link(self, other: creche.Handle[Probe], one_way: bool = False, crashes: bool = False) -> None:
        self.links.append(self.context.link(other, one_way=one_way, crashes=crashes))

    async def cancel(self) -> list[bool]:
        held: list[Watch | Link] = [*self.watches, *self.links]
        before = [one.active for one in held]
        for one in held:
            one.cancel()
            one.cancel()
        assert not any(one.active for one in held)
        self.watches.clear()
        self.links.clear()
        return before

    async def monitor_into_boom(self, other: creche.Handle[Probe]) -> None:
        self.context.monitor(other, self._boom)

    async def _gone(self, path: str, cause: Exception | None) -> None:
        self.log.append(f"{path} gone: {cause}")

    async def _boom(self, path: str, cause: Exception | None) -> None:
        raise Boom(path)


def temporary(cls: type[Probe] = Probe) -> creche.Spec[creche.Handle[Probe]]:
    return creche.child(cls).options(restart="temporary")


async def end_by_crash(handle: creche.Handle[Probe], text: str = "boom") -> None:
    with pytest.raises(creche.OutcomeUnknown):
        await handle.ask.crash(text)
    await becomes(cell_of(handle), State.STOPPED)


# --- waiting for the end ----------------------------------------------------------------------------------------------


async def test_wait_stopped_tells_the_final_cause() -> None:
    """`handle.wait_stopped()` outlasts restarts; it returns the failure that ended the actor, or None."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        stopped = await runtime.start(creche.child(Probe))
        failed = await runtime.start(temporary())
        waits = [asking(nursery, handle.wait_stopped) for handle in (stopped, failed, failed)]
        with pytest.raises(creche.OutcomeUnknown):
            await stopped.ask.crash()
        await stopped.ask.life()
        assert waits[0].what == "pending"
        await end_by_crash(failed, "the end")
        await runtime.stop(stopped)
        assert [await wait.settled() for wait in waits] == ["value"] * 3
        assert waits[0].value is None
        assert [repr(wait.value) for wait in waits[1:]] == ["Boom('the end')"] * 2
        assert waits[1].value is not waits[2].value
        assert waits[1].value.__traceback__ is None
        assert repr(await failed.wait_stopped()) == "Boom('the end')"  # also afterwards


async def test_wait_stopped_of_oneself_is_refused() -> None:
    """A handler that waits for the end of its own actor gets `CallCycle`."""

    async def wait(probe: Probe) -> None:
        await probe.context.handle.wait_stopped()

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await probe.ask.run(wait)
        assert isinstance(caught.value.__cause__, creche.CallCycle)


def test_wait_stopped_is_cancelled_everywhere() -> None:
    """Whoever waits for an end can leave at any moment, and leaves nothing."""

    async def scenario(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
            probe = await runtime.start(creche.child(Probe))
            nursery.start_soon(_stop_in_a_second, runtime, probe)
            end = await strike.cancel(probe.wait_stopped)
            assert end.what in ("value", "cancelled")
            await probe.wait_stopped()
            await prove_idle(runtime)

    everywhere(scenario)


async def _stop_in_a_second(runtime: creche.Runtime, handle: object) -> None:
    await trio.sleep(1)
    await runtime.stop(handle)


# --- monitors of tasks ------------------------------------------------------------------------------------------------


async def test_a_monitor_tells_crashes_restarts_and_the_end() -> None:
    """The state first, then each crash with its cause, each restart, and the end, after which the channel ends."""
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        probe = await runtime.start(creche.child(Probe))
        async with probe.monitor() as events:
            with pytest.raises(creche.OutcomeUnknown):
                await probe.ask.crash("one")
            await probe.ask.life()
            runtime.kill(probe, "two")
            await probe.ask.life()
            await runtime.stop(probe)
            seen = [told(event) async for event in events]
    assert seen == [
        ("up", 1, ""),
        ("down", 1, "one"),
        ("up", 2, ""),
        ("down", 2, "killed: two"),
        ("up", 3, ""),
        ("stopped", 3, ""),
    ]


async def test_a_monitor_of_who_has_stopped_tells_at_once() -> None:
    """It tells the final cause, and the channel ends."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(temporary())
        await end_by_crash(probe)
        async with probe.monitor() as events:
            assert [told(event) async for event in events] == [("stopped", 1, "boom")]


async def test_a_monitor_tells_group_restarts_and_suspensions(autojump_clock: MockClock) -> None:
    """A restart with a sibling, or with the supervisor, is a `down` without a cause of its own."""
    pair = creche.supervisor(
        "pair",
        creche.child(Probe).options(name="left"),
        creche.child(Probe).options(name="right"),
        strategy="one_for_all",
        intensity=creche.Intensity(1, 10),
    )
    async with creche.open_runtime("t", root=creche.supervisor("root", pair)) as runtime:
        left, right = (runtime.handle(f"root/pair/{name}", Probe) for name in ("left", "right"))
        async with left.monitor() as events:
            for text in ("joined", "given up"):
                with pytest.raises(creche.OutcomeUnknown):
                    await right.ask.crash(text)
                await left.ask.life()
            seen = [told(events.receive_nowait()) for _ in range(5)]
    assert seen == [("up", 1, ""), ("down", 1, ""), ("up", 2, ""), ("down", 2, ""), ("up", 3, "")]


async def test_the_end_of_a_supervisor_is_the_cause_of_its_childrens(autojump_clock: MockClock) -> None:
    """Whoever is ended by a supervisor that has given up for good is told so, and not for what it last died of."""
    family = creche.supervisor(
        "family",
        creche.child(Probe).options(name="bad"),
        creche.child(Probe).options(name="good"),
        intensity=creche.Intensity(0, 1),
    )
    async with creche.open_runtime("t") as runtime:
        await runtime.start(family.options(restart="temporary"))
        bad, good = (runtime.handle(f"root/family/{name}", Probe) for name in ("bad", "good"))
        async with good.monitor() as good_events, bad.monitor() as bad_events:
            with pytest.raises(creche.OutcomeUnknown):
                await bad.ask.crash()
            of_good = [event async for event in good_events]
            of_bad = [event async for event in bad_events]
        assert [event.what for event in of_good] == ["up", "down", "stopped"]
        assert [event.what for event in of_bad] == ["up", "down", "stopped"]
        assert repr(of_bad[1].cause) == "Boom('boom')"
        for event in (of_good[-1], of_bad[-1]):
            assert "more than 0 restarts" in str(event.cause)


async def test_a_monitor_tells_starts_that_fail(autojump_clock: MockClock) -> None:
    """An incarnation that does not come up is told with its cause."""
    fails = [False, True, False]

    class Shaky(Probe):
        def __init__(self) -> None:
            super().__init__()
            if fails.pop(0):
                raise Boom("no start")

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Shaky))
        async with probe.monitor() as events:
            runtime.kill(probe, "k")
            await probe.ask.life()
            seen = [told(events.receive_nowait()) for _ in range(4)]
    assert seen == [("up", 1, ""), ("down", 1, "killed: k"), ("down", 2, "no start"), ("up", 3, "")]


async def test_a_slow_reader_of_a_monitor_holds_up_nobody() -> None:
    """The oldest events make room; the numbers of the incarnations show the gap; the end is never lost."""
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        probe = await runtime.start(creche.child(Probe).options(backoff=AT_ONCE))
        async with probe.monitor() as events:
            for _ in range(100):
                with pytest.raises(creche.OutcomeUnknown):
                    await probe.ask.crash()
            await runtime.stop(probe)
            seen = [told(event) async for event in events]
    assert len(seen) == ROOM
    assert seen[-1] == ("stopped", 101, "")
    assert seen[0][1] > 90


async def test_a_monitor_keeps_nothing_of_the_dead() -> None:
    """Neither the actor, nor the frames of its error, nor what they held: not even events that nobody has read."""

    class Payload:
        pass

    class Heavy(Probe):
        async def crash_with(self, payload: Payload) -> None:
            raise Boom("heavy")

    async with creche.open_runtime("t") as runtime:
        heavy = await runtime.start(creche.child(Heavy).options(restart="temporary"))
        mourner = await runtime.start(creche.child(Mourner))
        await mourner.ask.monitor(heavy)
        payload = Payload()
        refs: list[weakref.ref[object]] = [weakref.ref(payload)]

        async def look(probe: Probe) -> None:
            refs.append(weakref.ref(probe))

        await heavy.ask.run(look)
        async with heavy.monitor() as events:
            with pytest.raises(creche.OutcomeUnknown):
                await heavy.ask.crash_with(payload)
            del payload
            await settle()
            gc.collect()
            assert [ref() for ref in refs] == [None, None]
            assert [told(event) async for event in events] == [("up", 1, ""), ("stopped", 1, "heavy")]


async def test_monitors_come_and_go_without_a_trace() -> None:
    """Ten thousand monitors of one actor, and monitors of a thousand actors, leave nothing."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        mourner = await runtime.start(creche.child(Mourner))

        async def cycle(times: int) -> int:
            for _ in range(times):
                async with probe.monitor() as events:
                    events.receive_nowait()
                await mourner.ask.monitor(probe)
                await mourner.ask.link(probe)
                await mourner.ask.cancel()
            for _ in range(times // 10):
                other = await runtime.start(creche.child(Probe))
                await mourner.ask.monitor(other)
                await runtime.stop(other)
            await mourner.ask.run(_forget)
            gc.collect()
            return len(gc.get_objects())

        await cycle(100)
        before = await cycle(100)
        assert await cycle(10_000) - before < 100
        assert not cell_of(probe)._onlookers


async def _forget(probe: Probe) -> None:
    assert isinstance(probe, Mourner)
    await probe.cancel()
    probe.log.clear()
    companion = cell_of(probe.context.handle)._companion
    assert companion is not None
    assert companion.agenda is not None
    assert not companion.agenda._held


def test_a_monitor_is_cancelled_everywhere() -> None:
    """Whoever monitors can leave at any moment, and leaves nothing."""

    async def follow(probe: creche.Handle[Probe]) -> list[str]:
        async with probe.monitor() as events:
            return [event.what async for event in events]

    async def scenario(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
            probe = await runtime.start(creche.child(Probe))
            nursery.start_soon(_stop_in_a_second, runtime, probe)
            end = await strike.cancel(follow, probe)
            assert end.what in ("value", "cancelled")
            if end.what == "cancelled":
                assert not cell_of(probe)._onlookers
            await probe.wait_stopped()
            await prove_idle(runtime)

    everywhere(scenario)


# --- monitors of actors -----------------------------------------------------------------------------------------------


async def test_an_actor_monitors_another() -> None:
    """`context.monitor(handle, fn)` awaits `fn(path, cause)` when the other has ended for good, not before."""
    async with creche.open_runtime("t") as runtime:
        log: list[str] = []
        mourner = await runtime.start(creche.child(Mourner, log))
        stopped, failed = await runtime.start(creche.child(Probe)), await runtime.start(temporary())
        await mourner.ask.monitor(stopped)
        await mourner.ask.monitor(failed)
        with pytest.raises(creche.OutcomeUnknown):
            await stopped.ask.crash()
        await stopped.ask.life()
        await end_by_crash(failed)
        await runtime.stop(stopped)
        await mourner.ask.life()
        assert log == ["root/probe-2 gone: boom", "root/probe gone: None"]
        companion = cell_of(mourner)._companion
        assert companion is not None
        assert companion.agenda is not None
        assert not companion.agenda._held


async def test_what_a_monitor_tells_overtakes_the_mail() -> None:
    """It has the lane of the timers: before the messages that wait, after the one in hand."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        log: list[str] = []
        mourner = await runtime.start(creche.child(Mourner, log))
        other, gate = await runtime.start(creche.child(Probe)), Gate()
        await mourner.ask.monitor(other)
        held = asking(nursery, mourner.ask.hold, gate)
        await gate.entered.wait()
        noted = asking(nursery, mourner.ask.note, "mail")
        await settle()
        await runtime.stop(other)
        gate.opened.set()
        await held.settled()
        await noted.settled()
        assert log == ["held", "root/probe gone: None", "mail"]


async def test_an_actor_that_monitors_who_has_stopped_is_told_at_once() -> None:
    """As often as it monitors."""
    async with creche.open_runtime("t") as runtime:
        log: list[str] = []
        mourner = await runtime.start(creche.child(Mourner, log))
        other = await runtime.start(temporary())
        await end_by_crash(other)
        await mourner.ask.monitor(other, 2)
        await mourner.ask.life()
        assert log == ["root/probe gone: boom"] * 2


async def test_monitors_of_an_actor_end_with_its_incarnation() -> None:
    """A successor monitors anew; one that has been cancelled tells nothing, not even what waits in the lane."""
    async with creche.open_runtime("t") as runtime:
        log: list[str] = []
        mourner = await runtime.start(creche.child(Mourner, log))
        other = await runtime.start(creche.child(Probe))
        await mourner.ask.monitor(other)
        with pytest.raises(creche.OutcomeUnknown):
            await mourner.ask.crash()
        assert await mourner.ask.life() == 2

        async def monitor_and_cancel(probe: Probe) -> None:
            assert isinstance(probe, Mourner)
            await probe.monitor(other)
            await runtime.stop(other)
            assert await probe.cancel() == [True]

        await mourner.ask.run(monitor_and_cancel)
        await mourner.ask.life()
        assert log == []


async def test_an_error_in_what_a_monitor_tells_is_a_crash() -> None:
    """As in a timer."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        mourner = await runtime.start(creche.child(Mourner))
        other = await runtime.start(creche.child(Probe))
        await mourner.ask.monitor_into_boom(other)
        await runtime.stop(other)
        assert await mourner.ask.life() == 2
        assert "Crashed" in kinds(seen, mourner.path)


async def test_only_functions_can_be_told() -> None:
    """What is no function is refused with what to write instead."""

    async def misuse(probe: Probe) -> None:
        probe.context.monitor(probe.context.handle, cast("Any", 3))

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await probe.ask.run(misuse)
        assert isinstance(caught.value.__cause__, TypeError)


# --- links ------------------------------------------------------------------------------------------------------------


async def linked(
    runtime: creche.Runtime, *, one_way: bool = False, crashes: bool = False
) -> tuple[creche.Handle[Mourner], creche.Handle[Probe]]:
    """A maker of a link, restarted when it crashes, and what it is linked to."""
    other = await runtime.start(creche.child(Probe))
    maker = await runtime.start(creche.child(Mourner))
    await maker.ask.link(other, one_way, crashes)
    return maker, other


def last_crash(handle: object) -> str:
    return next((line for _, line in reversed(list(cell_of(handle).crashes()))), "")


async def test_a_link_takes_its_maker_along() -> None:
    """When the other ends for good its maker crashes with `LinkedStopped`, whatever it is doing."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        other = await runtime.start(temporary())
        maker = await runtime.start(creche.child(Mourner))
        await maker.ask.link(other)
        gate = Gate()
        held = asking(nursery, maker.ask.hold, gate)
        await gate.entered.wait()
        await end_by_crash(other, "first")
        assert await held.settled() == "OutcomeUnknown"
        assert held.error is not None
        cause = held.error.__cause__
        assert isinstance(cause, creche.LinkedStopped)
        assert (cause.path, repr(cause.cause), cause.final) == ("root/probe", "Boom('first')", True)
        assert cause.__cause__ is cause.cause
        assert await maker.ask.life() == 2


async def test_a_link_survives_restarts_of_the_other() -> None:
    """A crash that the other's supervisor mends is no end."""
    async with creche.open_runtime("t") as runtime:
        maker, other = await linked(runtime)
        runtime.kill(other, "k")
        await other.ask.life()
        assert await maker.ask.life() == 1
        await runtime.stop(other)
        assert await maker.ask.life() == 2
        assert "LinkedStopped" in last_crash(maker)


async def test_a_link_takes_the_other_along() -> None:
    """A link holds in both directions: when its maker ends for good, the other crashes."""
    async with creche.open_runtime("t") as runtime:
        maker, other = await linked(runtime)
        await runtime.stop(maker)
        assert await other.ask.life() == 2
        assert "LinkedStopped: root/mourner" in last_crash(other)


async def test_the_crash_that_ends_its_maker_takes_the_other_along() -> None:
    """A temporary maker that crashes has ended for good: the link still holds in that moment."""
    async with creche.open_runtime("t") as runtime:
        other = await runtime.start(creche.child(Probe))
        maker = await runtime.start(creche.child(Mourner).options(restart="temporary"))
        await maker.ask.link(other)
        with pytest.raises(creche.OutcomeUnknown):
            await maker.ask.crash("mine")
        assert await other.ask.life() == 2
        assert "mine" in last_crash(other)


async def test_a_link_ends_with_the_incarnation_that_made_it() -> None:
    """A restart of its maker dissolves it, in both directions; a successor links anew."""
    async with creche.open_runtime("t") as runtime:
        maker, other = await linked(runtime)
        with pytest.raises(creche.OutcomeUnknown):
            await maker.ask.crash()
        assert await maker.ask.life() == 2
        await runtime.stop(maker)
        assert await other.ask.life() == 1


async def test_a_one_way_link() -> None:
    """With `one_way` the other lives on."""
    async with creche.open_runtime("t") as runtime:
        maker, other = await linked(runtime, one_way=True)
        await runtime.stop(maker)
        assert await other.ask.life() == 1


async def test_a_link_for_crashes() -> None:
    """With `crashes` a crash counts as well, in both directions."""
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        maker, other = await linked(runtime, crashes=True)
        runtime.kill(other, "k")
        await settle()
        assert await maker.ask.life() == 2
        assert "has crashed: killed: k" in last_crash(maker)
        await maker.ask.link(other, False, True)
        runtime.kill(maker, "k")
        await settle()
        assert await maker.ask.life() == 3
        assert await other.ask.life() == 3


async def test_a_link_to_who_has_stopped_is_refused() -> None:
    """`link` raises `LinkedStopped`: a successor that links to what has taken its predecessor along cannot live."""
    async with creche.open_runtime("t") as runtime:
        other = await runtime.start(temporary())
        await end_by_crash(other)
        with pytest.raises(creche.StartFailed) as caught:
            await runtime.start(creche.child(Mourner, None, other))
        assert isinstance(caught.value.__cause__, creche.LinkedStopped)


async def test_a_link_made_in_the_constructor_holds() -> None:
    """From the first moment on."""
    async with creche.open_runtime("t") as runtime:
        other = await runtime.start(creche.child(Probe))
        maker = await runtime.start(creche.child(Mourner, None, other).options(restart="temporary"))
        await runtime.stop(other)
        assert isinstance(await maker.wait_stopped(), creche.LinkedStopped)


async def test_a_link_can_be_cancelled() -> None:
    """In both directions, idempotently."""
    async with creche.open_runtime("t") as runtime:
        maker, other = await linked(runtime)
        assert await maker.ask.cancel() == [True]
        third = await runtime.start(creche.child(Probe))
        await maker.ask.link(third)
        assert await maker.ask.cancel() == [True]
        await runtime.stop(other)
        assert await maker.ask.life() == 1
        await runtime.stop(maker)
        assert await third.ask.life() == 1


async def test_a_link_lets_alone_who_is_being_stopped() -> None:
    """The stop of a tree, or of a part of it, crashes nobody: its actors serve until their turn."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        maker, other = await linked(runtime)
        gate = Gate()
        held = asking(nursery, other.ask.hold, gate)
        await gate.entered.wait()
        nursery.start_soon(runtime.stop, other)
        await settle()
        await runtime.stop(maker)  # the other has been told to stop already
        gate.opened.set()
        assert await held.settled() == "value"
        await linked(runtime)  # what stands left in a tree is reached until its turn: the end of the block is no crash
    assert [event for event in seen if event.kind == "Crashed"] == []


async def test_a_link_to_oneself_is_refused() -> None:
    """`SpecInvalid`."""

    async def misuse(probe: Probe) -> None:
        probe.context.link(probe.context.handle)

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await probe.ask.run(misuse)
        assert isinstance(caught.value.__cause__, creche.SpecInvalid)
