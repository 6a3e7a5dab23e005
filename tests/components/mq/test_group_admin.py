"""Groups from outside: who is there, where they have come to, and setting that for a group without consumers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.components import mq as m

from .support import Seen, log_at, recorded, send, virtual_log_at


async def test_groups_are_listed_and_described(tmp_path: Path) -> None:
    """Members with what they read, offsets, lag; without consumers the offsets stay."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=2) as (runtime, mq):
        assert await mq.groups.list() == []
        await send(mq, 1, 2, 3)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(3)
        assert sum((await consumer.lag()).values()) == 0
        await consumer.pause()
        await send(mq, 4)
        info = await mq.groups.describe("g")
        ((name, places),) = info.members.items()
        assert name.startswith(f"{consumer.path}@")
        assert places == (("t", 0), ("t", 1))
        assert sorted(info.committed.values()) == [0, 3]
        assert info.lag == await mq.lag("g")
        assert sum(info.lag.values()) == 1
        await runtime.stop(consumer)
        assert await mq.groups.list() == ["g"]
        assert await mq.groups.describe("g") == m.GroupInfo("g", {}, info.committed, info.lag)
        assert await mq.groups.describe("nobody") == m.GroupInfo("nobody", {}, {}, {})


async def test_a_group_without_consumers_can_be_sent_elsewhere(tmp_path: Path) -> None:
    """Also one that there never was; it goes on from there at its next start."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        await send(mq, *range(5))
        await mq.groups.set_offsets("g", {("t", 0): 3})
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(2)
        await runtime.stop(consumer)
        await mq.groups.set_offsets("g", {("t", 0): "beginning"})
        assert (await mq.groups.describe("g")).committed == {("t", 0): 0}
        await mq.groups.set_offsets("g", {("t", 0): "end"})
        assert await mq.lag("g") == {("t", 0): 0}
        assert await mq.groups.delete("g")
        assert not await mq.groups.delete("g")
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(7)
    assert seen.values == [b"3", b"4", b"0", b"1", b"2", b"3", b"4"]


async def test_a_group_with_consumers_is_left_alone(tmp_path: Path) -> None:
    """They would not hear of it. Members of a process that has ended do not count."""
    path = tmp_path / "log"
    async with log_at(path, session_timeout=1000.0) as (_, mq):
        async with creche.open_runtime("another") as other:
            theirs = await other.start(m.component(m.Config(path=str(path))))
            await other.start(m.consumer(theirs, "g", "t", Seen()))
            while not (await mq.groups.describe("g")).members:
                await trio.lowlevel.checkpoint()
            for change in (lambda: mq.groups.delete("g"), lambda: mq.groups.set_offsets("g", {("t", 0): 1})):
                with pytest.raises(m.GroupActive, match="stop its consumers") as refused:
                    await change()
                assert (refused.value.group, len(refused.value.members)) == ("g", 1)
            await other.stop(theirs)  # so its consumer cannot say good-bye
        await mq.groups.set_offsets("g", {("t", 0): 1})
        assert (await mq.groups.describe("g")).committed[("t", 0)] == 1


@pytest.mark.parametrize("offset", [-1, 2**63, 1.5, "middle", None, True])
async def test_an_offset_is_a_number_or_an_end(offset: Any, tmp_path: Path) -> None:
    """Told before anything is sent."""
    async with log_at(tmp_path / "log") as (_, mq):
        await mq.topics.create("t")
        with pytest.raises(m.OffsetInvalid, match="'beginning' or 'end'"):
            await mq.groups.set_offsets("g", {("t", 0): offset})


async def test_all_offsets_are_set_or_none(tmp_path: Path) -> None:
    """A partition that is not there leaves the others as they were."""
    async with log_at(tmp_path / "log", partitions=1) as (_, mq):
        await mq.topics.create("t")
        for place in (("t", 1), ("nothing", 0)):
            with pytest.raises(m.TopicUnknown):
                await mq.groups.set_offsets("g", {("t", 0): 1, place: 1})
        assert (await mq.groups.describe("g")).committed == {}
        with pytest.raises(m.GroupInvalid):
            await mq.groups.describe("")


async def test_a_group_that_lags_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Every so often while it does, whether it has consumers or not: to warn, or to start another one."""
    seen = Seen()
    config: dict[str, Any] = {"partitions": 2, "lag_warning": 2, "lag_interval": 30.0}
    async with virtual_log_at(tmp_path / "log", monkeypatch, clock=trio.current_time, **config) as (runtime, mq):
        events = recorded(runtime)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await consumer.pause()
        await send(mq, 1, 2, key=None)
        await trio.sleep(40)
        await send(mq, 3, 4, key=None)
        await runtime.stop(consumer)
        await trio.sleep(60)
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await trio.sleep(60)
    told = [(e.group, e.records, round(e.time)) for e in events if isinstance(e, m.GroupLags)]
    assert told == [("g", 4, 60), ("g", 4, 90)]
