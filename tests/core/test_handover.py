"""Handover: what an incarnation leaves to its successor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import HandoverFailed
from tests.core.support import Boom, Gate, Probe, asking, cell_of, reach, recorded, settle


class Till(Probe):
    """Counts, and hands the count over at planned ends."""

    def __init__(self, log: list[str]) -> None:
        super().__init__(log)
        self.count = self.context.handed_over(int) or 0
        self.spoil = False

    def handover(self) -> object:
        self.log.append(f"hands over {self.count}")
        if self.spoil:
            raise Boom("cannot hand over")
        return self.count

    async def leave(self) -> None:
        self.context.exit()

    async def spoils(self) -> None:
        self.spoil = True


class Sturdy(Till):
    """Hands over at crashes, too."""

    @creche.handover(on_crash=True)
    def handover(self) -> object:
        return super().handover()


async def test_a_planned_end_hands_over(autojump_clock: MockClock) -> None:
    """`context.exit`: the successor gets what `handover` returns."""
    async with creche.open_runtime("test") as runtime:
        till = await runtime.start(creche.child(Till, []))
        assert (await till.ask.add(), await till.ask.add()) == (1, 2)
        await till.ask.leave()
        assert (await till.ask.add(), await till.ask.life()) == (3, 2)


async def test_a_group_restart_hands_over(autojump_clock: MockClock) -> None:
    """So does a restart with the group or the supervisor; not who has crashed, nor who is cut off by a kill above."""
    log: list[str] = []
    tills = [creche.child(Till, log).options(name=name) for name in ("a", "b")]
    group = creche.supervisor("group", *tills, strategy="one_for_all", intensity=creche.Intensity(1, 1000))
    async with creche.open_runtime("test", root=creche.supervisor("root", group)) as runtime:
        a, b = (reach(runtime, f"root/group/{name}", Till) for name in ("a", "b"))
        for till in (a, b):
            await till.ask.add()
        with pytest.raises(creche.OutcomeUnknown):
            await a.ask.crash()
        assert (await a.ask.add(), await b.ask.add()) == (1, 2)
        with pytest.raises(creche.OutcomeUnknown):
            await a.ask.crash()  # and the supervisor gives up
        assert (await a.ask.add(), await b.ask.add()) == (1, 3)
        runtime.kill("root/group", "all below it is cut off")
        assert (await a.ask.add(), await b.ask.add()) == (1, 1)


async def test_another_spec_gets_what_was_handed_over(autojump_clock: MockClock) -> None:
    """The actor of another spec is the successor."""

    class Doubling(Till):
        async def add(self) -> int:
            self.count += 2
            return self.count

    async with creche.open_runtime("test") as runtime:
        till = await runtime.start(creche.child(Till, []).options(name="till"))
        await till.ask.add()
        await runtime.replace(till, creche.child(Doubling, []).options(name="till"), when="now")
        assert await till.ask.add() == 3


async def test_a_replacement_for_the_next_incarnation_gets_it_at_a_planned_end(autojump_clock: MockClock) -> None:
    """`when="next"`: at a planned end as ever, at a crash only where that is declared."""

    class Doubling(Till):
        async def add(self) -> int:
            self.count += 2
            return self.count

    for end, counted in ((Till.leave, 3), (Till.crash, 2)):
        async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
            till = await runtime.start(creche.child(Till, []))
            await till.ask.add()
            await runtime.replace(till, creche.child(Doubling, []))
            asking(nursery, till.call, end)
            await settle()
            assert (await till.ask.add(), await till.ask.life()) == (counted, 2)


async def test_what_is_in_hand_counts_for_the_handover_to_another_spec(autojump_clock: MockClock) -> None:
    """The message in hand is finished first; the mail behind it meets the successor, with what was handed over."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        log: list[str] = []
        till = await runtime.start(creche.child(Till, log))
        gate = Gate()

        async def add_at_the_gate(probe: Probe) -> int:
            gate.entered.set()
            await gate.opened.wait()
            return await probe.add()

        in_hand = asking(nursery, till.ask.run, add_at_the_gate)
        await gate.entered.wait()
        behind = asking(nursery, till.ask.add)
        await settle()
        replaced = asking(nursery, lambda: runtime.replace(till, creche.child(Sturdy, log), when="now"))
        await settle()
        gate.opened.set()
        await settle()
        assert (in_hand.value, behind.value, replaced.what, log) == (1, 2, "value", ["hands over 1"])


async def test_a_successor_that_cannot_use_what_was_handed_over_begins_with_nothing(autojump_clock: MockClock) -> None:
    """It is for one start: another version that chokes on it is restarted without it."""

    class Choking(Till):
        def __init__(self, log: list[str]) -> None:
            super().__init__(log)
            if self.count:
                raise Boom("of an older version")

    async with creche.open_runtime("test") as runtime:
        till = await runtime.start(creche.child(Till, []))
        await till.ask.add()
        with pytest.raises(creche.StartFailed, match="of an older version"):
            await runtime.replace(till, creche.child(Choking, []), when="now")
        assert (await till.ask.add(), await till.ask.life()) == (1, 3)


