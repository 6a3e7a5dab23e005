"""`runtime.kill`: whom it hits, and when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from tests.core.support import Gate, Probe, asking, cell_of, kinds, recorded
from tests.core.test_lives import Held


@pytest.mark.parametrize("cls", [Probe, Held])
@pytest.mark.parametrize("when", ["idle, never asked", "idle", "in hand", "cancel in hand"])
async def test_kill_is_a_crash(cls: type[Probe], when: str) -> None:
    """`runtime.kill` ends the incarnation at once with Killed(reason), whatever it is doing; the successor
    takes over."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(cls))
        if when == "idle":
            await probe.ask.add()
        gate = Gate()
        reply = None
        if when.endswith("in hand"):
            reply = asking(nursery, probe.ask.wait if "cancel" in when else probe.ask.hold, gate)
            await gate.entered.wait()
        assert runtime.kill(probe, "for a test")
        assert await probe.ask.life() == 2
        assert kinds(seen, probe.path).count("Crashed") == 1
        if reply is not None:
            assert await reply.settled() == "OutcomeUnknown"
            assert isinstance(reply.error, creche.OutcomeUnknown)
            cause = reply.error.__cause__
            assert isinstance(cause, creche.Killed)
            assert cause.reason == "for a test"


@pytest.mark.parametrize("late", [False, True])
async def test_kill_while_the_lifespan_is_entered_or_left(late: bool, autojump_clock: MockClock) -> None:
    """A kill also hits an incarnation that is not ready yet or is on its way out."""

    class Slow(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            await trio.sleep(0 if self.context.incarnation == 1 else 10)
            yield
            await trio.sleep(10)

    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        slow = await runtime.start(creche.child(Slow).options(shutdown=20, drain=100))
        if late:
            cell_of(slow).exit()  # leaves its lifespan for 10 s
        else:
            runtime.kill(slow, "the first")
        await trio.sleep(1)
        assert runtime.kill(slow, "the second")
        await trio.sleep(0.5)
        crashes = [event.error for event in seen if isinstance(event, events.Crashed)]
        assert crashes[-1] == "Killed: killed: the second"
        assert len(crashes) == (1 if late else 2)


async def test_kill_of_nobody_is_false(autojump_clock: MockClock) -> None:
    """`kill` says False when there is nothing to kill: the actor is down, dying already, or stopped."""
    backoff = creche.Backoff(first=10, free=0, jitter=0)
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(backoff=backoff, down_wait=100))
        assert runtime.kill(probe, "first")
        assert not runtime.kill(probe, "dying")
        await trio.sleep(1)
        assert not runtime.kill(probe, "down")
        assert await probe.ask.life() == 2
        await runtime.stop(probe)
        assert not runtime.kill(probe, "stopped")


async def test_kill_takes_a_path() -> None:
    """`runtime.kill` and `runtime.stop` take a path as well as a handle; an unknown path is a KeyError."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        assert runtime.kill("root/probe", "by name")
        assert await probe.ask.life() == 2
        with pytest.raises(KeyError):
            runtime.kill("root/nobody", "by name")
