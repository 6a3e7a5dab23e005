"""Consumers: at least once, in order, and no further committed than done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import creche
from creche.components import mq as m
from creche.components.mq.log import Log
from creche.components.mq.membership import Membership

from .support import Seen, log_at, recorded, values_in, virtual_log_at

STEADY = creche.Backoff(first=1.0, factor=2.0, cap=8.0, jitter=0.0, free=0)
QUICK = creche.Backoff(first=0.0, cap=0.0, jitter=0.0, free=0)


def message(value: int | str, key: bytes | None = b"k", topic: str = "t") -> m.Message:
    return m.Message(topic, str(value).encode(), key)


async def send(mq: m.Mq, *values: int | str, key: bytes | None = b"k", topic: str = "t") -> None:
    for result in await mq.send_batch([message(value, key, topic) for value in values]):
        assert isinstance(result, m.Ack)


class Boom(Exception):
    pass


class Failing:
    """Fails for some values so many times each."""

    def __init__(self, times: dict[bytes, int], error: Exception | None = None) -> None:
        self.left = dict(times)
        self.error = error or Boom("no good")

    async def __call__(self, record: m.Received) -> None:
        if self.left.get(record.value, 0):
            self.left[record.value] -= 1
            raise self.error


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
        assert set((await consumer.ask.lag()).values()) == {0}
        assert await mq.lag("g") == await consumer.ask.lag()
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
    async with virtual_log_at(tmp_path / "log", monkeypatch, poll_interval=1000.0, commit_interval=5000.0) as (runtime, mq):
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await trio.sleep(100)
        started = trio.current_time()
        for n in range(5):
            await send(mq, n)
            await seen.until_done(n + 1)
            if n == 2:
                runtime.kill(mq, "test")
                await wait_all_tasks_blocked()
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


async def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow handler holds up the fetching: never more than `max_batch` records are fetched and not done."""
    fetched = 0

    async def counting_fetch(member: Membership, positions: Mapping[tuple[str, int], int], limit: int) -> list[m.Received]:
        nonlocal fetched
        records = await fetch(member, positions, limit)
        fetched += len(records)
        assert fetched - len(seen.done) <= 6
        return records

    fetch = Membership.fetch
    monkeypatch.setattr(Membership, "fetch", counting_fetch)
    seen = Seen(lambda _record: trio.lowlevel.checkpoint())
    async with log_at(tmp_path / "log", max_batch=6, partitions=3) as (runtime, mq):
        await send(mq, *range(100), key=None)
        await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=3))
        await seen.until_done(100)
    assert fetched == 100


# --- order and concurrency ------------------------------------------------------------------------------------------


async def test_partitions_run_concurrently_and_each_in_order(tmp_path: Path) -> None:
    """As many handlers at a time as `concurrency` says, but never two of one partition."""
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
        await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=2))
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
        consumer = await runtime.start(
            m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(attempts=3, backoff=QUICK))
        )
        await runtime.start(m.consumer(mq, "dead", "t.dead_letter", dead))
        await seen.until_done(1)
        await dead.until_done(1)
        assert set((await consumer.ask.lag()).values()) == {0}
    assert [r.value for r in seen.tried] == [b"bad"] * 3 + [b"good"]
    (letter,) = dead.done
    assert (letter.value, letter.key) == (b"bad", b"k")
    assert letter.headers == {
        "kind": "x",
        "creche-outbox-id": f"dead_letter:g:t/{ack.partition}/0",
        "creche-group": "g",
        "creche-original-topic": "t",
        "creche-original-partition": str(ack.partition),
        "creche-original-offset": "0",
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
        await runtime.start(m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(attempts=2, backoff=STEADY)))
        await seen.until_done(1)
        assert await mq.topics.list() == {"t": 3}
    assert {r.attempt for r in seen.tried} == {1}
    assert trio.current_time() == pytest.approx(1 + 2 + 4 + 8 * 17)


async def test_a_dead_letter_that_cannot_be_sent_is_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The record is not done before the log has its letter, so nothing is lost meanwhile; it is written once."""
    path = tmp_path / "log"

    async def kill_log_and_fail(record: m.Received) -> None:
        if record.value == b"bad":
            runtime.kill(mq, "test")
            raise Boom

    seen = Seen(kill_log_and_fail)
    async with virtual_log_at(path, monkeypatch) as (runtime, mq):
        await send(mq, "bad", "good")
        await runtime.start(m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(attempts=1)))
        await seen.until_done(1)
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


# --- commits --------------------------------------------------------------------------------------------------------


async def test_commits_come_after_so_much_time_or_so_many_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Whichever is earlier, counted from the first record that is done and not committed."""
    seen = Seen()
    limits = {"commit_every": 5, "commit_interval": 10.0, "poll_interval": 1000.0, "partitions": 1}
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
        assert await consumer.ask.lag() == {("t", 0): 0, ("t", 1): 3}
        gate.set()
        await seen.until_done(8)
        assert await consumer.ask.lag() == {("t", 0): 0, ("t", 1): 0}


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
        await consumer.ask.pause()
        gate.set()
        await seen.until_done(1)
        await send(mq, 5)
        await wait_all_tasks_blocked()
        assert seen.values == [b"0"]
        assert sum((await consumer.ask.lag()).values()) == 5
        await consumer.ask.resume()
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
        await consumer.ask.pause()
        await trio.sleep(100)
        assert len(seen.tried) == 2
        await consumer.ask.resume()
        await seen.until_done(1)
        assert [r.attempt for r in seen.tried] == [1, 2, 3]


async def test_seek_goes_back_and_forth(tmp_path: Path) -> None:
    """From the offset on, also after a restart at once: it is committed when `seek` returns."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=1, commit_interval=1000.0) as (runtime, mq):
        await send(mq, *range(4))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(4)
        await consumer.ask.seek("t", 0, 2)
        await seen.until_done(6)
        assert seen.values[4:] == [b"2", b"3"]
        await consumer.ask.pause()
        await consumer.ask.seek("t", 0, 3)
        assert await mq.lag("g") == {("t", 0): 1}
        runtime.kill(consumer, "test")
        await seen.until_done(7)
        assert seen.values[6:] == [b"3"]
        await consumer.ask.seek("t", 0, 5)
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
        await consumer.ask.seek("t", 0, 0)
        gate.set()
        await seen.until_done(4)
        assert seen.values == [b"0", b"0", b"1", b"2"]


async def test_seek_ends_a_backoff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The way past a record that fails for ever does not wait for its retry."""
    seen = Seen(Failing({b"0": 99}))
    slow = m.RetryPolicy(attempts=99, backoff=creche.Backoff(first=1000.0, cap=1000.0, jitter=0.0, free=0))
    async with virtual_log_at(tmp_path / "log", monkeypatch, partitions=1) as (runtime, mq):
        await send(mq, 0, 1)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=slow))
        await seen.until_tried(1)
        await consumer.ask.seek("t", 0, 1)
        await seen.until_done(1)
        assert trio.current_time() < 1.0


async def test_seek_refuses_what_is_not_there(tmp_path: Path) -> None:
    """The answer says what there is; the consumer lives on."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        with pytest.raises(m.PartitionUnknown, match="it reads t/0"):
            await consumer.ask.seek("t", 1, 0)
        with pytest.raises(m.OffsetInvalid):
            await consumer.ask.seek("t", 0, -1)
        await send(mq, 1)
        await seen.until_done(1)
        assert runtime.node_of(consumer).incarnation == 1
