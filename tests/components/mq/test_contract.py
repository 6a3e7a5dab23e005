"""What every backend of mq guarantees: one suite, run against each (see `backends`).

All of it can be kept by Kafka, with ``acks=all``, an idempotent producer and cooperative rebalancing, and is written so
that a Kafka backend runs it unchanged: it asks for no particular partition of a key, no dense offsets, no wake-up
within a time, no number of redeliveries, and nothing of what a deleted topic leaves.

Guaranteed by the embedded backend only, and so tested elsewhere: dense offsets (`test_log`), an idempotent publish by
``creche-outbox-id`` (`test_send`), retention to the record and the byte (`test_retention`), that a consumer in the same
process is woken at once (`test_consumer`), and that a restarted or killed process's partitions are free at once
(`test_rebalance`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest
import trio

import creche
from creche.components import mq as m

from .backends import BACKENDS, Backend
from .support import AT_ONCE, QUICK, Boom, Failing, Seen, killed, recorded, until


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


def numbered(count: int, keys: int = 3, topic: str = "t") -> list[m.Message]:
    return [m.Message(topic, b"%d" % n, b"key %d" % (n % keys)) for n in range(count)]


async def sent(mq: m.Mq, messages: list[m.Message]) -> list[m.Ack]:
    results = await mq.send_batch(messages)
    acks = [result for result in results if isinstance(result, m.Ack)]
    assert len(acks) == len(messages)
    return acks


def in_order_of_keys(values: list[m.Received], count: int, keys: int = 3) -> bool:
    by_key: dict[bytes | None, list[int]] = defaultdict(list)
    for record in values:
        number = int(record.value)
        if number not in by_key[record.key]:
            by_key[record.key].append(number)
    return by_key == {b"key %d" % key: list(range(key, count, keys)) for key in range(keys)}


# --- producers ----------------------------------------------------------------------------------------------------


async def test_what_is_sent_arrives_as_it_was(backend: Backend, tmp_path: Path) -> None:
    """Value, key (also none), headers; with the place and the time that the acknowledgement named."""
    seen = Seen()
    messages = [m.Message("t", b"\x00\xff", b"k", {"a": "ä", "b": ""}), m.Message("t", b"")]
    async with backend(tmp_path) as (runtime, mq):
        acks = [await mq.send_sync(message) for message in messages]
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(2)
    got = {(r.topic, r.partition, r.offset, r.time): (r.value, r.key, r.headers) for r in seen.done}
    assert got == {
        (ack.topic, ack.partition, ack.offset, ack.time): (message.value, message.key, message.headers)
        for ack, message in zip(acks, messages, strict=True)
    }


async def test_a_send_is_accepted_then_acknowledged(backend: Backend, tmp_path: Path) -> None:
    """`send` gives a delivery at once; its callback and all who wait for it hear the same; `flush` waits for all."""
    heard: list[m.Ack | Exception] = []
    async with backend(tmp_path) as (_, mq):
        deliveries = [await mq.send(message, heard.append) for message in numbered(20)]
        await mq.flush()
        assert all(delivery.settled for delivery in deliveries)
        acks = [await delivery.wait() for delivery in deliveries]
        assert sorted(map(repr, heard)) == sorted(map(repr, acks))


async def test_a_key_keeps_to_one_partition_in_the_order_of_sending(backend: Backend, tmp_path: Path) -> None:
    """However it is sent; different topics have partitions of their own."""
    async with backend(tmp_path, partitions=4) as (_, mq):
        acks = await sent(mq, numbered(30))
        for n in range(3):
            of_key = acks[n::3]
            assert len({ack.partition for ack in of_key}) == 1
            offsets = [ack.offset for ack in of_key]
            assert offsets == sorted(set(offsets))
        assert await mq.topics.list() == {"t": 4}


async def test_records_without_a_key_are_spread(backend: Backend, tmp_path: Path) -> None:
    """Over all partitions, in the long run."""
    async with backend(tmp_path, partitions=2) as (_, mq):
        acks = [await mq.send_sync(m.Message("t", b"x")) for _ in range(20)]
        assert {ack.partition for ack in acks} == {0, 1}


async def test_what_cannot_be_sent_is_refused_at_once(backend: Backend, tmp_path: Path) -> None:
    """A topic's name that is none, and what is too large."""
    async with backend(tmp_path, max_message_bytes=100) as (_, mq):
        with pytest.raises(m.TopicInvalid):
            await mq.send(m.Message("no topic", b""))
        with pytest.raises(m.MessageTooLarge):
            await mq.send_sync(m.Message("t", b"x" * 101))


# --- consumers ----------------------------------------------------------------------------------------------------


