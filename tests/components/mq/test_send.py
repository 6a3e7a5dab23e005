"""Producers: what is acknowledged is in the log, and what is not says why."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche.components import mq as m
from creche.components.mq.config import Synchronous
from creche.components.mq.log import Log
from creche.runtime.node import State

from .support import HeldClock, broken_disk, full_disk, killed, log_at, message, needs_linux, values_in


async def test_an_acknowledged_record_is_in_the_file(tmp_path: Path) -> None:
    """The ack names its place, and it is there while the log still runs."""
    async with log_at(tmp_path / "log", clock=lambda: 5.0) as (_, mq):
        acks = [await mq.send_sync(message(n)) for n in range(2)]
        assert values_in(tmp_path / "log") == [b"0", b"1"]
    assert [(ack.topic, ack.offset, ack.time) for ack in acks] == [("t", 0, 5.0), ("t", 1, 5.0)]
    assert acks[0].partition == acks[1].partition


async def test_send_returns_when_accepted(tmp_path: Path) -> None:
    """The delivery is settled later, by the writer; the callback and all waiters hear the same."""
    clock = HeldClock()
    heard: list[m.Ack | Exception] = []
    async with log_at(tmp_path / "log", clock) as (_, mq):
        clock.hold()
        delivery = await mq.send(message(1), heard.append)
        await clock.reached.wait()
        assert not delivery.settled
        clock.release()
        ack = await delivery.wait()
        assert (ack, heard, repr(delivery)) == (await delivery.wait(), [ack], f"<Delivery to t: {ack}>")


async def test_concurrent_senders_share_a_transaction(tmp_path: Path) -> None:
    """Those that come while one transaction is under way are written by the next one, in order of arrival."""
    times: list[float] = []
    clock = HeldClock()

    def counting_clock() -> float:
        times.append(clock())
        return float(len(times))

    async with log_at(tmp_path / "log", counting_clock) as (_, mq):
        clock.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mq.send_sync, message("first"))
            await clock.reached.wait()
            deliveries = [await mq.send(message(n)) for n in range(20)]
            clock.release()
        assert {(await delivery.wait()).time for delivery in deliveries} == {2.0}
    assert values_in(tmp_path / "log") == [b"first", *(b"%d" % n for n in range(20))]


async def test_a_batch_has_a_result_for_each(tmp_path: Path) -> None:
    """In order, in as many transactions as `max_batch` asks for; an empty one is answered too."""
    async with log_at(tmp_path / "log", max_batch=4, max_buffered=2) as (_, mq):
        acks = await mq.send_batch([message(n) for n in range(10)])
        assert [ack.offset for ack in acks if isinstance(ack, m.Ack)] == list(range(10))
        assert await mq.send_batch([]) == []
    assert values_in(tmp_path / "log") == [b"%d" % n for n in range(10)]


async def test_a_batch_tells_for_each_what_became_of_it(tmp_path: Path) -> None:
    """Perhaps written, or not written: a crash of the writer in the midst of a batch costs nobody his answer."""
    clock = HeldClock()
    async with log_at(tmp_path / "log", clock, max_batch=1) as (_, mq):
        clock.hold()
        results: list[m.Ack | m.NotSent] = []

        async def send() -> None:
            results.extend(await mq.send_batch([message(n) for n in range(3)]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await clock.reached.wait()
            first = await mq.send(message("x"))  # behind the batch
            clock.fails = True
            clock.release()
        clock.fails = False
        assert [type(result) for result in results] == [m.NotSent] * 3
        reasons = [result.reason for result in results if isinstance(result, m.NotSent)]
        assert [type(reason) for reason in reasons] == [creche.OutcomeUnknown, creche.NotDelivered, creche.NotDelivered]
        assert results[1] == m.NotSent(message(1), reasons[1])
        with pytest.raises(creche.NotDelivered, match="not_sent"):
            await first.wait()
        assert (await mq.send_sync(message("after"))).offset == 0
    assert values_in(tmp_path / "log") == [b"after"]


async def test_flush_waits_for_everything_accepted(tmp_path: Path) -> None:
    """After it all earlier sends are settled; with nothing under way it returns at once."""
    clock = HeldClock()
    async with log_at(tmp_path / "log", clock, max_batch=2) as (_, mq):
        await mq.flush()
        clock.hold()
        deliveries = [await mq.send(message(n)) for n in range(5)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mq.flush)
            await clock.reached.wait()
            assert not any(delivery.settled for delivery in deliveries)
            clock.release()
        assert all(delivery.settled for delivery in deliveries)


async def test_a_send_waits_for_room(tmp_path: Path) -> None:
    """Memory is bounded: beyond `max_buffered` a send is accepted only when some have been taken."""
    clock = HeldClock()
    async with log_at(tmp_path / "log", clock, max_buffered=2) as (_, mq):
        clock.hold()
        await mq.send(message(0))
        await clock.reached.wait()
        accepted = [await mq.send(message(n)) for n in (1, 2)]
        async with trio.open_nursery() as nursery:
            for n in (3, 4):
                nursery.start_soon(mq.send_sync, message(n, key=None, topic="u"))
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 2
            clock.release()
        assert [(await delivery.wait()).offset for delivery in accepted] == [1, 2]
    assert sorted(values_in(tmp_path / "log", "u")) == [b"3", b"4"]


async def test_a_send_that_waits_for_room_hears_of_a_crash(tmp_path: Path) -> None:
    """It was never accepted, so it may be repeated: no unknown outcome, and no failure of somebody else's."""
    clock = HeldClock()
    async with log_at(tmp_path / "log", clock, max_buffered=1) as (_, mq):
        clock.hold()
        await mq.send(message("writing"))
        await clock.reached.wait()
        await mq.send(message("waiting"))
        reasons: list[Exception] = []

        async def send_and_note() -> None:
            with pytest.raises(creche.CallFailed) as caught:
                await mq.send(message("no room"))
            reasons.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_note)
            await wait_all_tasks_blocked()
            clock.fails = True
            clock.release()
        clock.fails = False
        assert [type(reason) for reason in reasons] == [creche.NotDelivered]
        await mq.send_sync(message("after"))
    assert values_in(tmp_path / "log") == [b"after"]


