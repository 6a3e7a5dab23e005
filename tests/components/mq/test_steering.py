"""Consumers: commits, stops, and the messages that steer them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import creche
from creche.components import mq as m
from creche.components.mq.membership import Membership

from .support import (
    STEADY,
    Boom,
    Failing,
    Seen,
    log_at,
    send,
    virtual_log_at,
)

# --- commits --------------------------------------------------------------------------------------------------------


async def test_commits_come_after_so_much_time_or_so_many_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Whichever is earlier, counted from the first record that is done and not committed."""
    seen = Seen()
    limits: dict[str, Any] = {"commit_every": 5, "commit_interval": 10.0, "poll_interval": 1000.0, "partitions": 1}
    async with virtual_log_at(tmp_path / "log", monkeypatch, **limits) as (runtime, mq):
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await trio.sleep(100)
        await send(mq, *range(3))
        await seen.until_done(3)
        await trio.sleep(9)
        assert await mq.lag("g") == {("t", 0): 3}
        await trio.sleep(2)
        assert await mq.lag("g") == {("t", 0): 0}
        await send(mq, *range(5))
        await seen.until_done(8)
        await trio.sleep(1)
        assert await mq.lag("g") == {("t", 0): 0}
        await send(mq, 8)
        await seen.until_done(9)
        await trio.sleep(9)
        assert await mq.lag("g") == {("t", 0): 1}  # the count begins anew with each commit


async def test_a_commit_never_covers_a_record_that_is_not_done(tmp_path: Path) -> None:
    """Of a partition whose record hangs nothing further is committed, whatever other partitions do."""
    gate = trio.Event()

    async def hang(record: m.Received) -> None:
        if record.value == b"3":
            await gate.wait()

    seen = Seen(hang)
    async with log_at(tmp_path / "log", partitions=2, commit_every=1) as (runtime, mq):
        await send(mq, *range(8), key=None)  # even ones in partition 0
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=2))
        await seen.until_done(5)
        await seen.until_tried(6)
        assert await consumer.lag() == {("t", 0): 0, ("t", 1): 3}
        gate.set()
        await seen.until_done(8)
        assert await consumer.lag() == {("t", 0): 0, ("t", 1): 0}


async def test_a_stop_ends_the_handler_that_runs_and_commits(tmp_path: Path) -> None:
    """Nothing new is begun; a successor goes on behind the last record that was done."""
    gate = trio.Event()
    seen = Seen(lambda _record: gate.wait())
    async with log_at(tmp_path / "log", commit_interval=1000.0) as (runtime, mq):
        await send(mq, 1, 2)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_tried(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.stop, consumer)
            await wait_all_tasks_blocked()
            gate.set()
        assert seen.values == [b"1"]
        assert sum((await mq.lag("g")).values()) == 1
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(2)
        assert seen.values == [b"1", b"2"]


async def test_a_stop_does_not_wait_for_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """A record in its backoff is left for the successor, at once."""
    seen = Seen(Failing({b"1": 9}))
    async with virtual_log_at(tmp_path / "log", monkeypatch) as (runtime, mq):
        await send(mq, 1)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(backoff=STEADY)))
        await seen.until_tried(1)
        await runtime.stop(consumer)
        assert trio.current_time() == 0.0


async def test_a_handler_that_outlasts_the_stop_is_cancelled_and_delivered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """What was done before it is committed all the same."""

    async def hang(record: m.Received) -> None:
        if record.value == b"2":
            await trio.sleep_forever()

    seen, again = Seen(hang), Seen()
    async with virtual_log_at(tmp_path / "log", monkeypatch, commit_interval=1000.0) as (runtime, mq):
        await send(mq, 1, 2)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_tried(2)
        await runtime.stop(consumer)
        await runtime.start(m.consumer(mq, "g", "t", again))
        await again.until_done(1)
    assert (seen.values, again.values) == ([b"1"], [b"2"])
    assert not runtime.unstopped


async def test_a_stop_does_not_wait_for_a_log_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Then the last commit is missing, and the records will be delivered again."""
    seen = Seen()
    async with virtual_log_at(tmp_path / "log", monkeypatch, commit_interval=1000.0) as (runtime, mq):
        await send(mq, 1)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(1)
        await runtime.stop(mq)
        await runtime.stop(consumer)
        assert trio.current_time() < 1.0


# --- steering -------------------------------------------------------------------------------------------------------


async def test_pause_and_resume(tmp_path: Path) -> None:
    """After `pause` has returned no handler begins; what was fetched already waits too, and nothing is lost."""
    gate = trio.Event()
    seen = Seen(lambda _record: gate.wait())
    async with log_at(tmp_path / "log") as (runtime, mq):
        await send(mq, *range(5))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_tried(1)
        await consumer.pause()
        gate.set()
        await seen.until_done(1)
        await send(mq, 5)
        await wait_all_tasks_blocked()
        assert seen.values == [b"0"]
        assert sum((await consumer.lag()).values()) == 5
        await consumer.resume()
        await seen.until_done(6)
        assert seen.values == [b"%d" % n for n in range(6)]


async def test_pause_holds_a_retry_and_its_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """A record that waits for its retry does not run while paused, and its failures are not forgotten."""
    seen = Seen(Failing({b"1": 2}))
    async with virtual_log_at(tmp_path / "log", monkeypatch) as (runtime, mq):
        await send(mq, 1)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(attempts=3, backoff=STEADY)))
        await seen.until_tried(2)
        await consumer.pause()
        await trio.sleep(100)
        assert len(seen.tried) == 2
        await consumer.resume()
        await seen.until_done(1)
        assert [r.attempt for r in seen.tried] == [1, 2, 3]


async def test_seek_goes_back_and_forth(tmp_path: Path) -> None:
    """From the offset on, also after a restart at once: it is committed when `seek` returns."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=1, commit_interval=1000.0, poll_interval=1000.0) as (runtime, mq):
        await send(mq, *range(4))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(4)
        await consumer.seek("t", 0, 2)
        await seen.until_done(6)
        assert seen.values[4:] == [b"2", b"3"]
        await consumer.pause()
        await consumer.seek("t", 0, 3)
        assert await mq.lag("g") == {("t", 0): 1}
        runtime.kill(consumer, "test")
        await seen.until_done(7)
        assert seen.values[6:] == [b"3"]
        await consumer.seek("t", 0, 5)
        await send(mq, 4, 5)
        await seen.until_done(8)
        assert seen.values[7:] == [b"5"]


