"""Found in review: pipelines whose source has nothing at the moment, and how long they take to end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.core.support import asking, settle
from tests.supervisors.test_pipelines import a_stage, plus_one


async def never(_item: Any) -> None:
    await trio.sleep_forever()


async def test_a_drain_is_told_to_who_waits_for_a_source_that_has_nothing(autojump_clock: MockClock) -> None:
    """It is asked no more."""
    _send, receive = trio.open_memory_channel[int](0)
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        line = await runtime.start(creche.pipeline("line", a_stage("add", plus_one)))
        iterating = asking(nursery, line.run, receive)
        await settle()
        await line.drain()
        with trio.move_on_after(100):
            await iterating.done.wait()
        nursery.cancel_scope.cancel()
        assert iterating.what == "NotDelivered"


async def test_a_source_that_has_nothing_keeps_no_room(autojump_clock: MockClock) -> None:
    """Others come in meanwhile, and nothing is counted that is not there."""
    send, receive = trio.open_memory_channel[int](0)
    async with creche.open_runtime("t") as runtime:
        line = await runtime.start(creche.pipeline("line", a_stage("add", plus_one)))
        async with line.process(receive) as outcomes:
            await settle()
            assert [(stage.inside, stage.room) for stage in line.statistics().stages] == [(0, 1)]
            with trio.fail_after(100):
                assert (await line.submit(1)).results == (2,)
            await send.send(5)
            assert (await anext(outcomes)).results == (6,)


@pytest.mark.parametrize("drain", [0, 2])
async def test_a_drain_takes_no_longer_than_its_pipeline_may(drain: float, autojump_clock: MockClock) -> None:
    """However many stages there are that do not come to their end."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        stages = a_stage("one", plus_one), a_stage("two", never), a_stage("three", never)
        line = await runtime.start(creche.pipeline("line", *stages).options(drain=drain))
        other = await runtime.start(creche.pipeline("other", *stages[::-1]).options(drain=drain))
        replies = [asking(nursery, one.submit, 1) for one in (line, line, other)]
        await settle()
        for one in (line, other):
            begun = trio.current_time()
            await one.drain()
            assert trio.current_time() == begun + drain
        assert [await reply.settled() for reply in replies] == ["value"] * 3
        assert all(isinstance(reply.value.error, creche.CallFailed) for reply in replies)
