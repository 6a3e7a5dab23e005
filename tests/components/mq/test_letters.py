"""Retry topics, dead letters and their replay."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import creche
from creche.components import mq as m
from creche.components.mq import letters
from creche.components.mq.message import ORIGINAL_TOPIC

from .support import (
    STEADY,
    Boom,
    Failing,
    Seen,
    cancelled_at_checkpoint,
    killed,
    log_at,
    recorded,
    send,
    values_in,
    virtual_log_at,
)

ONCE = m.RetryPolicy(attempts=1)


async def test_a_record_goes_through_the_retry_topics_to_the_dead_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """After its tries in place it comes back after each of the delays; what is behind it does not wait for that."""
    seen = Seen(Failing({b"bad": 99}))
    async with virtual_log_at(tmp_path / "log", monkeypatch, clock=trio.current_time) as (runtime, mq):
        events = recorded(runtime)
        await mq.send_sync(m.Message("t", b"bad", b"k", {"kind": "x"}))
        await send(mq, "behind")
        policy = m.RetryPolicy(attempts=2, backoff=STEADY, topics=(10.0, 300.0))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=policy))
        await seen.until_tried(5)
        while set((await consumer.lag()).values()) != {0}:
            await trio.lowlevel.checkpoint()
        letters_there = await mq.dead_letters.list("t.dead_letter", "g")
    tries = [(round(when), r.topic, r.attempt) for when, r in zip(seen.times, seen.tried, strict=True)]
    assert tries == [(0, "t", 1), (1, "t", 2), (1, "t", 1), (11, "t.retry.1", 3), (311, "t.retry.2", 4)]
    assert {r.original_topic for r in seen.tried} == {"t"}
    failed = [event for event in events if isinstance(event, m.RecordFailed)]
    assert [(e.action, e.delay) for e in failed] == [
        ("retry", 1.0),
        ("retry_topic", 10.0),
        ("retry_topic", 300.0),
        ("dead_letter", 0.0),
    ]
    (letter,) = letters_there
    assert (letter.value, letter.key, letter.headers["kind"]) == (b"bad", b"k", "x")
    assert letter.headers["creche-attempts"] == "4"
    assert letter.headers["creche-original-topic"] == "t"
    assert letter.headers["creche-original-offset"] == "0"
    assert "creche-not-before" not in letter.headers
    assert "creche-for-group" not in letter.headers


async def test_what_waits_in_a_retry_topic_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Its delay is in the log, not in memory: a crash neither loses nor repeats it, and counts as no failure."""
    seen = Seen(Failing({b"bad": 2}))
    async with virtual_log_at(tmp_path / "log", monkeypatch, clock=trio.current_time) as (runtime, mq):
        await send(mq, "bad")
        policy = m.RetryPolicy(attempts=1, topics=(100.0, 100.0))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=policy))
        await trio.sleep(50)
        await killed(runtime, consumer)
        await killed(runtime, mq)
        await seen.until_done(1)
        assert trio.current_time() == pytest.approx(200.0, abs=10.0)
    assert [r.attempt for r in seen.tried] == [1, 2, 3]


@pytest.mark.parametrize("own_topic", [None, "morgue"])
async def test_letters_are_found_under_the_name_of_their_topic_too(own_topic: str | None, tmp_path: Path) -> None:
    """By default; where they have a topic that was chosen, that is the only name to look under."""
    async with log_at(tmp_path / "log") as (runtime, mq):
        failing = Failing({b"bad": 1})
        consumer = await runtime.start(m.consumer(mq, "g", "t", failing, retry=ONCE, dead_letter=own_topic))
        await send(mq, "bad")
        while sum((await consumer.lag()).values()):
            await trio.lowlevel.checkpoint()
        where = own_topic or "t.dead_letter"
        assert len(await mq.dead_letters.list(where, "g")) == 1
        assert len(await mq.dead_letters.list("t", "g")) == (own_topic is None)
        assert await mq.dead_letters.list("t", "other") == []
        assert await mq.dead_letters.replay("t", "g") == (own_topic is None)
        assert len(await mq.dead_letters.list(where, "g")) == (own_topic is not None)


