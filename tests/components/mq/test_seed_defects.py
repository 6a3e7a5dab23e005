"""The defects of the kits that this component's features come from: each has a test that would have caught it.

Those that have a test of their own elsewhere, by the defect:

* never commits, or commits what failed: `test_commits_come_after_so_much_time_or_so_many_records`,
  `test_a_handler_that_raises_does_not_commit`
* a later success commits past an earlier failure: `test_a_later_success_never_commits_past_an_earlier_failure`
* the trace id is written under one name and read under another: `test_the_trace_of_the_sender_is_the_handlers`
* the defaults of production are refused by the component itself: `test_the_defaults_of_every_environment_are_accepted`
* records of paused partitions are fetched and dropped: `test_what_was_fetched_and_paused_is_handled_after_resume`
* a retry that waits in memory is lost in a crash: `test_what_waits_in_a_retry_topic_survives`
* a failing record is an infinite loop, or skipped: `test_poison_is_put_aside_and_can_be_replayed`
* no backpressure: `test_memory_is_bounded`, `test_a_send_waits_for_room`
* no commit before a partition is given away: `test_a_handler_that_runs_ends_before_its_partition_changes_hands`
* long handlers make the group rebalance for ever: `test_a_slow_handler_is_no_reason_to_lose_anything`
* a send beside a database transaction is lost or wrong: `tests/components/db/test_outbox.py`
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import creche
from creche.components import mq as m
from creche.components.mq.membership import Membership

from .support import Seen, log_at, send, virtual_log_at


async def test_sending_does_not_change_the_senders_headers(tmp_path: Path) -> None:
    """One message may be sent by many, under different traces."""
    from creche.components import clog

    message = m.Message("t", b"x", headers={"a": "b"})
    async with log_at(tmp_path / "log") as (_, mq):
        with clog.trace("one"):
            await mq.send_sync(message)
            await mq.send(message)
            await mq.send_batch([message])
        await mq.flush()
    assert message.headers == {"a": "b"}


@pytest.mark.parametrize("waits_for", ["records", "log", "group"])
async def test_a_stop_does_not_hang_whatever_the_consumer_waits_for(
    waits_for: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """For records that do not come, for a log that is gone, or for a group that it could never join."""
    async with virtual_log_at(tmp_path / "log", monkeypatch, poll_interval=10_000.0) as (runtime, mq):
        if waits_for == "group":
            await runtime.stop(mq)
        consumer = await runtime.start(m.consumer(mq, "g", "t", Seen()))
        await wait_all_tasks_blocked()
        if waits_for == "log":
            await runtime.stop(mq)
        before = trio.current_time()
        await runtime.stop(consumer)
        assert trio.current_time() - before <= 1.0
        assert not runtime.unstopped


async def test_a_broken_log_is_asked_again_with_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """No hot loop: the pauses grow to seconds."""
    asked: list[float] = []

    async def fail(
        _member: Membership, _positions: Mapping[tuple[str, int], int], _limit: int, _size: int
    ) -> list[m.Received]:
        asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        raise creche.OutcomeUnknown("root/mq")

    monkeypatch.setattr(Membership, "fetch", fail)
    async with virtual_log_at(tmp_path / "log", monkeypatch) as (runtime, mq):
        await send(mq, 1)
        await runtime.start(m.consumer(mq, "g", "t", Seen()))
        await trio.sleep(100)
    assert 20 <= len(asked) <= 40


async def test_consumers_of_one_group_made_at_once_are_all_there(tmp_path: Path) -> None:
    """A group is no map entry that tasks race for: each start gives a consumer of its own, and all share."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=8) as (runtime, mq):
        consumers: list[m.Consumer] = []

        async def start() -> None:
            consumers.append(await runtime.start(m.consumer(mq, "g", "t", seen)))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(start)
        while sorted(0 if (n := c.statistics()) is None else n.partitions for c in consumers) != [2, 2, 2, 2]:
            await trio.lowlevel.checkpoint()
        await send(mq, *range(40), key=None)
        await seen.until_done(40)
        assert len({c.path for c in consumers}) == 4


async def test_what_is_sent_while_nobody_listens_is_not_lost(tmp_path: Path) -> None:
    """By default a group begins at the first record there is, in every environment, and goes on where it was."""
    seen = Seen()
    for env in ("development", "production"):
        assert m.default_config(env).offset_reset == "earliest"
    async with log_at(tmp_path / "log") as (runtime, mq):
        await send(mq, 1)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(1)
        await runtime.stop(consumer)
        await send(mq, 2)
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(2)
