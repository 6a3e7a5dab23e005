"""Ids while the clock steps.

The component writes its state file in worker threads, so these tests run in real time.
"""

from __future__ import annotations

import pytest
import trio

import creche
from creche import testing
from creche.components import uid as u
from tests.components.uid.support import (
    START,
    Clock,
    kill,
    rows,
    running,
    unix_ms,
)


async def test_a_step_back_within_the_tolerance_is_waited_for() -> None:
    """Ids stop until the clock is past the last one, and go on later than it."""
    clock = Clock()
    async with running(u.Config(sequence_bits=0), clock) as (_, uid):
        clock.ms += 1
        first = await uid.snowflake()
        clock.ms -= 900
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        clock.ms += 901
        assert await uid.snowflake() > first


async def test_a_larger_step_back_is_an_error_that_says_how_long() -> None:
    """The caller is told after how many seconds to come back; the actor lives, and nothing is issued twice."""
    clock = Clock()
    async with running(u.Config(), clock) as (runtime, uid):
        clock.ms += 1
        ids = await uid.take(100)
        clock.ms -= 5000
        for _ in range(2):
            with pytest.raises(u.ClockMovedBack) as caught:
                await uid.snowflake()
            assert caught.value.retry_after == caught.value.by == 5.0
            assert isinstance(caught.value, creche.Unavailable)
        with pytest.raises(u.ClockMovedBack):
            uid.snowflake_nowait()
        statistics = uid.statistics()
        assert statistics is not None
        assert (statistics.high_water, statistics.refused) == (START + 1, 3)
        await kill(runtime, uid)
        with pytest.raises(u.ClockMovedBack):
            await uid.take(1)
        clock.ms += 5001
        ids += await uid.take(100)
        assert len(set(ids)) == 200


async def test_a_step_forward_asks_for_a_new_promise(config: u.Config) -> None:
    """Beyond the mark in the file nothing is issued before a later mark is on disk; the caller just waits for it."""
    clock = Clock()
    async with running(config, clock) as (_, uid):
        clock.ms += 3_600_000
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        number = await uid.snowflake()
        assert unix_ms(number) == clock.ms
        assert uid.snowflake_nowait() > number
        if config.state_path is not None:
            assert rows(config.state_path)[0][2] >= clock.ms


def test_marks_move_on_by_themselves(path: str) -> None:
    """The mark in the file is ahead of every id, although nobody asks for it: `snowflake_nowait` keeps working."""

    async def scenario() -> None:
        def virtual_ms() -> int:
            return START + int(trio.current_time() * 1000)

        async with running(u.Config(state_path=path, tolerance=0.2), virtual_ms) as (_, uid):
            first = rows(path)[0][2]
            while rows(path)[0][2] < first + 3000:
                await trio.sleep(0.01)
                assert unix_ms(uid.snowflake_nowait()) <= rows(path)[0][2]

    testing.run(scenario)
