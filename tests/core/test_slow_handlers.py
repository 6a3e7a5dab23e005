"""Handlers that take longer than they should."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import HandlerSlow
from tests.core.support import Gate, Probe, asking, cell_of, recorded, settle


class Clerk(Probe):
    """Sleeps in handlers of all kinds."""

    async def sleep(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    @creche.message(slow_after=10)
    async def nap(self, seconds: float) -> None:
        await trio.sleep(seconds)

    @creche.message(concurrency=2)
    async def sleep_beside(self, seconds: float) -> None:
        await trio.sleep(seconds)

    @creche.batched(limit=2)
    async def sleep_together(self, items: Sequence[creche.BatchItem[float, None]]) -> None:
        await trio.sleep(items[0].value)
        for item in items:
            item.reply(None)


def told(seen: list[creche.events.Event]) -> list[tuple[str, float]]:
    return [(event.message, event.seconds) for event in seen if isinstance(event, HandlerSlow)]


def live(runtime: creche.Runtime) -> int:
    return sum(entry.live() for _, _, entry in runtime.deadlines._heap)


async def test_a_slow_handler_is_told(autojump_clock: MockClock) -> None:
    """Once, while it is at work, with its stack; whatever kind of message it is. It goes on."""
    async with creche.open_runtime("test") as runtime:
        seen = recorded(runtime)
        clerk = await runtime.start(creche.child(Clerk).options(slow_after=5))
        assert await clerk.ask.sleep(20) == "slept"
        await clerk.ask.sleep(4)
        await clerk.ask.sleep_beside(6)
        await clerk.ask.sleep_together(6)
        await clerk.cast(Clerk.sleep, 6)
        await clerk.ask.sleep(1)
        assert told(seen) == [("sleep", 5), ("sleep_beside", 5), ("sleep_together", 5), ("sleep", 5)]
        first = next(event for event in seen if isinstance(event, HandlerSlow))
        assert (first.path, first.incarnation) == ("root/clerk", 1)
        assert "in sleep\n" in first.stack
        assert live(runtime) == 0


async def test_a_message_has_its_own_limit(autojump_clock: MockClock) -> None:
    """`slow_after` of the message counts, with and without one of the actor."""
    for limit in (None, 5.0):
        async with creche.open_runtime("test") as runtime:
            seen = recorded(runtime)
            clerk = await runtime.start(creche.child(Clerk).options(slow_after=limit))
            await clerk.ask.nap(9)
            await clerk.ask.nap(11)
            assert told(seen) == [("nap", 10)]


async def test_a_slow_handler_can_be_killed(autojump_clock: MockClock) -> None:
    """`on_slow="kill"`: its incarnation ends then, as by any kill."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk).options(slow_after=5, on_slow="kill"))
        began = trio.current_time()
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await clerk.ask.sleep(100)
        assert trio.current_time() - began == 5
        assert isinstance(caught.value.__cause__, creche.Killed)
        assert "the handler of sleep takes longer than 5 s" in str(caught.value.__cause__)
        assert await clerk.ask.life() == 2


async def test_a_slow_handler_that_nobody_listens_for_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With its stack."""
    async with creche.open_runtime("test") as runtime:
        clerk = await runtime.start(creche.child(Clerk).options(slow_after=5))
        await clerk.ask.sleep(7)
    assert "root/clerk#1: the handler of sleep has been at work for 5 s" in caplog.text


async def test_a_behaviour_is_timed_as_the_actor_is(autojump_clock: MockClock) -> None:
    """And so is the actor after it."""

    class Sleepy:
        async def sleep(self, seconds: float) -> str:
            await trio.sleep(seconds * 2)
            return "slept twice"

    async def change(actor: Probe) -> None:
        creche.become(actor, Sleepy())

    async def back(actor: Probe) -> None:
        creche.unbecome(actor)

    async with creche.open_runtime("test") as runtime:
        seen = recorded(runtime)
        clerk = await runtime.start(creche.child(Clerk).options(slow_after=5))
        await clerk.ask.run(change)
        assert await clerk.ask.sleep(3) == "slept twice"
        await clerk.ask.run(back)
        assert await clerk.ask.sleep(3) == "slept"
        await clerk.ask.sleep(6)
        assert told(seen) == [("sleep", 5), ("sleep", 5)]


async def test_a_handler_that_is_cancelled_or_crashes_is_timed_no_more(autojump_clock: MockClock) -> None:
    """Its timer ends with it."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        clerk = await runtime.start(creche.child(Clerk).options(slow_after=5))
        reply = asking(nursery, clerk.ask.wait, Gate())
        await settle()
        reply.scope.cancel()
        with pytest.raises(creche.OutcomeUnknown):
            await clerk.ask.crash()
        with pytest.raises(TypeError):
            await clerk.ask.sleep()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await trio.sleep(10)
        assert (told(seen), live(runtime)) == ([], 0)


async def test_without_a_limit_nothing_stands_in_front_of_a_handler() -> None:
    """What is off costs nothing."""
    async with creche.open_runtime("test") as runtime:
        names: list[str] = []

        async def look(actor: Probe) -> None:
            names.extend(set(vars(actor)) & set(actor.__messages__))

        probe = await runtime.start(creche.child(Probe))
        await probe.ask.run(look)
        assert names == []
        clerk = await runtime.start(creche.child(Clerk))
        await clerk.ask.run(look)
        assert names == ["nap"]
        assert cell_of(clerk).spec.slow_after is None


@pytest.mark.parametrize("value", [0, -1, float("nan"), "5", True])
def test_wrong_limits_are_refused(value: float) -> None:
    """`SpecInvalid`, for the actor and for the message."""
    with pytest.raises(creche.SpecInvalid):
        creche.child(Clerk).options(slow_after=value)
    with pytest.raises(creche.SpecInvalid):
        creche.message(slow_after=value)
    with pytest.raises(creche.SpecInvalid):
        creche.child(Clerk).options(on_slow="shout")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
