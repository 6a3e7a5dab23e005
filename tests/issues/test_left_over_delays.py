"""Found in review: the delay of a group restart that never came about held up the next one."""

from __future__ import annotations

import trio
from trio.testing import MockClock

import creche
from tests.core.support import Probe, reach, settle


async def test_a_restarted_supervisor_knows_no_delay_of_before(autojump_clock: MockClock) -> None:
    """Its group was to restart in 100 s when it was killed. The next group of it restarts at once."""
    late = creche.child(Probe).options(name="late", backoff=creche.Backoff(first=100, cap=100, free=0, jitter=0))
    soon = creche.child(Probe).options(name="soon", backoff=creche.Backoff(first=0))
    sub = creche.supervisor("sub", late, soon, strategy="one_for_all")
    async with creche.open_runtime("t", root=creche.supervisor("root", sub)) as runtime:
        runtime.kill("root/sub/late", "now")
        await settle()
        runtime.kill("root/sub", "now")
        await settle()
        runtime.kill("root/sub/soon", "now")
        await settle()
        assert await reach(runtime, "root/sub/late", Probe).ask.life() == 3
        assert trio.current_time() == 0