async def test_each_group_gets_every_record_once_if_nothing_fails(backend: Backend, tmp_path: Path) -> None:
    """Those from before its first start included; in the order of keys; then there is no lag."""
    groups = {"one": Seen(), "two": Seen()}
    async with backend(tmp_path) as (runtime, mq):
        await sent(mq, numbered(30))
        consumers = [await runtime.start(m.consumer(mq, name, ["t"], seen)) for name, seen in groups.items()]
        await sent(mq, [m.Message("t", b"%d" % n, b"key %d" % (n % 3)) for n in range(30, 60)])
        for seen in groups.values():
            await seen.until_done(60)
            assert in_order_of_keys(seen.done, 60)
            assert set(Counter(seen.values).values()) == {1}
        for name, consumer in zip(groups, consumers, strict=True):
            assert set((await consumer.lag()).values()) == {0}
            assert set((await mq.lag(name)).values()) == {0}


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_keys_stay_in_order_whatever_fails(backend: Backend, concurrency: int, tmp_path: Path) -> None:
    """Records that fail are tried again before anything behind them in their key."""
    seen = Seen(Failing({b"%d" % n: n % 3 for n in range(40)}))
    policy = m.RetryPolicy(attempts=9, backoff=QUICK)
    async with backend(tmp_path, commit_every=4) as (runtime, mq):
        await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=concurrency, retry=policy))
        await sent(mq, numbered(40))
        await seen.until_done(40)
    assert in_order_of_keys(seen.done, 40)
    assert Counter(seen.values) == Counter(b"%d" % n for n in range(40))


async def test_the_trace_of_the_sender_is_the_handlers(backend: Backend, tmp_path: Path) -> None:
    """Carried in a header; the message object of the sender is not changed."""
    from creche.components import clog

    traces: list[str | None] = []

    async def note(_record: m.Received) -> None:
        traces.append(clog.trace_id())

    seen = Seen(note)
    message = m.Message("t", b"x")
    async with backend(tmp_path) as (runtime, mq):
        await runtime.start(m.consumer(mq, "g", "t", seen))
        with clog.trace("abc"):
            await mq.send_sync(message)
        await seen.until_done(1)
    assert (traces, message.headers) == (["abc"], {})


async def test_poison_is_put_aside_and_can_be_replayed(backend: Backend, tmp_path: Path) -> None:
    """After so many attempts, with its origin in the headers; the records behind it are handled."""
    seen = Seen(Failing({b"0": 2}))
    async with backend(tmp_path) as (runtime, mq):
        await runtime.start(m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(attempts=2, backoff=QUICK)))
        (ack, *_) = await sent(mq, numbered(6))
        await seen.until_done(5)
        while not (letters := await mq.dead_letters.list("t.dead_letter", "g")):
            await trio.lowlevel.checkpoint()
        (letter,) = letters
        assert (letter.value, letter.original_topic, letter.headers["creche-attempts"]) == (b"0", "t", "2")
        assert letter.headers["creche-original-offset"] == str(ack.offset)
        assert await mq.dead_letters.replay("t.dead_letter", "g") == 1
        await seen.until_done(6)
        assert seen.values[-1] == b"0"


async def test_a_retry_topic_gives_a_record_another_chance(backend: Backend, tmp_path: Path) -> None:
    """What is behind it need not wait."""
    seen = Seen(Failing({b"0": 1}))
    policy = m.RetryPolicy(attempts=1, topics=(0.05,))
    async with backend(tmp_path, partitions=1) as (runtime, mq):
        await sent(mq, numbered(6, keys=1))
        await runtime.start(m.consumer(mq, "g", "t", seen, retry=policy))
        await seen.until_done(6)
    assert seen.values == [b"1", b"2", b"3", b"4", b"5", b"0"]
    assert (seen.done[-1].attempt, seen.done[-1].original_topic) == (2, "t")


async def test_pause_and_resume_lose_nothing(backend: Backend, tmp_path: Path) -> None:
    """While paused nothing begins; afterwards everything is handled."""
    seen = Seen()
    async with backend(tmp_path) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await consumer.pause()
        await sent(mq, numbered(10))
        assert sum((await consumer.lag()).values()) == 10
        assert seen.tried == []
        await consumer.resume()
        await seen.until_done(10)
        assert in_order_of_keys(seen.done, 10)


async def test_seek_sets_where_the_group_goes_on(backend: Backend, tmp_path: Path) -> None:
    """To an offset, the beginning, the end, a time; also for a later consumer of the group."""
    seen = Seen()
    async with backend(tmp_path, partitions=1) as (runtime, mq):
        acks = await sent(mq, numbered(4, keys=1))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(4)
        await consumer.seek("t", 0, acks[2].offset)
        await seen.until_done(6)
        assert seen.values[4:] == [b"2", b"3"]
        await consumer.seek("t", 0, "beginning")
        await seen.until_done(10)
        await consumer.seek_to_time("t", 0, acks[0].time)
        await seen.until_done(14)
        assert seen.values[10:] == [b"0", b"1", b"2", b"3"]
        await consumer.pause()
        await consumer.seek("t", 0, "beginning")
        await consumer.seek("t", 0, "end")
        await runtime.stop(consumer)
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await mq.send_sync(m.Message("t", b"new", b"key 0"))
        await seen.until_done(15)
        assert seen.values[-1] == b"new"


