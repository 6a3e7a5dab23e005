"""Found in review: a stop lost its deadlines with its caller, and the end of a tree came out as a group."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.node import State
from tests.core.support import Gate, Probe, asking, cell_of, settle


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
