"""A seek in a partition that was being given away, or was lost, returned as if it were committed. Nobody went there."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from creche.components import mq as m
from creche.components.mq.membership import Membership

from ..components.mq.support import Boom, Seen, log_at, send


def take_away_everything(path: Path) -> None:
    """What another process does when the rebalance timeout is over."""
    with closing(sqlite3.connect(path, isolation_level=None)) as another:
        another.execute("DELETE FROM owners")


async def test_a_seek_in_a_partition_that_is_given_away_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the next owner goes on is on its way to the log already."""
    held, gate, refused = trio.Event(), trio.Event(), trio.Event()

    async def hold(member: Membership, offsets: Mapping[tuple[str, int], int]) -> None:
        held.set()
        await gate.wait()
        await release(member, offsets)

    async def seek() -> None:
        with pytest.raises(m.PartitionUnknown, match="u/0 is not read here; it reads t/0"):
            await first.seek("u", 0, 5)
        refused.set()

    release = Membership.release
    monkeypatch.setattr(Membership, "release", hold)
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        first = await runtime.start(m.consumer(mq, "g", ("t", "u"), Seen(), name="one"))
        await first.lag()
        await runtime.start(m.consumer(mq, "g", ("t", "u"), Seen(), name="two"))
        await held.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(seek)
            await wait_all_tasks_blocked()
            gate.set()
    assert refused.is_set()


async def test_a_seek_in_a_partition_that_was_taken_away_is_refused(tmp_path: Path) -> None:
    """The log knows before the consumer does, which goes on with what it is given next."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await consumer.lag()
        take_away_everything(tmp_path / "log")
        with pytest.raises(m.PartitionUnknown):
            await consumer.seek("t", 0, 5)
        await send(mq, 1)
        await seen.until_done(1)


async def test_a_handler_that_fails_while_its_partition_is_lost_is_no_crash(tmp_path: Path) -> None:
    """One with a nursery of its own raises a group then, of an error and a Cancelled. It crashed the consumer."""

    async def fail_when_cancelled(_record: m.Received) -> None:
        if len(seen.tried) == 1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                try:
                    await trio.sleep_forever()
                finally:
                    raise Boom

    seen = Seen(fail_when_cancelled)
    async with log_at(tmp_path / "log", partitions=1, heartbeat_interval=0.01) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await send(mq, 1)
        await seen.until_tried(1)
        take_away_everything(tmp_path / "log")
        await seen.until_done(1)
        assert runtime.node_of(consumer).incarnation == 1