async def test_seek_while_a_handler_runs_waits_for_its_end(tmp_path: Path) -> None:
    """The handlers of a partition never overlap; what the old one does to its own offset no longer counts."""
    gate = trio.Event()
    running = 0

    async def one_at_a_time(_record: m.Received) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await gate.wait()
        running -= 1

    seen = Seen(one_at_a_time)
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        await send(mq, 0, 1, 2)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=4))
        await seen.until_tried(1)
        await consumer.seek("t", 0, 0)
        gate.set()
        await seen.until_done(4)
        assert seen.values == [b"0", b"0", b"1", b"2"]


async def test_what_a_handler_does_after_a_seek_is_not_counted(tmp_path: Path) -> None:
    """Its failure sends nothing to the dead letters: the record is not the one to go on with any more."""
    gate = trio.Event()

    async def fail_late(record: m.Received) -> None:
        if record.value == b"0":
            await gate.wait()
            raise Boom

    seen = Seen(fail_late)
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        await send(mq, 0, 1)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(attempts=1)))
        await seen.until_tried(1)
        await consumer.seek("t", 0, 1)
        gate.set()
        await seen.until_done(1)
        assert await mq.topics.list() == {"t": 1}


async def test_a_seek_outlasts_a_commit_that_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it goes back to exactly where the last known commit was."""
    held, gate = trio.Event(), trio.Event()

    async def hold_first(member: Membership, offsets: Mapping[tuple[str, int], int]) -> list[tuple[str, int]]:
        if offsets == {("t", 0): 3} and not held.is_set():
            held.set()
            await gate.wait()
        return await commit(member, offsets)

    commit = Membership.commit
    monkeypatch.setattr(Membership, "commit", hold_first)
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=1, commit_every=3) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await send(mq, *range(3))
        await held.wait()
        await consumer.pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.seek, "t", 0, 0)
            await wait_all_tasks_blocked()
            gate.set()
        await wait_all_tasks_blocked()
        assert await mq.lag("g") == {("t", 0): 3}


async def test_a_seek_goes_back_behind_a_commit_whose_outcome_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The commit may have been made although it failed: the seek is committed in any case."""
    failed = trio.Event()

    async def commit_and_fail_once(member: Membership, offsets: Mapping[tuple[str, int], int]) -> list[tuple[str, int]]:
        refused = await commit(member, offsets)
        if not failed.is_set():
            failed.set()
            raise creche.OutcomeUnknown("root/mq")
        return refused

    commit = Membership.commit
    monkeypatch.setattr(Membership, "commit", commit_and_fail_once)
    async with virtual_log_at(tmp_path / "log", monkeypatch, partitions=1, commit_every=3) as (runtime, mq):
        await send(mq, *range(3))
        consumer = await runtime.start(m.consumer(mq, "g", "t", Seen()))
        await failed.wait()
        await consumer.pause()
        await consumer.seek("t", 0, 0)
        assert await mq.lag("g") == {("t", 0): 3}


async def test_a_seek_that_could_not_be_committed_is_committed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The caller is told; the consumer goes on from there, and commits it when it can."""
    fails = True

    async def fail_once(member: Membership, offsets: Mapping[tuple[str, int], int]) -> list[tuple[str, int]]:
        nonlocal fails
        fails, now = False, fails
        if now:
            raise m.Unavailable("mq", "locked")
        return await commit(member, offsets)

    commit = Membership.commit
    monkeypatch.setattr(Membership, "commit", fail_once)
    async with virtual_log_at(tmp_path / "log", monkeypatch, partitions=1, commit_interval=10.0) as (runtime, mq):
        await send(mq, *range(3))
        consumer = await runtime.start(m.consumer(mq, "g", "t", Seen()))
        await consumer.pause()
        with pytest.raises(m.Unavailable):
            await consumer.seek("t", 0, 2)
        await trio.sleep(11)
        assert await mq.lag("g") == {("t", 0): 1}


async def test_seek_ends_a_backoff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """The way past a record that fails for ever does not wait for its retry."""
    seen = Seen(Failing({b"0": 99}))
    slow = m.RetryPolicy(attempts=99, backoff=creche.Backoff(first=1000.0, cap=1000.0, jitter=0.0, free=0))
    async with virtual_log_at(tmp_path / "log", monkeypatch, partitions=1) as (runtime, mq):
        await send(mq, 0, 1)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=slow))
        await seen.until_tried(1)
        await consumer.seek("t", 0, 1)
        await seen.until_done(1)
        assert trio.current_time() < 1.0


async def test_seek_refuses_what_is_not_there(tmp_path: Path) -> None:
    """The answer says what there is; the consumer lives on."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        with pytest.raises(m.PartitionUnknown, match="it reads t/0"):
            await consumer.seek("t", 1, 0)
        for offset in (-1, 2**63):
            with pytest.raises(m.OffsetInvalid):
                await consumer.seek("t", 0, offset)
        await send(mq, 1)
        await seen.until_done(1)
        assert runtime.node_of(consumer).incarnation == 1
