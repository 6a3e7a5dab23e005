"""Consumers: at least once, in order, and no further committed than done."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import creche
from creche.components import mq as m
from creche.components.mq.actor import LogLease
from creche.components.mq.groups import Groups, Share
from creche.components.mq.log import Fetched, Log
from creche.runtime.cell import Cell

from .support import (
    AT_ONCE,
    QUICK,
    STEADY,
    Boom,
    Failing,
    Seen,
    after_each_fetch,
    killed,
    log_at,
    message,
    recorded,
    send,
    values_in,
    virtual_log_at,
)

# --- reading ------------------------------------------------------------------------------------------------------


async def test_a_consumer_gets_what_is_there_and_what_comes(tmp_path: Path) -> None:
    """From the beginning of the topics, each record with its place; topics that do not exist yet are created."""
    seen = Seen()
    async with log_at(tmp_path / "log", poll_interval=1000.0) as (runtime, mq):
        await send(mq, 0, 1)
        consumer = await runtime.start(m.consumer(mq, "g", ["t", "u"], seen))
        await seen.until_done(2)
        await send(mq, 2)
        await send(mq, 3, topic="u")
        await seen.until_done(4)
        assert sorted(seen.values) == [b"0", b"1", b"2", b"3"]
        assert [(r.topic, r.offset, r.attempt) for r in seen.done if r.topic == "t"] == [("t", n, 1) for n in range(3)]
        assert set((await consumer.lag()).values()) == {0}
        assert await mq.lag("g") == await consumer.lag()
        assert len(await mq.lag("g")) == 6


async def test_groups_are_apart(tmp_path: Path) -> None:
    """Each group gets every record."""
    one, two = Seen(), Seen()
    async with log_at(tmp_path / "log") as (runtime, mq):
        await runtime.start(m.consumer(mq, "one", "t", one))
        await runtime.start(m.consumer(mq, "two", "t", two))
        await send(mq, *range(10))
        await one.until_done(10)
        await two.until_done(10)


async def test_an_append_wakes_the_consumer_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """No time passes between an append and its handler, however long the poll interval is; also after a restart."""
    seen = Seen()
    async with virtual_log_at(tmp_path / "log", monkeypatch, poll_interval=1000.0, commit_interval=5000.0) as (
        runtime,
        mq,
    ):
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await trio.sleep(100)
        started = trio.current_time()
        for n in range(5):
            await send(mq, n)
            await seen.until_done(n + 1)
            if n == 2:
                await wait_all_tasks_blocked()
                await killed(runtime, mq)
        assert trio.current_time() - started < 1.0  # asking again after the kill takes a backoff


async def test_records_of_another_process_are_found_by_polling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Nobody wakes the consumer for them: it looks every `poll_interval`."""
    seen = Seen()
    async with virtual_log_at(tmp_path / "log", monkeypatch, poll_interval=10.0) as (runtime, mq):
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await trio.sleep(5)
        other = Log(str(tmp_path / "log"), "normal", 1.0, 3)
        other.append([message(1)], time.time())
        other.close()
        await seen.until_done(1)
        assert trio.current_time() == pytest.approx(10.0)


async def let_others_run(_record: m.Received) -> None:
    await trio.lowlevel.checkpoint()


async def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow handler holds up the fetching: never more than `max_fetched` records are fetched and not done."""
    fetched = 0

    async def count(some: Fetched) -> None:
        nonlocal fetched
        fetched += len(some.records)
        assert fetched - len(seen.done) <= 6

    after_each_fetch(monkeypatch, count)
    seen = Seen(let_others_run)
    async with log_at(tmp_path / "log", max_fetched=6, partitions=3) as (runtime, mq):
        await send(mq, *range(100), key=None)
        await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=3))
        await seen.until_done(100)
    assert fetched == 100


# --- order and concurrency ------------------------------------------------------------------------------------------


async def test_partitions_run_concurrently_and_each_in_order(tmp_path: Path) -> None:
    """In that order: as many handlers at a time as `concurrency` says, but never two of one partition."""
    running: dict[int, int] = {}
    most = 0

    async def note(record: m.Received) -> None:
        nonlocal most
        assert record.partition not in running
        running[record.partition] = record.offset
        most = max(most, len(running))
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        del running[record.partition]

    seen = Seen(note)
    async with log_at(tmp_path / "log", partitions=4) as (runtime, mq):
        await send(mq, *range(80), key=None)
        await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=2, order="partition"))
        await seen.until_done(80)
    assert most == 2
    for partition in range(4):
        assert [r.offset for r in seen.done if r.partition == partition] == list(range(20))


# --- failures -------------------------------------------------------------------------------------------------------


async def test_a_failing_record_is_retried_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """After the backoff's delays, before anything behind it in its partition; other partitions go on meanwhile."""
    seen = Seen(Failing({b"bad": 3}))
    async with virtual_log_at(tmp_path / "log", monkeypatch) as (runtime, mq):
        events = recorded(runtime)
        await send(mq, "bad", "behind", key=b"k")
        await send(mq, "other", key=b"other")
        policy = m.RetryPolicy(attempts=4, backoff=STEADY)
        await runtime.start(m.consumer(mq, "g", "t", seen, retry=policy))
        await seen.until_done(3)
    assert seen.values == [b"other", b"bad", b"behind"]
    tries = [(when, r.attempt) for when, r in zip(seen.times, seen.tried, strict=True) if r.value == b"bad"]
    assert tries == [(0.0, 1), (1.0, 2), (3.0, 3), (7.0, 4)]
    failed = [event for event in events if isinstance(event, m.RecordFailed)]
    assert [(e.attempt, e.action, e.delay) for e in failed] == [(1, "retry", 1.0), (2, "retry", 2.0), (3, "retry", 4.0)]
    assert {(e.group, e.topic, e.offset, e.error) for e in failed} == {("g", "t", 0, "Boom: no good")}


