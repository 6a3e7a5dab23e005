"""Timers under keys: to start one again replaces the one that is under way."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.timers import Timers
from tests.core.support import Boom, Gate, Probe, asking, cell_of, kinds, recorded, settle


class Clerk(Probe):
    """Starts timers as it is told, and notes when they run."""

    def __init__(self, slow: float = 0.0) -> None:
        super().__init__()
        self.slow = slow
        self.ran: list[tuple[object, float]] = []
        self.born = trio.current_time()
        self.stale: Timers | None = None

    async def start(self, key: Any, delay: float, word: str = "once") -> None:
        self.context.timers.start(key, delay, self._run, word)

    async def rate(self, key: Any, interval: float) -> None:
        self.context.timers.start_at_fixed_rate(key, interval, self._run, "rate")

    async def delay(self, key: Any, delay: float) -> None:
        self.context.timers.start_with_fixed_delay(key, delay, self._run, "delay")

    async def cancel(self, key: Any) -> bool:
        return self.context.timers.cancel(key)

    async def active(self, key: Any) -> bool:
        return self.context.timers.active(key)

    async def seen(self) -> list[tuple[object, float]]:
        return [(word, at - self.born) for word, at in self.ran]

    async def _run(self, word: object) -> None:
        self.ran.append((word, trio.current_time()))
        await trio.sleep(self.slow)


def in_heap(runtime: creche.Runtime) -> int:
    return len(runtime.deadlines)


async def test_a_keyed_timer_replaces_the_one_of_its_key(autojump_clock: MockClock) -> None:
    """The former one never runs; others go on."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk))
        await clerk.ask.start("a", 1, "replaced")
        await clerk.ask.start("b", 2, "other")
        await clerk.ask.start("a", 3, "in its place")
        await trio.sleep(5)
        assert await clerk.ask.seen() == [("other", 2), ("in its place", 3)]


async def test_a_keyed_timer_that_is_replaced_when_it_is_due_never_runs(autojump_clock: MockClock) -> None:
    """It waits in the lane while a handler runs that starts another one under its key."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        clerk = await runtime.start(creche.child(Clerk))
        await clerk.ask.start("a", 1, "late")

        async def replace(actor: Probe) -> None:
            await trio.sleep(2)
            actor.context.timers.start("a", 5, cast("Clerk", actor)._run, "in its place")

        asking(nursery, clerk.ask.run, replace)
        await trio.sleep(10)
        assert await clerk.ask.seen() == [("in its place", 7)]


async def test_a_keyed_timer_can_be_cancelled(autojump_clock: MockClock) -> None:
    """By its key; `cancel` says whether there was one, and `active` whether there is."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk))
        await clerk.ask.start("a", 1)
        assert (await clerk.ask.active("a"), await clerk.ask.active("b")) == (True, False)
        assert (await clerk.ask.cancel("a"), await clerk.ask.cancel("a")) == (True, False)
        await clerk.ask.rate("c", 1)
        await trio.sleep(2.5)
        assert await clerk.ask.active("c")
        await clerk.ask.run(_cancel_all)
        await trio.sleep(5)
        assert [word for word, _ in await clerk.ask.seen()] == ["rate", "rate"]
        assert not await clerk.ask.active("c")


async def _cancel_all(actor: Probe) -> None:
    actor.context.timers.cancel_all()


async def test_a_keyed_timer_that_has_run_leaves_no_trace(autojump_clock: MockClock) -> None:
    """Keys that are never used again are remembered by nobody."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk))
        for number in range(100):
            await clerk.ask.start(number, 1)
        await trio.sleep(2)
        agenda = cell_of(clerk).agenda()
        assert (len(agenda.keyed), len(agenda._held), in_heap(runtime)) == (0, 0, 0)
        assert len(await clerk.ask.seen()) == 100


async def test_replaced_timers_do_not_pile_up(autojump_clock: MockClock) -> None:
    """A timeout that is started anew with each message holds one live entry in the heap, and few dead ones."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk))
        for _ in range(5000):
            await clerk.ask.start("idle", 60)
        assert in_heap(runtime) < 200


