"""Found in review: `runtime.replace` by a spec of another kind than the old one, or at a bad moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

import creche
from creche.runtime.node import State
from tests.cancelling import Strike, everywhere
from tests.core.support import Boom, Gate, Probe, asking, cell_of, reach, settle
from tests.supervisors.test_dependents import AT_ONCE


class Slow(Probe):
    """Has a lifespan, into which it comes when the gate opens."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await self.gate.hold()
        yield


async def test_a_temporary_child_is_replaced_now_by_one_that_is_not(autojump_clock: MockClock) -> None:
    """It has no next incarnation; its replacement has."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(restart="temporary"))
        await runtime.replace(probe, creche.child(Probe), when="now")
        assert await probe.ask.life() == 2
        runtime.kill(probe, "now")
        await settle()
        assert await probe.ask.life() == 3


async def test_a_successor_with_a_lifespan_is_waited_for_in_the_order_of_the_start(autojump_clock: MockClock) -> None:
    """A supervisor starts plain actors in one go. One that will be another spec's is none."""
    gate = Gate()
    sub = creche.supervisor("sub", *(creche.child(Probe).options(name=name) for name in "ab"))
    async with creche.open_runtime("t", root=creche.supervisor("root", sub)) as runtime:
        await runtime.replace("root/sub/a", creche.child(Slow, gate))
        runtime.kill("root/sub", "so that all start anew")
        await settle()
        assert [runtime.node_of(f"root/sub/{name}").state for name in "ab"] == [State.STARTING, State.SUSPENDED]
        gate.opened.set()
        await settle()
        assert await reach(runtime, "root/sub/b", Probe).ask.life() == 2


async def test_down_wait_covers_the_slow_start_of_a_successor_with_a_lifespan(autojump_clock: MockClock) -> None:
    """Though what has crashed was plain, and comes up at once."""
    gate = Gate()
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(backoff=AT_ONCE, down_wait=5))
        await runtime.replace(probe, creche.child(Slow, gate).options(backoff=AT_ONCE, down_wait=5))
        runtime.kill(probe, "now")
        waiting = asking(nursery, probe.ask.life)
        await trio.sleep(6)
        assert waiting.what == "NotDelivered"
        gate.opened.set()
        await settle()
        assert await probe.ask.life() == 2


async def crash_in_the_first_life(probe: Probe) -> None:
    if probe.context.incarnation == 1:
        raise Boom


async def crash_beside_a_replacement(strike: Strike) -> None:
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(backoff=AT_ONCE))

        replacement = creche.child(Probe).options(backoff=AT_ONCE)
        end = await strike.hit(
            lambda: probe.cast_nowait(Probe.run, crash_in_the_first_life),
            lambda: runtime.replace(probe, replacement, when="now"),
        )
        assert (end.what, end.error) == ("value", None)
        await settle()
        assert (await probe.ask.life() > 1, cell_of(probe)._next) == (True, None)


def test_a_crash_of_what_is_replaced_is_none_of_its_successor() -> None:
    """At whichever moment: it may bring the successor up before the replacement does, and that has not failed."""
    assert set(everywhere(crash_beside_a_replacement, orders=8)) == {"value"}