async def test_latest_begins_behind_what_is_there(backend: Backend, tmp_path: Path) -> None:
    """A new group does not see what was sent before; a group that has committed goes on there in any case."""
    seen = Seen()
    async with backend(tmp_path, offset_reset="latest", partitions=1) as (runtime, mq):
        await sent(mq, numbered(4, keys=1))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        assert await consumer.lag() == {("t", 0): 0}
        await runtime.stop(consumer)
        await sent(mq, numbered(2, keys=1))
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(2)
    assert seen.values == [b"0", b"1"]


async def test_members_share_and_hand_over(backend: Backend, tmp_path: Path) -> None:
    """Each partition has one reader; when one leaves the other reads on, and nothing is delivered twice."""
    one, two = Seen(), Seen()
    async with backend(tmp_path, partitions=4) as (runtime, mq):
        events = recorded(runtime)
        await runtime.start(m.consumer(mq, "g", "t", one, name="one"))
        second = await runtime.start(m.consumer(mq, "g", "t", two, name="two"))
        while not (mine := await second.lag()):
            await trio.lowlevel.checkpoint()
        assert len(mine) < 4
        await sent(mq, numbered(30, keys=9))
        await trio.lowlevel.checkpoint()
        await runtime.stop(second)
        await until(lambda: len(one.done) + len(two.done) >= 30)
    assert set(Counter(one.values + two.values).values()) == {1}
    assert [e for e in events if isinstance(e, m.PartitionsAssigned)]


# --- failures -----------------------------------------------------------------------------------------------------


async def test_what_was_acknowledged_survives_a_restart(backend: Backend, tmp_path: Path) -> None:
    """Records and commits: the group goes on where it was."""
    seen, again = Seen(), Seen()
    async with backend(tmp_path) as (runtime, mq):
        await sent(mq, numbered(10))
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(10)
        await sent(mq, numbered(0))
    async with backend(tmp_path) as (runtime, mq):
        await sent(mq, [m.Message("t", b"new", b"key 0")])
        await runtime.start(m.consumer(mq, "g", "t", again))
        await again.until_done(1)
    assert again.values == [b"new"]


async def test_what_is_not_done_is_delivered_again(backend: Backend, tmp_path: Path) -> None:
    """A consumer that dies over a record gets it again in its next life, and what is behind it in its order."""
    seen = Seen()

    async def die_once(record: m.Received) -> None:
        if record.value == b"4" and seen.values.count(b"4") == 0 and not died:
            died.append(record)
            runtime.kill(consumer, "test")
            await trio.sleep_forever()

    died: list[m.Received] = []
    seen.before = die_once
    async with backend(tmp_path, commit_every=1) as (runtime, mq):
        await sent(mq, numbered(10))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=4).options(backoff=AT_ONCE))
        await seen.until(lambda: len(set(seen.values)) == 10)
    assert died
    assert in_order_of_keys(seen.done, 10)


async def test_kills_under_load_lose_nothing_that_was_acknowledged(backend: Backend, tmp_path: Path) -> None:
    """Of the log and of the consumers, again and again; each key's records are seen for the first time in order."""
    seen = Seen()
    acked: list[int] = []
    async with backend(tmp_path, commit_every=3) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=4).options(backoff=AT_ONCE))

        async def produce(key: int) -> None:
            for n in range(key, 120, 3):
                while True:
                    try:
                        await mq.send_sync(m.Message("t", b"%d" % n, b"key %d" % key))
                        break
                    except creche.CallFailed:
                        await trio.lowlevel.checkpoint()  # written or not: once more, before what comes behind it
                acked.append(n)

        async with trio.open_nursery() as nursery:
            for key in range(3):
                nursery.start_soon(produce, key)
            for number in range(6):
                await seen.until(lambda: len(set(seen.values)) >= number * 10)  # noqa: B023  # awaited at once
                await killed(runtime, mq if number % 2 else consumer)
        await seen.until(lambda: len(set(seen.values)) == 120)
    assert sorted(acked) == list(range(120))
    assert in_order_of_keys(seen.done, 120)


async def test_a_handler_that_raises_does_not_commit(backend: Backend, tmp_path: Path) -> None:
    """Until it is done with, one way or another, the record is in the group's lag."""
    tried = trio.Event()

    async def fail(_record: m.Received) -> None:
        tried.set()
        raise Boom

    policy = m.RetryPolicy(attempts=1000, backoff=creche.Backoff(first=1000.0, cap=1000.0, free=0))
    async with backend(tmp_path, partitions=1, commit_every=1) as (runtime, mq):
        await sent(mq, numbered(1))
        consumer = await runtime.start(m.consumer(mq, "g", "t", fail, retry=policy))
        await tried.wait()
        assert await consumer.lag() == {("t", 0): 1}
        await runtime.stop(consumer)
        assert await mq.lag("g") == {("t", 0): 1}