async def test_a_retry_is_for_its_group_only(tmp_path: Path) -> None:
    """Groups share the retry topics, and each handles only what it has put there."""
    good, bad = Seen(), Seen(Failing({b"1": 2}))
    policy = m.RetryPolicy(attempts=1, topics=(0.001, 0.001))
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        await send(mq, 1)
        others = await runtime.start(m.consumer(mq, "good", "t", good, retry=policy))
        await runtime.start(m.consumer(mq, "bad", "t", bad, retry=policy))
        await bad.until_done(1)
        while sum((await others.lag()).values()):
            await trio.lowlevel.checkpoint()
        assert [r.topic for r in bad.tried] == ["t", "t.retry.1", "t.retry.2"]
        assert [r.topic for r in good.tried] == ["t"]


async def test_weather_in_a_retry_topic_is_waited_out_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """It does not move the record on, and does not make it wait for the topic's delay again."""
    failures: list[Exception] = [Boom(), creche.OutcomeUnknown("root/db"), creche.OutcomeUnknown("root/db")]

    async def fail(_record: m.Received) -> None:
        if failures:
            raise failures.pop(0)

    seen = Seen(fail)
    async with virtual_log_at(tmp_path / "log", monkeypatch, clock=trio.current_time) as (runtime, mq):
        await send(mq, 1)
        policy = m.RetryPolicy(attempts=1, backoff=STEADY, topics=(60.0,))
        await runtime.start(m.consumer(mq, "g", "t", seen, retry=policy))
        await seen.until_done(1)
    assert [(round(when), r.attempt) for when, r in zip(seen.times, seen.tried, strict=True)] == [
        (0, 1),
        (60, 2),
        (61, 2),
        (63, 2),
    ]


async def test_letters_are_replayed_to_their_group_once(tmp_path: Path) -> None:
    """They come back as new records, for the group that had put them aside only, and are listed no more."""
    broken = Failing({b"1": 1, b"2": 1, b"3": 1})
    seen, others = Seen(broken), Seen()
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        assert await mq.dead_letters.list("t.dead_letter", "g") == []
        assert await mq.dead_letters.replay("t.dead_letter", "g") == 0
        assert await mq.topics.list() == {}  # to ask creates nothing
        await runtime.start(m.consumer(mq, "g", "t", seen, retry=ONCE))
        await runtime.start(m.consumer(mq, "others", "t", others, retry=ONCE))
        await send(mq, 1, 2, 3, 4)
        await others.until_done(4)
        await seen.until_done(1)
        assert [r.value for r in await mq.dead_letters.list("t.dead_letter", "g")] == [b"1", b"2", b"3"]
        assert [r.value for r in await mq.dead_letters.list("t.dead_letter", "g", limit=2)] == [b"1", b"2"]
        assert await mq.dead_letters.list("t.dead_letter", "others") == []
        assert await mq.dead_letters.replay("t.dead_letter", "others") == 0
        assert await mq.dead_letters.replay("t.dead_letter", "g", limit=2) == 2
        await seen.until_done(3)
        assert [r.value for r in await mq.dead_letters.list("t.dead_letter", "g")] == [b"3"]
        assert await mq.dead_letters.replay("t.dead_letter", "g") == 1
        assert await mq.dead_letters.replay("t.dead_letter", "g") == 0
        await seen.until_done(4)
        await send(mq, 5)
        await others.until_done(5)
    assert seen.values[:4] == [b"4", b"1", b"2", b"3"]
    assert others.values == [b"1", b"2", b"3", b"4", b"5"]
    replayed = seen.done[1]
    assert (replayed.topic, replayed.attempt, replayed.key) == ("t", 1, b"k")
    assert "creche-error" not in replayed.headers


async def test_a_replay_that_breaks_off_sends_nothing_twice(tmp_path: Path) -> None:
    """It is cancelled at each of its steps in turn and begun again."""
    path = tmp_path / "log"
    async with log_at(path, partitions=1) as (runtime, mq):
        seen = Seen(Failing({b"%d" % n: 1 for n in range(5)}))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=ONCE))
        await send(mq, *range(5))
        while len(await mq.dead_letters.list("t.dead_letter", "g")) < 5:
            await trio.lowlevel.checkpoint()
        await runtime.stop(consumer)
        n = 1
        while await cancelled_at_checkpoint(n, lambda: mq.dead_letters.replay("t.dead_letter", "g", limit=2)):
            n += 1
        while await mq.dead_letters.replay("t.dead_letter", "g"):
            pass
        assert n > 3
    assert values_in(path) == [b"%d" % n for n in range(5)] * 2