async def test_a_fixed_rate_keeps_its_rhythm(autojump_clock: MockClock) -> None:
    """Whatever a run takes; ticks that come due meanwhile are skipped."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk, 0.5))
        await clerk.ask.rate("a", 2)
        await trio.sleep(7)
        assert await clerk.ask.seen() == [("rate", 2), ("rate", 4), ("rate", 6)]


async def test_a_fixed_delay_begins_at_the_end_of_a_run(autojump_clock: MockClock) -> None:
    """So there is always that much time between two runs."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk, 0.5))
        await clerk.ask.delay("a", 2)
        await trio.sleep(8)
        assert await clerk.ask.seen() == [("delay", 2), ("delay", 4.5), ("delay", 7)]
        assert await clerk.ask.cancel("a")
        await trio.sleep(10)
        assert len(await clerk.ask.seen()) == 3


async def test_a_fixed_delay_that_cancels_itself_has_ended(autojump_clock: MockClock) -> None:
    """From inside of its own run; and it may start another one under its key."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk))
        runs: list[str] = []

        async def start(actor: Probe) -> None:
            async def once(word: str) -> None:
                runs.append(word)
                actor.context.timers.cancel("a")
                if word == "first":
                    actor.context.timers.start_with_fixed_delay("a", 1, once, "second")

            actor.context.timers.start_with_fixed_delay("a", 1, once, "first")

        await clerk.ask.run(start)
        await trio.sleep(10)
        assert runs == ["first", "second"]
        assert in_heap(runtime) == 0


async def test_keyed_timers_end_with_their_incarnation(autojump_clock: MockClock) -> None:
    """A successor has none, and the timers of a dead incarnation can be used no more."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk))
        kept: list[Timers] = []

        async def keep(actor: Probe) -> None:
            kept.append(actor.context.timers)

        await clerk.ask.run(keep)
        await clerk.ask.start("a", 1)
        await clerk.ask.rate("b", 1)
        with pytest.raises(creche.OutcomeUnknown):
            await clerk.ask.crash()
        await trio.sleep(5)
        assert (await clerk.ask.seen(), await clerk.ask.active("a")) == ([], False)
        with pytest.raises(RuntimeError, match="this incarnation has ended"):
            kept[0].start("a", 1, trio.sleep, 0)


@pytest.mark.parametrize("crash", ["by a message", "by a kill", "by another timer"])
async def test_a_keyed_timer_that_comes_due_in_the_moment_of_a_crash_never_runs(
    autojump_clock: MockClock, crash: str
) -> None:
    """Neither in the life that has ended nor in the next."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        ran: list[int] = []

        class Doomed(Probe):
            async def set(self, gate: Gate) -> None:
                if crash == "by another timer":
                    self.context.timers.start("first", 1, self._fail)
                self.context.timers.start("a", 1, self._tick)

            async def _tick(self) -> None:
                ran.append(self.context.incarnation)

            async def _fail(self) -> None:
                raise Boom("in the moment")

        doomed = await runtime.start(creche.child(Doomed))
        await doomed.ask.set(Gate())

        async def fail(_: Probe) -> None:
            await trio.sleep(1)
            raise Boom("in the moment")

        if crash == "by a message":
            asking(nursery, doomed.ask.run, fail)
        if crash == "by a kill":
            asking(nursery, doomed.ask.hold, Gate())  # so that it stands in the lane
            await trio.sleep(1)
            assert runtime.kill(doomed, "now")
        await trio.sleep(10)
        await settle()
        assert kinds(seen, "root/doomed").count("Crashed") == 1
        assert ran == []


async def test_wrong_times_of_keyed_timers_are_refused(autojump_clock: MockClock) -> None:
    """`SpecInvalid`, and what was under the key goes on."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk))
        await clerk.ask.start("a", 1)

        async def misuse(actor: Probe) -> None:
            timers = actor.context.timers
            with pytest.raises(creche.SpecInvalid):
                timers.start("a", -1, trio.sleep, 0)
            with pytest.raises(creche.SpecInvalid):
                timers.start_at_fixed_rate("a", 0, trio.sleep, 0)
            with pytest.raises(creche.SpecInvalid):
                timers.start_with_fixed_delay("a", 0, trio.sleep, 0)
            with pytest.raises(TypeError, match=r"write \(fn, \*args\)"):
                timers.start("a", 1, cast("Any", actor.context.runtime.run_blocking(int)))

        await clerk.ask.run(misuse)
        await trio.sleep(2)
        assert len(await clerk.ask.seen()) == 1


async def test_when_a_keyed_timer_is_due(autojump_clock: MockClock) -> None:
    """In seconds of Trio's clock; None without one."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk))
        await clerk.ask.start("a", 3)

        async def look(actor: Probe) -> list[float | None]:
            return [actor.context.timers.due("a"), actor.context.timers.due("b")]

        assert await clerk.ask.run(look) == [trio.current_time() + 3, None]