async def test_a_locked_file_is_weather(tmp_path: Path) -> None:
    """Every call ends in `Unavailable`, nothing is written, the actor lives, and works when the lock is gone."""
    path = tmp_path / "log"
    async with log_at(path, busy_timeout=0.0) as (runtime, mq):
        await mq.send_sync(message(1))
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(m.Unavailable, match="locked") as caught:
            await mq.send_sync(message(2))
        assert caught.value.retry_after is not None
        (result,) = await mq.send_batch([message(3)])
        assert isinstance(result, m.NotSent)
        assert isinstance(result.reason, m.Unavailable)
        with pytest.raises(m.Unavailable):
            await mq.topics.create("u")
        holder.close()
        assert (await mq.send_sync(message(4))).offset == 1
        assert runtime.node_of(mq).incarnation == 1
    assert values_in(path) == [b"1", b"4"]


@needs_linux
async def test_a_full_disk_is_weather(tmp_path: Path) -> None:
    """As a locked file is, however often it is met; what is acknowledged afterwards follows without a gap."""
    path = tmp_path / "log"
    async with log_at(path) as (runtime, mq):
        await mq.send_sync(message(1))
        with full_disk(path):
            for n in range(10):
                with pytest.raises(m.Unavailable, match="full") as caught:
                    await mq.send_sync(message(f"lost {n}"))
                assert caught.value.retry_after is not None
            with pytest.raises(m.Unavailable):
                await mq.topics.create("u")
            assert list(await mq.topics.list()) == ["t"]
        assert (await mq.send_sync(message(2))).offset == 1
        assert runtime.node_of(mq).incarnation == 1
    assert values_in(path) == [b"1", b"2"]


@needs_linux
async def test_an_io_error_at_commit_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    """A crash, so that the file is opened anew."""
    path = tmp_path / "log"
    async with log_at(path) as (runtime, mq):
        await mq.send_sync(message(1))
        with broken_disk(path), pytest.raises(creche.OutcomeUnknown):
            await mq.send_sync(message(2))
        await mq.send_sync(message(3))
        assert runtime.node_of(mq).incarnation == 2
    assert values_in(path) in ([b"1", b"3"], [b"1", b"2", b"3"])


async def test_nothing_overtakes_what_could_not_be_written(tmp_path: Path) -> None:
    """Weather that passes between two transactions of a batch does not break its order."""
    path = tmp_path / "log"
    other_process = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    calls = 0

    def clock() -> float:  # called before each transaction begins
        nonlocal calls
        calls += 1
        other_process.execute("BEGIN IMMEDIATE" if calls == 1 else "ROLLBACK")
        return 0.0

    async with log_at(path, clock, busy_timeout=0.0, max_batch=2) as (_, mq):
        messages = [message(n) for n in range(6)]
        assert [type(result) for result in await mq.send_batch(messages)] == [m.NotSent] * 6
        other_process.execute("ROLLBACK")
        other_process.execute("BEGIN IMMEDIATE")
        calls = 1
        assert [type(result) for result in await mq.send_batch(messages[:2])] == [m.Ack] * 2
    other_process.close()
    assert values_in(path) == [b"0", b"1"]


async def test_other_work_waits_for_the_transaction_in_hand(tmp_path: Path) -> None:
    """There is one connection: statements of others would fall into the writer's transaction."""
    clock = HeldClock()
    async with log_at(tmp_path / "log", clock) as (runtime, mq):
        clock.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mq.send_sync, message(1))
            await clock.reached.wait()
            nursery.start_soon(mq.topics.create, "u")
            nursery.start_soon(mq.lag, "g")
            await wait_all_tasks_blocked()
            clock.release()
        assert await mq.topics.list() == {"t": 3, "u": 3}
        assert runtime.node_of(mq).incarnation == 1