async def test_poison_goes_to_the_dead_letter_topic(tmp_path: Path) -> None:
    """With its origin and its error in the headers; the records behind it are handled."""
    seen, dead = Seen(Failing({b"bad": 99})), Seen()
    async with log_at(tmp_path / "log") as (runtime, mq):
        ack = await mq.send_sync(m.Message("t", b"bad", b"k", {"kind": "x", m.OUTBOX_HEADER: "1"}))
        await send(mq, "good")
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(attempts=3, backoff=QUICK)))
        await runtime.start(m.consumer(mq, "dead", "t.dead_letter", dead))
        await seen.until_done(1)
        await dead.until_done(1)
        assert set((await consumer.lag()).values()) == {0}
    assert [r.value for r in seen.tried] == [b"bad"] * 3 + [b"good"]
    (letter,) = dead.done
    assert (letter.value, letter.key) == (b"bad", b"k")
    assert letter.headers == {
        "kind": "x",
        "creche-outbox-id": f"dead_letter:g:t/{ack.partition}/0@{ack.time:.6f}",
        "creche-group": "g",
        "creche-original-topic": "t",
        "creche-original-partition": str(ack.partition),
        "creche-original-offset": "0",
        "creche-original-time": f"{ack.time:.6f}",
        "creche-error-type": f"{Boom.__module__}.Boom",
        "creche-error": "no good",
        "creche-attempts": "3",
    }


async def test_the_policy_decides_by_the_error(tmp_path: Path) -> None:
    """Dropped or dead-lettered at the first failure; what is dropped is told by an event."""
    seen = Seen(Failing({b"drop": 9}, ValueError()))
    async with log_at(tmp_path / "log") as (runtime, mq):
        events = recorded(runtime)
        await send(mq, "drop", "good")
        policy = m.RetryPolicy(on={ValueError: "drop"})
        await runtime.start(m.consumer(mq, "g", "t", seen, retry=policy))
        await seen.until_done(1)
        assert await mq.topics.list() == {"t": 3}
    assert [event.action for event in events if isinstance(event, m.RecordFailed)] == ["drop"]


async def test_weather_is_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """A failed call of the handler counts as no attempt: the record is retried for as long as it takes."""
    seen = Seen(Failing({b"1": 20}, creche.OutcomeUnknown("root/db")))
    async with virtual_log_at(tmp_path / "log", monkeypatch) as (runtime, mq):
        await send(mq, 1)
        events = recorded(runtime)
        await runtime.start(m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(attempts=2, backoff=STEADY)))
        await seen.until_done(1)
        assert await mq.topics.list() == {"t": 3}
    assert {r.attempt for r in seen.tried} == {1}
    assert {event.attempt for event in events if isinstance(event, m.RecordFailed)} == {1}
    assert trio.current_time() == pytest.approx(1 + 2 + 4 + 8 * 17)


