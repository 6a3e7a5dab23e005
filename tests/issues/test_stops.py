"""Found in review: a stop lost its deadlines with its caller, and the end of a tree came out as a group."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.node import State
from tests.cancelling import Strike, everywhere
from tests.core.support import Gate, Probe, Reply, asking, cell_of, settle


async def test_a_stop_whose_caller_leaves_keeps_its_deadlines(autojump_clock: MockClock) -> None:
    """A handler that does not end is cancelled when the drain time is over, as if the caller were still there."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(drain=2, shutdown=2))
        gate = Gate()
        begun = trio.current_time()
        reply = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        with trio.move_on_after(1):
            await runtime.stop(probe)
        with trio.move_on_after(100):
            await reply.done.wait()
        state, took = cell_of(probe).state, trio.current_time() - begun
        gate.opened.set()
        await settle()
        assert (reply.what, state, took) == ("OutcomeUnknown", State.STOPPED, 2)


@pytest.mark.parametrize("ticks", range(6))
@pytest.mark.parametrize("nested", [False, True])
async def test_a_tree_that_fails_while_the_body_is_cancelled_is_no_group(nested: bool, ticks: int) -> None:
    """TreeFailed leaves the block as itself, at whichever moment the body is cancelled from outside, too."""
    with trio.CancelScope() as scope:
        with pytest.raises(creche.TreeFailed):
            async with creche.open_runtime("t") as runtime:
                await runtime.start(creche.child(Probe))

                async def fail() -> None:
                    runtime.kill("root", "now")
                    for _ in range(ticks):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
                    await trio.sleep_forever()

                if nested:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(fail)
                else:
                    await fail()


class Entering(Probe):
    """Comes into its lifespan when the gate opens."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await self.gate.hold()
        yield


async def test_a_start_that_is_stopped_is_no_success_though_it_gets_ready(autojump_clock: MockClock) -> None:
    """The stop has been asked for before that: whoever starts it must not get the handle of what has ended."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        gate = Gate()
        start = asking(nursery, runtime.start, creche.child(Entering, gate))
        await gate.entered.wait()
        stop = asking(nursery, runtime.stop, "root/entering")
        await settle()
        gate.opened.set()
        await settle()
        assert (stop.what, start.what) == ("value", "StartFailed")


async def stop_beside_a_restart(strike: Strike) -> None:
    sub = creche.supervisor("sub", creche.child(Probe).options(name="a"), creche.child(Probe).options(name="b"))
    async with creche.open_runtime("t", root=creche.supervisor("root", sub)) as runtime:
        async with trio.open_nursery() as nursery:
            stops: list[Reply] = []
            with strike.armed(lambda: stops.append(asking(nursery, runtime.stop, "root/sub/b"))):
                runtime.kill("root/sub", "now")
                await settle()
        assert [stop.what for stop in stops] == ["value"] * len(stops)
        states = [runtime.node_of(f"root/sub/{name}").state for name in "ab"]
        assert states == [State.RUNNING, State.STOPPED if stops else State.RUNNING]


def test_a_stop_while_its_supervisor_restarts() -> None:
    """At whichever moment: it ends the child for good, and raises nothing."""
    everywhere(stop_beside_a_restart, orders=4)


class Stopping(Probe):
    """Stops somebody before it is ready."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await self.context.runtime.stop("root/sub/significant")
        yield


async def test_a_significant_child_that_is_stopped_before_its_supervisor_has_started_ends_nothing() -> None:
    """It has not ended by itself."""
    significant = creche.child(Probe).options(name="significant", significant=True, restart="transient")
    sub = creche.supervisor("sub", significant, creche.child(Probe).options(name="b"), auto_shutdown="any_significant")
    root = creche.supervisor("root", creche.child(Stopping), sub.options(restart="transient"))
    async with creche.open_runtime("t", root=root) as runtime:
        assert runtime.node_of("root/sub/b").state is State.RUNNING
