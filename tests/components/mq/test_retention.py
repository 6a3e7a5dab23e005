"""What is deleted, when, and how those hear of it who had not read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import creche
from creche.components import mq as m
from creche.components.mq.log import Log
from creche.components.mq.message import Message

from .support import Seen, log_at, message, recorded, send, virtual_log_at

PLACE = ("t", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def log_keeping(path: Path, time: float | None = None, size: int | None = None) -> Log:
    return Log(str(path), "normal", 0.0, 1, m.Retention(time, size))


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    log = log_keeping(path, time=10.0)
    yield log
    log.close()


def append(log: Log, times: list[float], size: int = 10) -> None:
    for time in times:
        log.append([Message("t", b"x" * size)], time)


def begin_of(log: Log) -> int:
    return log.describe("t").partitions[0].begin


@pytest.mark.parametrize(("now", "begin"), [(10.0, 0), (11.0, 0), (12.5, 2), (14.0, 3), (99.0, 5)])
def test_what_is_too_old_is_deleted(now: float, begin: int, log: Log) -> None:
    """Offsets go on from where they were; the bytes are accounted for."""
    append(log, [1.0, 2.0, 3.0, 4.0, 5.0])
    deleted = log.expire(now, 100)
    assert deleted == ({PLACE: (begin, begin)} if begin else {})
    assert log.describe("t").partitions == (m.PartitionInfo(begin, 5, 10 * (5 - begin)),)
    assert [r.offset for r in log.fetch({PLACE: 0}, 100).records] == list(range(begin, 5))
    assert log.append([Message("t", b"y")], now)[0].offset == 5


@pytest.mark.parametrize(("limit", "begin"), [(100, 0), (50, 0), (49, 1), (25, 3), (1, 5)])
def test_what_is_too_much_is_deleted(limit: int, begin: int, path: Path) -> None:
    """The oldest first, until what is left fits."""
    log = log_keeping(path, size=limit)
    append(log, [0.0] * 5)
    log.expire(0.0, 100)
    assert begin_of(log) == begin
    log.close()


def test_a_little_at_a_time(log: Log) -> None:
    """At most the limit of each partition in one transaction, so that nobody waits long behind it."""
    append(log, [0.0] * 5)
    assert [log.expire(99.0, 2) for _ in range(4)] == [{PLACE: (2, 2)}, {PLACE: (2, 4)}, {PLACE: (1, 5)}, {}]


def test_a_topic_may_have_a_retention_of_its_own(log: Log) -> None:
    """It can be set at any time; without limits it keeps everything."""
    append(log, [0.0] * 5)
    assert log.describe("t").retention == m.Retention(10.0, None)
    log.create_topic("t", retention=m.Retention())
    assert log.expire(99.0, 100) == {}
    log.create_topic("t", retention=m.Retention(bytes=20))
    log.create_topic("t")
    assert log.expire(99.0, 100) == {PLACE: (3, 3)}
    assert log.describe("t").retention == m.Retention(None, 20)


@pytest.mark.parametrize("values", [{"time": 0.0}, {"time": -1.0}, {"bytes": 0}])
def test_a_retention_keeps_something(values: dict[str, Any]) -> None:
    """A limit of nothing is refused when it is made."""
    with pytest.raises(ValueError, match="above 0"):
        m.Retention(**values)


def test_time_never_goes_back_within_a_partition(log: Log) -> None:
    """A clock that is set back leaves the time of the record before, so records can be found by their time."""
    append(log, [5.0, 3.0, 7.0])
    assert [r.time for r in log.fetch({PLACE: 0}, 10).records] == [5.0, 5.0, 7.0]


@pytest.mark.parametrize(("time", "offset"), [(0.0, 1), (1.0, 1), (1.5, 2), (2.0, 2), (2.5, 4), (9.0, 5)])
def test_a_time_leads_to_the_first_record_from_then_on(time: float, offset: int, path: Path) -> None:
    """Of those that are still there; behind the last one if there is none."""
    log = log_keeping(path, time=1.5)
    append(log, [0.0, 1.0, 2.0, 2.0, 3.0])
    log.expire(2.0, 100)
    assert log.offset_at("t", 0, time) == offset
    with pytest.raises(m.TopicUnknown):
        log.offset_at("t", 7, time)
    log.close()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 50), st.integers(0, 9)), max_size=20),
    st.none() | st.floats(1, 30),
    st.none() | st.integers(1, 60),
    st.integers(1, 5),
)
def test_any_history_keeps_exactly_what_retention_says(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[float, int]],
    time: float | None,
    size: int | None,
    step: int,
) -> None:
    """However many are deleted at a time: what is left is the longest tail that is neither too old nor too much."""
    log = log_keeping(tmp_path_factory.mktemp("log") / "log", time, size)
    log.create_topic("t")
    for when, length in records:
        append(log, [when], length)
    kept = log.fetch({PLACE: 0}, 100).records
    while log.expire(50.0, step):
        pass
    while kept and (
        (time is not None and kept[0].time < 50.0 - time) or (size is not None and sum(r.size for r in kept) > size)
    ):
        kept.pop(0)
    assert log.fetch({PLACE: 0}, 100).records == kept
    assert log.describe("t").partitions[0].bytes == sum(r.size for r in kept)
    log.close()


async def test_retention_is_looked_after(
    path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Every `retention_interval`, to the end; an event tells; a group that had not come so far goes on behind, told."""
    seen = Seen()
    keep: dict[str, Any] = {"retention_bytes": 100, "retention_interval": 60.0, "partitions": 1, "max_fetched": 10}
    async with virtual_log_at(path, monkeypatch, **keep) as (runtime, mq):
        events = recorded(runtime)
        await send(mq, *[f"{n:099}" for n in range(1200)])
        await trio.sleep(61)
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(1)
    expired = [event for event in events if isinstance(event, m.RecordsExpired)]
    missed = [event for event in events if isinstance(event, m.RecordsMissed)]
    assert sum(event.records for event in expired) == expired[-1].begin
    assert expired[-1].begin == 1199
    assert [r.offset for r in seen.done] == list(range(expired[-1].begin, 1200))
    assert missed == []  # a new group begins where the topic begins


