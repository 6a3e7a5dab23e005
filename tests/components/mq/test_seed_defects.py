"""The defects of the kits that this component's features come from: each has a test that would have caught it.

Those that have a test of their own elsewhere, by the defect:

* never commits, or commits what failed: `test_commits_come_after_so_much_time_or_so_many_records`,
  `test_a_handler_that_raises_does_not_commit`
* commits before it is done, so that a crash loses what was in hand: `test_what_is_not_done_is_delivered_again`,
  `test_a_commit_never_covers_a_record_that_is_not_done`
* a later success commits past an earlier failure: `test_a_later_success_never_commits_past_an_earlier_failure`
* the trace id is written under one name and read under another: `test_the_trace_of_the_sender_is_the_handlers`
* the defaults of production are refused by the component itself: `test_the_defaults_of_every_environment_are_accepted`
* records of paused partitions are fetched and dropped: `test_what_was_fetched_and_paused_is_handled_after_resume`
* a retry that waits in memory is lost in a crash: `test_what_waits_in_a_retry_topic_survives`
* a failing record is an infinite loop, or skipped: `test_poison_is_put_aside_and_can_be_replayed`
* dead letters without their origin, and without a way back: `test_poison_goes_to_the_dead_letter_topic`,
  `test_letters_are_replayed_to_their_group_once`, `test_letters_are_sent_back_beside_the_service`
* one record at a time: `test_keys_of_one_partition_run_concurrently_and_each_in_order`
* no backpressure: `test_memory_is_bounded`, `test_a_send_waits_for_room`
* no commit before a partition is given away: `test_a_handler_that_runs_ends_before_its_partition_changes_hands`
* long handlers make the group rebalance for ever: `test_a_slow_handler_is_no_reason_to_lose_anything`
* a retry of the producer changes the order: `test_nothing_overtakes_what_could_not_be_written`
* the lag is a sketch in the manual: `test_groups_are_listed_and_described`, `test_the_lag_counts_what_is_there`
* a close drops what was accepted, or does not finish the record in hand: `test_a_stop_writes_what_was_accepted`,
  `test_a_stop_ends_the_handler_that_runs_and_commits`
* a send beside a database transaction is lost or wrong: `tests/components/db/test_outbox.py`
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import creche
from creche.components import mq as m
from creche.components.mq.log import Fetched
from creche.components.mq.membership import Membership

from .support import Seen, killed, log_at, send, until_shared, virtual_log_at


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

    async def fail(_member: Membership, _positions: Mapping[tuple[str, int], int], _limit: int, _size: int) -> Fetched:
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
        await until_shared(*((consumer, 2) for consumer in consumers))
        await send(mq, *range(40), key=None)
        await seen.until_done(40)
        assert len({c.path for c in consumers}) == 4


def test_the_tests_named_above_are_there() -> None:
    """A list that nobody checks is soon wrong."""
    named = re.findall(r"`(test_\w+)`", __doc__ or "")
    sources = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("test_*.py"))]
    there = {name for source in sources for name in re.findall(r"def (test_\w+)", source)}
    assert len(named) > 20
    assert not [name for name in named if name not in there]


async def test_who_has_unsubscribed_gets_nothing_more(tmp_path: Path) -> None:
    """A consumer that was stopped is not subscribed again by anything that happens."""
    one, two = Seen(), Seen()
    async with log_at(tmp_path / "log", partitions=2) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", one, name="one"))
        await runtime.start(m.consumer(mq, "g", "t", two, name="two"))
        await runtime.stop(consumer)
        await killed(runtime, mq)
        await mq.topics.create_partitions("t", 4)
        await send(mq, *range(20), key=None)
        await two.until_done(20)
        assert len((await mq.groups.describe("g")).members) == 1
    assert one.tried == []


async def test_looking_after_topics_again_and_again_leaves_nothing_behind(tmp_path: Path) -> None:
    """No client, task, thread or file for each look."""
    async with log_at(tmp_path / "log") as (_, mq):
        await mq.topics.create("t")

        def held() -> tuple[int, int]:
            root = trio.lowlevel.current_root_task()
            assert root is not None
            return count_tasks(root), len(list(tmp_path.rglob("*")))

        before = held()
        for _ in range(50):
            await mq.topics.list()
            await mq.topics.describe("t")
            await mq.groups.list()
        assert held() == before


def count_tasks(task: trio.lowlevel.Task) -> int:
    return 1 + sum(count_tasks(child) for nursery in task.child_nurseries for child in nursery.child_tasks)


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
