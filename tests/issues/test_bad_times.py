"""Found in review: a time that is none was taken, and killed the tree when it was looked at."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.node import State
from tests.core.support import Gate, Probe, asking, cell_of, settle


async def test_a_nan_of_one_caller_harms_nobody_else(autojump_clock: MockClock) -> None:
    """It is refused where it is given, before anything is sent; the deadlines of others come as ever."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        with pytest.raises(creche.SpecInvalid, match="NaN"):
            probe.within(math.nan)
        with pytest.raises(creche.SpecInvalid, match="NaN"):
            probe.within(1, expires=math.nan)
        await settle()
        assert await asking(nursery, probe.within(1).ask.life).settled() == "DeadlineExceeded"
        gate.opened.set()
        assert await probe.ask.life() == 1


BAD: list[Any] = ["5", None, math.nan, -1, True]


@pytest.mark.parametrize("bad", BAD, ids=repr)
async def test_a_bad_stop_within_is_refused_before_anything_starts(bad: Any) -> None:
    """Of a runtime and of an App; the error names the field and the value."""
    for take in (creche.open_runtime, creche.App):
        with pytest.raises(creche.SpecInvalid, match=f"stop_within = {bad!r}"):
            take("t", stop_within=bad)


@pytest.mark.parametrize("good", [0, 0.5, math.inf])
async def test_a_stop_within_may_be_nothing_or_for_ever(good: float) -> None:
    """Zero and infinity are times."""
    async with creche.open_runtime("t", stop_within=good) as runtime:
        assert cell_of(await runtime.start(creche.child(Probe))).state is State.RUNNING