async def test_a_group_that_was_too_slow_is_told_what_it_missed(
    path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """It goes on with what is there; the gap is an event, and the lag does not count it."""
    seen = Seen()
    keep: dict[str, Any] = {"retention_bytes": 3, "retention_interval": 60.0, "partitions": 1}
    async with virtual_log_at(path, monkeypatch, **keep) as (runtime, mq):
        events = recorded(runtime)
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await send(mq, 0)
        await seen.until_done(1)
        consumer = await runtime.start(m.consumer(mq, "slow", "t", seen))
        await seen.until_done(2)
        await runtime.stop(consumer)
        await send(mq, *range(1, 10), key=None)
        await trio.sleep(61)
        assert await mq.lag("slow") == {("t", 0): 3}
        seen.done.clear()
        await runtime.start(m.consumer(mq, "slow", "t", seen))
        await seen.until_done(3)
        assert [r.offset for r in seen.done] == [7, 8, 9]
    (missed,) = [event for event in events if isinstance(event, m.RecordsMissed)]
    assert (missed.group, missed.topic, missed.partition, missed.offset, missed.until) == ("slow", "t", 0, 1, 7)


async def test_retention_that_is_refused_by_weather_comes_later(
    path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """A locked file does not bring down the log; the next look does the work."""
    async with virtual_log_at(path, monkeypatch, retention_bytes=1, retention_interval=60.0, busy_timeout=0.0) as (
        runtime,
        mq,
    ):
        await send(mq, 1, 2)
        other = log_keeping(path)
        other.db.execute("BEGIN IMMEDIATE")
        await trio.sleep(61)
        other.close()
        await trio.sleep(61)
        assert sum(p.bytes for p in (await mq.topics.describe("t")).partitions) == 0
        assert runtime.node_of(mq).incarnation == 1


async def test_topics_are_described_grown_and_deleted(path: Path) -> None:
    """Each of them refuses what is not there; a consumer takes up new partitions at once, and a topic made anew."""
    seen = Seen()
    async with log_at(path, partitions=1, heartbeat_interval=500.0, session_timeout=1000.0) as (runtime, mq):
        with pytest.raises(m.TopicUnknown):
            await mq.topics.describe("t")
        with pytest.raises(m.TopicUnknown):
            await mq.topics.create_partitions("t", 2)
        assert await mq.topics.create("t", retention=m.Retention(time=60.0)) == 1
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        assert await consumer.lag() == {("t", 0): 0}
        await mq.topics.create_partitions("t", 4)
        with pytest.raises(m.TopicExists):
            await mq.topics.create_partitions("t", 3)
        with pytest.raises(ValueError, match="partitions"):
            await mq.topics.create_partitions("t", 0)
        await send(mq, *range(8), key=None)
        await seen.until_done(8)
        assert {r.partition for r in seen.done} == set(range(4))
        info = await mq.topics.describe("t")
        assert (info.topic, info.retention, [p.end for p in info.partitions]) == ("t", m.Retention(60.0), [2] * 4)
        assert await mq.topics.delete("t")
        assert not await mq.topics.delete("nothing")
        await mq.send_sync(message("anew"))
        await seen.until_done(9)
        assert (seen.done[-1].value, seen.done[-1].offset) == (b"anew", 0)
        assert runtime.node_of(mq).incarnation == 1


async def test_what_is_too_large_is_refused(path: Path) -> None:
    """Before anything of it is accepted; key and headers count; the error says by how much."""
    async with log_at(path, max_message_bytes=10) as (runtime, mq):
        await mq.send_sync(m.Message("t", b"12345", b"678", {"9": "0"}))
        for attempt in (
            lambda: mq.send(m.Message("t", b"12345678", b"901")),
            lambda: mq.send_sync(m.Message("t", b"12345678901")),
            lambda: mq.send_batch([m.Message("t", b""), m.Message("t", b"12345678", None, {"9": "012"})]),
        ):
            with pytest.raises(m.MessageTooLarge) as caught:
                await attempt()
            assert (caught.value.topic, caught.value.limit) == ("t", 10)
            assert caught.value.size > 10
        runtime.kill(mq, "test")  # now it takes a message to the actor to be refused
        with pytest.raises(m.MessageTooLarge):
            await mq.send_sync(m.Message("t", b"12345678901"))
        assert sum((await mq.lag("g")).values()) == 0
        assert sum(p.end for p in (await mq.topics.describe("t")).partitions) == 1
        assert isinstance(m.MessageTooLarge("t", 1, 1), creche.CrecheError)