async def test_letters_may_go_to_one_topic_of_their_own(tmp_path: Path) -> None:
    """With `dead_letter=`; a replay leads each back to where it came from."""
    seen = Seen(Failing({b"1": 1, b"2": 1}))
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        await runtime.start(m.consumer(mq, "g", ["t", "u"], seen, retry=ONCE, dead_letter="morgue"))
        await send(mq, 1, topic="t")
        await send(mq, 2, topic="u")
        while len(await mq.dead_letters.list("morgue", "g")) < 2:
            await trio.lowlevel.checkpoint()
        assert await mq.dead_letters.replay("morgue", "g") == 2
        await seen.until_done(2)
        assert sorted((r.topic, r.value) for r in seen.done) == [("t", b"1"), ("u", b"2")]
        assert sorted(await mq.topics.list()) == ["morgue", "t", "u"]


async def test_names_must_leave_room_for_those_of_letters(tmp_path: Path) -> None:
    """It is refused when the consumer is declared, not when the first record fails."""
    async with log_at(tmp_path / "log") as (_, mq):
        for topic, policy in (("x" * 249, m.RetryPolicy()), ("x" * 241, m.RetryPolicy(topics=(1.0,)))):
            with pytest.raises(m.TopicInvalid):
                m.consumer(mq, "g", topic, Seen(), retry=policy)
        m.consumer(mq, "g", "x" * 249, Seen(), dead_letter="morgue")
        with pytest.raises(m.TopicInvalid):
            m.consumer(mq, "g", "t", Seen(), dead_letter="no topic")


async def test_a_record_of_the_largest_size_can_be_put_aside(tmp_path: Path) -> None:
    """What its headers get on the way does not count; an error whose text cannot be told or is endless does no harm."""

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    errors = [Unspeakable(), Boom("x" * 100_000), Boom("\ud800")]

    async def fail(_record: m.Received) -> None:
        raise errors.pop(0)

    async with log_at(tmp_path / "log", max_message_bytes=5, partitions=1) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", fail, retry=ONCE))
        await mq.send_batch([m.Message("t", b"12345") for _ in range(3)])
        while len(found := await mq.dead_letters.list("t.dead_letter", "g")) < 3:
            await trio.lowlevel.checkpoint()
        assert sorted(len(r.headers["creche-error"]) for r in found) == [0, 1, 1000]
        assert await mq.dead_letters.replay("t.dead_letter", "g", limit=1) == 1
        assert runtime.node_of(consumer).incarnation == 1


async def test_letters_sent_by_hand_do_no_harm(tmp_path: Path) -> None:
    """Headers that look like ours may hold anything."""
    seen = Seen()
    odd = {"creche-attempts": "many", "creche-not-before": "nan"}
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        await mq.send_sync(m.Message("t.dead_letter", b"1", headers=odd))
        await mq.send_sync(m.Message("t", b"2", headers=odd))
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(1)
        assert await mq.dead_letters.replay("t.dead_letter", "g") == 0
    assert seen.tried[0].attempt == 1


@given(st.dictionaries(st.text(max_size=3), st.text(max_size=3)), st.integers(1, 9))
def test_a_letter_keeps_what_the_sender_had_said(headers: dict[str, str], moves: int) -> None:
    """Through any number of retry topics, the dead letters and the replay: its own headers, value, key and origin."""
    record = m.Received("t", b"v", b"k", headers, partition=2, offset=7, time=0.0)
    for stage in range(1, moves):
        message = letters.for_retry(record, f"t.retry.{stage}", "g", Boom(), stage, 1.0)
        record = m.Received(message.topic, message.value, message.key, message.headers, partition=0, offset=0, time=0.0)
        assert letters.is_for(record, "g")
        assert not letters.is_for(record, "other")
        assert letters.attempts_before(record) == stage
    dead = letters.dead_letter(record, "morgue", "g", Boom(), moves)
    letter = m.Received(dead.topic, dead.value, dead.key, dead.headers, partition=0, offset=3, time=0.0)
    back = letters.replayed(letter)
    assert (back.topic, back.value, back.key) == ("t", b"v", b"k")
    assert headers.items() <= back.headers.items()
    assert back.headers[ORIGINAL_TOPIC] == "t"
