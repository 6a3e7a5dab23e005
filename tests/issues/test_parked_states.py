"""A new state of nodes that the table of monitors did not know."""

from __future__ import annotations

from trio.testing import MockClock

import creche
from creche.supervisors.spec import supervisor
from tests.core.support import Probe, reach, settle


async def test_a_monitor_of_what_is_parked(autojump_clock: MockClock) -> None:
    """For a monitor it is down."""
    probe = creche.child(Probe).options(intensity=creche.Intensity(0, 60), on_exhausted="park")
    async with creche.open_runtime("t", root=supervisor("root", probe)) as runtime:
        handle = reach(runtime, "root/probe", Probe)
        async with handle.monitor() as news:
            assert (await news.receive()).what == "up"
            runtime.kill(handle, "now")
            await settle()
            assert (await news.receive()).what == "down"
        async with handle.monitor() as news:
            assert (await news.receive()).what == "down"