async def test_a_dead_letter_that_cannot_be_sent_is_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The record is not done before the log has its letter, so nothing is lost meanwhile; the consumer lives on."""
    path = tmp_path / "log"
    other_process = sqlite3.connect(path, isolation_level=None)

    async def lock_log_and_fail(record: m.Received) -> None:
        if record.value == b"bad":
            other_process.execute("BEGIN IMMEDIATE")
            raise Boom

    seen = Seen(lock_log_and_fail)
    async with virtual_log_at(path, monkeypatch, busy_timeout=0.0) as (runtime, mq):
        await send(mq, "bad", "good")
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(attempts=1)))
        await seen.until_tried(1)
        await trio.sleep(100)
        assert len(seen.tried) == 1
        other_process.close()
        await seen.until_done(1)
        assert runtime.node_of(consumer).incarnation == 1
    assert values_in(path, "t.dead_letter") == [b"bad"]


async def test_what_is_no_exception_goes_through(tmp_path: Path) -> None:
    """The signal to end the process is no failure of the record."""

    async def leave(_record: m.Received) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with log_at(tmp_path / "log") as (runtime, mq):
            await send(mq, 1)
            await runtime.start(m.consumer(mq, "g", "t", leave))
            await trio.sleep_forever()


async def test_failures_are_counted_for_each_record(tmp_path: Path) -> None:
    """Two records in a row that fail once each are not one that fails twice; a seek forgets them, too."""
    seen = Seen(Failing({b"0": 1, b"1": 1, b"2": 2}))
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        await send(mq, 0, 1)
        policy = m.RetryPolicy(attempts=2, backoff=creche.Backoff(first=0.0, cap=0.0, free=0))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=policy))
        await seen.until_done(2)
        assert [r.attempt for r in seen.tried] == [1, 2, 1, 2]
        await runtime.stop(consumer)
        hesitating = m.RetryPolicy(attempts=2, backoff=creche.Backoff(first=1000.0, cap=1000.0, free=0))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=hesitating))
        await send(mq, 2)
        for tries in (5, 6):
            await seen.until_tried(tries)
            await wait_all_tasks_blocked()
            await consumer.seek("t", 0, 2)
        await seen.until_done(3)
        assert [r.attempt for r in seen.tried[4:]] == [1, 1, 1]
        assert await mq.topics.list() == {"t": 1}


async def test_an_append_during_a_fetch_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """What comes after the look into the log and before its answer wakes the consumer all the same."""
    fetches = 0

    async def send_one(_some: Fetched) -> None:
        nonlocal fetches
        fetches += 1
        if fetches <= 5:
            await send(mq, fetches)

    after_each_fetch(monkeypatch, send_one)
    seen = Seen()
    async with virtual_log_at(tmp_path / "log", monkeypatch, poll_interval=1000.0) as (runtime, mq):
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(5)
        assert trio.current_time() == 0.0


async def test_an_append_is_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """What is fetched tells, too, that there is nothing more; only if it is as much as was asked for it does not."""
    sizes: list[int] = []

    async def note(some: Fetched) -> None:
        sizes.append(len(some.records))

    after_each_fetch(monkeypatch, note)
    seen = Seen()
    async with virtual_log_at(tmp_path / "log", monkeypatch, max_fetched=8, partitions=1) as (runtime, mq):
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await wait_all_tasks_blocked()
        assert sizes == [0]
        for count, done in ((1, 1), (3, 4), (4, 8)):
            await send(mq, *range(count))
            await seen.until_done(done)
            await wait_all_tasks_blocked()
        assert sizes == [0, 1, 3, 4, 0]


async def test_who_joins_syncs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """The change that a member makes itself is told to the others only."""
    members: list[str] = []

    def noting_sync(groups: Groups, group: str, member: str, *rest: Any) -> Share:
        members.append(member)
        return sync(groups, group, member, *rest)

    sync = Groups.sync
    monkeypatch.setattr(Groups, "sync", noting_sync)
    async with virtual_log_at(tmp_path / "log", monkeypatch) as (runtime, mq):
        first = await runtime.start(m.consumer(mq, "g", "t", Seen()).options(name="first"))
        await wait_all_tasks_blocked()
        assert members == [first.path]
        second = await runtime.start(m.consumer(mq, "g", "t", Seen()).options(name="second"))
        await wait_all_tasks_blocked()
        assert members[1:3] == [second.path, first.path]


async def test_a_dead_consumer_is_woken_no_more(tmp_path: Path) -> None:
    """The log forgets the listeners of former incarnations."""
    async with log_at(tmp_path / "log") as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", Seen()).options(backoff=AT_ONCE))
        for _ in range(3):
            await consumer.lag()
            await wait_all_tasks_blocked()
            await killed(runtime, consumer)
        await consumer.lag()
        await wait_all_tasks_blocked()
        lease = cast("Cell", runtime.node_of(mq)).granted
        assert isinstance(lease, LogLease)
        assert len(lease.tail) == 1