async def test_a_damaged_file_is_a_crash(tmp_path: Path) -> None:
    """An error that no waiting will mend is not told as weather."""
    path = tmp_path / "log"
    async with log_at(path) as (runtime, mq):
        await mq.send_sync(message(1))
        other = sqlite3.connect(path)
        other.execute("DROP TABLE records")
        other.close()
        with pytest.raises(creche.OutcomeUnknown):
            await mq.send_sync(message(2))
        await mq.topics.list()
        assert runtime.node_of(mq).incarnation == 2


async def test_a_kill_in_the_midst_of_a_transaction_lets_it_end(tmp_path: Path) -> None:
    """Its records are acknowledged, those behind it were not sent, and the next incarnation goes on."""
    clock = HeldClock()
    async with log_at(tmp_path / "log", clock) as (runtime, mq):
        clock.hold()
        written = await mq.send(message("written"))
        await clock.reached.wait()
        waiting = await mq.send(message("waiting"))
        runtime.kill(mq, "test")
        await wait_all_tasks_blocked()
        assert not written.settled
        with pytest.raises(creche.NotDelivered, match="not_sent"):
            await waiting.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mq.send_sync, message("next"))
            await wait_all_tasks_blocked()
            clock.release()
        assert (await written.wait()).offset == 0
    assert values_in(tmp_path / "log") == [b"written", b"next"]


async def test_a_crash_over_a_transaction_leaves_its_outcome_unknown(tmp_path: Path) -> None:
    """The caller must not take it for sent nor for not sent; the log lives on."""
    clock = HeldClock()
    async with log_at(tmp_path / "log", clock) as (runtime, mq):
        clock.fails = True
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await mq.send_sync(message(1))
        assert caught.value.path == mq.path
        clock.fails = False
        assert (await mq.send_sync(message(2))).offset == 0
        assert runtime.node_of(mq).incarnation == 2


async def test_a_send_to_a_log_that_is_down_waits_for_it(tmp_path: Path) -> None:
    """No error for a restart: the message is handled by the successor."""
    async with log_at(tmp_path / "log") as (runtime, _):
        slow = creche.Backoff(first=0.1, free=0)
        config = m.Config(path=str(tmp_path / "slow"))
        mq = await runtime.start(m.component(config, name="slow").options(backoff=slow))
        runtime.kill(mq, "test")
        await runtime.node_of(mq).wait_for(State.DOWN)
        assert (await mq.send_sync(message(0))).offset == 0
        runtime.kill(mq, "test")
        await runtime.node_of(mq).wait_for(State.DOWN)
        assert (await (await mq.send(message(1))).wait()).offset == 1


async def test_a_stop_writes_what_was_accepted(tmp_path: Path) -> None:
    """Graceful means that no accepted record is left behind; later sends are told that it has stopped."""
    clock = HeldClock()
    async with log_at(tmp_path / "log", clock, max_batch=3) as (runtime, mq):
        clock.hold()
        deliveries = [await mq.send(message(n)) for n in range(10)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.stop, mq)
            await clock.reached.wait()
            await wait_all_tasks_blocked()
            clock.release()
        assert [(await delivery.wait()).offset for delivery in deliveries] == list(range(10))
        with pytest.raises(creche.ActorStopped):
            await mq.send_sync(message("late"))
    assert len(values_in(tmp_path / "log")) == 10


async def test_an_outbox_id_makes_a_publish_idempotent(tmp_path: Path) -> None:
    """A relay that sends again after an unknown outcome gets the first one's place."""
    async with log_at(tmp_path / "log") as (runtime, mq):
        first = await mq.send_sync(m.Message("t", b"1", headers={m.OUTBOX_HEADER: "7"}))
        await killed(runtime, mq)
        assert await mq.send_sync(m.Message("t", b"1", headers={m.OUTBOX_HEADER: "7"})) == first
    assert values_in(tmp_path / "log") == [b"1"]


async def test_topics_are_created_by_hand_or_by_use(tmp_path: Path) -> None:
    """By use they get `Config.partitions`."""
    async with log_at(tmp_path / "log", partitions=2) as (_, mq):
        assert await mq.topics.create("by_hand", 5) == 5
        await mq.send_sync(message(1, topic="by_use"))
        assert await mq.topics.list() == {"by_hand": 5, "by_use": 2}
        with pytest.raises(m.TopicExists):
            await mq.topics.create("by_hand", 2)
        for partitions in (0, 10_001):
            with pytest.raises(ValueError, match="from 1 to 10000"):
                await mq.topics.create("none", partitions)


@pytest.mark.parametrize(("synchronous", "pragma"), [("normal", 1), ("full", 2)])
def test_durability_is_what_the_config_says(synchronous: Synchronous, pragma: int, tmp_path: Path) -> None:
    """The setting reaches SQLite, and the journal is a write-ahead log."""
    log = Log(str(tmp_path / "log"), synchronous, 1.0, 3)
    db = log.db  # a setting of the connection
    assert db.execute("PRAGMA synchronous").fetchone() == (pragma,)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    log.close()
