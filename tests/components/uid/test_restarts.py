"""Ids over kills, restarts and stops of the actor.

The component writes its state file in worker threads, so these tests run in real time.
"""

from __future__ import annotations

import pytest
import trio

import creche
from creche.components import uid as u
from tests.components.uid.support import (
    START,
    UNDER_FIRE,
    Clock,
    kill,
    rows,
    running,
    unix_ms,
)


async def test_no_duplicates_over_kills(config: u.Config) -> None:
    """Takers in many tasks go on while the actor is killed again and again: all ids differ, and each taker's ascend."""
    taken: list[list[int]] = [[] for _ in range(20)]
    over = False

    async def take(uid: u.Uid, mine: list[int]) -> None:
        while not over:
            if len(mine) % 3:
                mine.append(await uid.snowflake())
            else:
                mine += await uid.take(10)
            await trio.lowlevel.checkpoint()

    async with running(config) as (runtime, uid):
        async with trio.open_nursery() as nursery:
            for mine in taken:
                nursery.start_soon(take, uid, mine)
            kills = 0
            while kills < 50:
                kills += runtime.kill(uid, "chaos")
                await trio.sleep(0.002)
            over = True
        assert runtime.node_of(uid).incarnation == 51
    everything = [number for mine in taken for number in mine]
    assert len(everything) > 1000
    assert len(set(everything)) == len(everything)
    for mine in taken:
        assert mine == sorted(mine)


async def test_a_restart_costs_one_millisecond_not_the_promise(path: str) -> None:
    """A successor has the same worker id and starts in the millisecond after the last one used, without a write."""
    clock = Clock()
    async with running(u.Config(state_path=path), clock) as (runtime, uid):
        clock.ms += 1
        first = await uid.snowflake()
        before = rows(path)
        await kill(runtime, uid)
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        clock.ms += 1
        second = await uid.snowflake()
        assert [(unix_ms(number), u.parse(number).worker_id) for number in (first, second)] == [
            (START + 1, 0),
            (START + 2, 0),
        ]
        assert [row[:2] for row in rows(path)] == [row[:2] for row in before]


async def test_nowait_between_two_incarnations(config: u.Config) -> None:
    """While the actor is down there is no id at once, and a call of `snowflake` waits for the successor."""
    async with creche.open_runtime("test", intensity=UNDER_FIRE) as runtime:
        slowly = creche.Backoff(first=0.05, cap=0.05, free=0)
        uid = await runtime.start(u.component(config).options(backoff=slowly))
        runtime.kill(uid, "test")
        node = runtime.node_of(uid)
        while node.state.name != "DOWN":
            await node.wait_for_change()
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        await uid.snowflake()
        assert node.incarnation == 2


async def test_a_clean_stop_gives_the_worker_id_back(path: str) -> None:
    """The next process of the service has the same worker id, and its mark is the last millisecond used."""
    config = u.Config(state_path=path)
    clock = Clock()
    async with running(config, clock) as (_, uid):
        clock.ms += 1
        first = await uid.snowflake()
    assert rows(path) == [(0, "", START + 1)]
    async with running(config, clock) as (_, uid):
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        clock.ms += 1
        second = await uid.snowflake()
    assert u.parse(second).worker_id == 0
    assert second > first


async def test_no_id_is_issued_after_the_worker_id_is_given_back(path: str) -> None:
    """A handle that is in use while the actor stops has no id later than the mark it leaves behind."""
    ids: list[int] = []

    async def take_until_the_end(uid: u.Uid) -> None:
        with pytest.raises((creche.CallFailed, u.WorkerIdLost)):
            while True:
                try:
                    ids.append(uid.snowflake_nowait())
                except trio.WouldBlock:
                    pass
                await trio.lowlevel.checkpoint()

    async with running(u.Config(state_path=path)) as (runtime, uid), trio.open_nursery() as nursery:
        nursery.start_soon(take_until_the_end, uid)
        while not ids:
            await trio.lowlevel.checkpoint()
        await runtime.stop(uid)
    assert ids
    assert unix_ms(ids[-1]) == rows(path)[0][2]


async def test_a_process_that_starts_on_an_earlier_clock(path: str) -> None:
    """After a larger step back between two lives, another worker id is used, and goes on at once."""
    config = u.Config(state_path=path)
    async with running(config, Clock()):
        pass
    clock = Clock(START - 60_000)
    async with running(config, clock) as (_, uid):
        clock.ms += 1
        assert u.parse(await uid.snowflake()).worker_id == 1