@pytest.mark.parametrize("end", ["crash", "kill", "kill in a handler"])
@pytest.mark.parametrize(("cls", "counted"), [(Till, 1), (Sturdy, 2)])
async def test_a_crash_hands_over_only_where_that_is_declared(
    autojump_clock: MockClock, end: str, cls: type[Till], counted: int
) -> None:
    """What led to the crash may be in it."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        till = await runtime.start(creche.child(cls, []))
        await till.ask.add()
        if end == "crash":
            with pytest.raises(creche.OutcomeUnknown):
                await till.ask.crash()
        else:
            if end != "kill":
                asking(nursery, till.ask.hold, Gate())
                await settle()
            runtime.kill(till, "test")
        assert (await till.ask.add(), await till.ask.life()) == (counted, 2)


async def test_a_final_stop_hands_nothing_over(autojump_clock: MockClock) -> None:
    """There is no successor."""
    log: list[str] = []
    async with creche.open_runtime("test") as runtime:
        await runtime.start(creche.child(Sturdy, log))
        once = await runtime.start(creche.child(Till, log).options(restart="transient"))
        await once.ask.leave()
    assert log == []


async def test_a_handover_that_fails_is_told(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """An event, or a line in the log if nobody listens; the end goes on as planned, and the successor starts fresh."""
    async with creche.open_runtime("test") as runtime:
        till = await runtime.start(creche.child(Till, []))
        await till.ask.add()
        await till.ask.spoils()
        await till.ask.leave()
        assert await till.ask.add() == 1
        assert "root/till#1 could not hand over: Boom('cannot hand over')" in caplog.text
        seen = recorded(runtime)
        await till.ask.spoils()
        await till.ask.leave()
        assert (await till.ask.add(), await till.ask.life()) == (1, 3)
        [told] = [event for event in seen if isinstance(event, HandoverFailed)]
        assert (told.path, told.incarnation, told.error) == ("root/till", 2, "Boom: cannot hand over")
        assert "in handover" in told.detail


async def test_what_is_handed_over_is_for_the_next_start_only(autojump_clock: MockClock) -> None:
    """If that start fails, it may be because of it: the one after that begins with nothing."""

    class Picky(Till):
        def __init__(self, log: list[str]) -> None:
            super().__init__(log)
            log.append(f"gets {self.count}")
            if self.count == 2:
                raise Boom("cannot use that")

    async with creche.open_runtime("test") as runtime:
        log: list[str] = []
        till = await runtime.start(creche.child(Picky, log))
        await till.ask.add()
        await till.ask.add()
        await till.ask.leave()
        assert await till.ask.life() == 3
        assert log == ["gets 0", "hands over 2", "gets 2", "gets 0"]
        assert cell_of(till)._handed_over is None


async def test_handing_over_comes_between_background_work_and_the_lifespan(autojump_clock: MockClock) -> None:
    """What it collects is not changed any more, and what the lifespan holds is still open."""
    log: list[str] = []

    class Holding(Till):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            log.append(f"opened with {self.context.handed_over(int)}")
            self.context.spawn(self._background)
            yield
            log.append("closed")

        async def _background(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                log.append("background has ended")

    async with creche.open_runtime("test") as runtime:
        till = await runtime.start(creche.child(Holding, log))
        await settle()
        await till.ask.leave()
        await till.ask.add()
        assert log == ["opened with None", "background has ended", "hands over 0", "closed", "opened with 0"]


async def test_a_planned_end_that_becomes_a_crash_hands_nothing_over(autojump_clock: MockClock) -> None:
    """An error while the lifespan is left is a crash as any other."""

    class Falling(Till):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            yield
            if self.context.incarnation == 1:
                raise Boom("at the end")

    async with creche.open_runtime("test") as runtime:
        till = await runtime.start(creche.child(Falling, []))
        await till.ask.add()
        await till.ask.leave()
        assert (await till.ask.add(), await till.ask.life()) == (1, 2)


async def test_a_crash_on_the_way_to_a_planned_end_hands_nothing_over(autojump_clock: MockClock) -> None:
    """The message in hand crashes while its group is being restarted, or after `exit` has been called."""
    tills = [creche.child(Till, []).options(name=name) for name in ("a", "b")]
    root = creche.supervisor("root", *tills, strategy="one_for_all", intensity=creche.Intensity(10, 1000))
    async with creche.open_runtime("test", root=root) as runtime, trio.open_nursery() as nursery:
        a, b = (reach(runtime, f"root/{name}", Till) for name in ("a", "b"))
        await b.ask.add()

        async def crash_late(actor: Probe) -> None:
            await trio.sleep(1)
            raise Boom("while it is being paused")

        async def exit_and_crash(actor: Probe) -> None:
            actor.context.exit()
            raise Boom("after all")

        late = asking(nursery, b.ask.run, crash_late)
        await settle()
        runtime.kill(a, "a reason to restart the group")
        assert await late.settled() == "OutcomeUnknown"
        assert (await b.ask.add(), await b.ask.life()) == (1, 2)
        with pytest.raises(creche.OutcomeUnknown):
            await b.ask.run(exit_and_crash)
        assert (await b.ask.add(), await b.ask.life()) == (1, 3)


async def test_what_is_handed_over_is_asked_for_by_its_type(autojump_clock: MockClock) -> None:
    """Another one is a TypeError; after the start there is nothing any more."""
    async with creche.open_runtime("test") as runtime:
        till = await runtime.start(creche.child(Till, []))
        answers: list[object] = []

        async def ask(actor: Probe) -> None:
            answers.append(actor.context.handed_over(int))

        class Wrong(Till):
            def __init__(self, log: list[str]) -> None:
                with pytest.raises(TypeError, match="handed over is a int, not a str"):
                    self.context.handed_over(str)
                super().__init__(log)

        await runtime.replace(till, creche.child(Wrong, []).options(name="till"), when="now")
        await till.ask.run(ask)
        assert answers == [None]


def test_wrong_handovers_are_refused() -> None:
    """When the class is created: not async, no arguments."""
    with pytest.raises(creche.SpecInvalid, match="not async"):

        class Async(creche.Actor):
            async def handover(self) -> object:
                return None

    with pytest.raises(creche.SpecInvalid, match="without arguments"):

        class Arguments(creche.Actor):
            def handover(self, when: float) -> object:
                return when
