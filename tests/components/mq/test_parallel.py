"""Keys side by side within a partition: order for each, and nothing committed that is not done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from creche.components import mq as m

from .support import LIMIT, QUICK, STEADY, Boom, Failing, Seen, killed, log_at, recorded, send, until, virtual_log_at


async def test_keys_of_one_partition_run_concurrently_and_each_in_order(tmp_path: Path) -> None:
    """As many at a time as `concurrency` says, never two of one key."""
    running: Counter[bytes | None] = Counter()
    most = 0

    async def note(record: m.Received) -> None:
        nonlocal most
        running[record.key] += 1
        assert running[record.key] == 1
        most = max(most, running.total())
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        running[record.key] -= 1

    seen = Seen(note)
    async with log_at(tmp_path / "log", partitions=1, commit_every=7, max_fetched=40) as (runtime, mq):
        for n in range(30):
            await mq.send_batch([m.Message("t", b"%d" % n, b"key %d" % key) for key in range(5)])
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=4))
        await seen.until_done(150)
        assert await consumer.lag() == {("t", 0): 0}
    assert most == 4
    for key in range(5):
        assert [r.value for r in seen.done if r.key == b"key %d" % key] == [b"%d" % n for n in range(30)]


async def test_a_key_that_hangs_holds_up_neither_others_nor_memory(tmp_path: Path) -> None:
    """Others go on until the window is full; only what is contiguously done is committed; then it goes on."""
    gate = trio.Event()

    async def hang(record: m.Received) -> None:
        if record.key == b"hangs" and not record.value.startswith(b"late"):
            await gate.wait()

    seen = Seen(hang)
    async with log_at(tmp_path / "log", partitions=1, max_fetched=10) as (runtime, mq):
        await send(mq, "first", key=b"other")
        await send(mq, "hung", "behind", key=b"hangs")
        await send(mq, *range(30), key=b"other")
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=3))
        await seen.until_tried(2)
        await seen.until(lambda: len(seen.done) == 1 + 7)
        for _ in range(3):
            assert await consumer.lag() == {("t", 0): 32}
        statistics = consumer.statistics()
        assert statistics is not None
        assert (statistics.running, statistics.done, statistics.partitions) == (1, len(seen.done), 1)
        assert statistics.held <= 10
        gate.set()
        await seen.until_done(33)
        assert await consumer.lag() == {("t", 0): 0}
    assert [r.value for r in seen.done if r.key == b"hangs"] == [b"hung", b"behind"]


async def test_a_later_success_never_commits_past_an_earlier_failure(tmp_path: Path) -> None:
    """The next life gets the failed record again, and what was done behind it as well: at least once."""
    broken = True

    async def fail_first(record: m.Received) -> None:
        if broken and record.value == b"0":
            raise Boom

    seen = Seen(fail_first)
    async with log_at(tmp_path / "log", partitions=1, commit_every=1) as (runtime, mq):
        await send(mq, 0, key=b"bad")
        await send(mq, 1, 2, 3, key=b"good")
        spec = m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(attempts=99, backoff=STEADY))
        consumer = await runtime.start(spec)
        await seen.until_done(3)
        assert await consumer.lag() == {("t", 0): 4}
        broken = False
        await killed(runtime, consumer)
        await seen.until_done(7)
    assert sorted(seen.values[3:]) == [b"0", b"1", b"2", b"3"]


async def test_a_backing_off_key_lets_others_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Its own records wait behind it; with `order="partition"` all do."""
    orders: dict[m.Order, list[bytes]] = {}
    order: m.Order
    for order in ("key", "partition"):
        seen = Seen(Failing({b"bad": 1}))
        async with virtual_log_at(tmp_path / order, monkeypatch, partitions=1) as (runtime, mq):
            await send(mq, "bad", "behind", key=b"a")
            await send(mq, "other", key=b"b")
            await runtime.start(m.consumer(mq, "g", "t", seen, retry=m.RetryPolicy(backoff=STEADY), order=order))
            await seen.until_done(3)
        orders[order] = seen.values
    assert orders == {"key": [b"other", b"bad", b"behind"], "partition": [b"bad", b"behind", b"other"]}


async def test_a_worker_starts_with_nothing_of_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Workers are started when they are needed, also at the end of a handler, whose context variables are its own."""
    left: ContextVar[str] = ContextVar("left", default="nothing")
    found: list[str] = []
    go_on = trio.Event()

    async def leave_something(_record: m.Received) -> None:
        found.append(left.get())
        left.set("something")
        if len(found) > 2:
            await go_on.wait()

    async with virtual_log_at(tmp_path / "log", monkeypatch, partitions=1) as (runtime, mq):
        await send(mq, 0, 1, key=b"one")  # the end of the first makes the second ready
        await runtime.start(m.consumer(mq, "g", "t", leave_something, concurrency=2))
        await wait_all_tasks_blocked()
        await send(mq, 2, key=b"one")
        await send(mq, 3, key=b"two")
        await wait_all_tasks_blocked()
        assert sorted(found[2:]) == ["nothing", "something"]
        go_on.set()


async def test_one_partition_can_be_paused(tmp_path: Path) -> None:
    """The others go on; nothing of it is lost meanwhile, what was fetched already included; `resume` of all ends it."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=2) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", ["t", "u"], seen))
        await consumer.lag()  # has joined
        await consumer.pause("t", 1)
        await send(mq, *range(8), key=None)
        await seen.until_done(4)
        await wait_all_tasks_blocked()
        assert {r.partition for r in seen.done} == {0}
        await consumer.resume("t", 1)
        await seen.until_done(8)
        assert [r.value for r in seen.done if r.partition == 1] == [b"1", b"3", b"5", b"7"]
        await consumer.pause("t")
        await send(mq, *range(4), key=None)
        await send(mq, *range(2), key=None, topic="u")
        await seen.until_done(10)
        await wait_all_tasks_blocked()
        assert {r.topic for r in seen.done[8:]} == {"u"}
        await consumer.resume()
        await seen.until_done(14)
        for steer in (consumer.pause, consumer.resume):
            with pytest.raises(m.PartitionUnknown):
                await steer("t", 7)


async def test_what_was_fetched_and_paused_is_handled_after_resume(tmp_path: Path) -> None:
    """Records of paused partitions that were in memory are kept, in order."""
    gate = trio.Event()
    seen = Seen(lambda _record: gate.wait())
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        await send(mq, *range(5))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_tried(1)
        await consumer.pause("t", 0)
        gate.set()
        await seen.until_done(1)
        await wait_all_tasks_blocked()
        assert seen.values == [b"0"]
        await consumer.resume("t", 0)
        await seen.until_done(5)
    assert seen.values == [b"0", b"1", b"2", b"3", b"4"]


async def test_seek_to_the_beginning_the_end_and_a_time(tmp_path: Path) -> None:
    """Of the records that are there; a time means the first record from then on."""
    now = 0.0

    def clock() -> float:
        return now

    seen = Seen()
    async with log_at(tmp_path / "log", clock, partitions=1) as (runtime, mq):
        for n in range(4):
            now = 100.0 + n
            await send(mq, n)
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(4)
        seeks: list[tuple[Callable[[], Awaitable[None]], list[bytes]]] = [
            (lambda: consumer.seek("t", 0, "beginning"), [b"0", b"1", b"2", b"3"]),
            (lambda: consumer.seek_to_time("t", 0, 101.5), [b"2", b"3"]),
            (lambda: consumer.seek_to_time("t", 0, 0.0), [b"0", b"1", b"2", b"3"]),
        ]
        for seek, values in seeks:
            seen.done.clear()
            await seek()
            await seen.until_done(len(values))
            assert seen.values == values
        await consumer.pause()
        await consumer.seek("t", 0, "beginning")
        assert await mq.lag("g") == {("t", 0): 4}
        await consumer.seek("t", 0, "end")
        assert await mq.lag("g") == {("t", 0): 0}
        with pytest.raises(m.OffsetInvalid):
            await consumer.seek("t", 0, "middle")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(m.PartitionUnknown):
            await consumer.seek_to_time("t", 1, 0.0)


async def test_what_a_consumer_holds_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    """A share for each partition, and one record more at most."""
    gate = trio.Event()
    seen = Seen(lambda _record: gate.wait())
    async with log_at(tmp_path / "log", partitions=1, max_fetched_bytes=1000) as (runtime, mq):
        await send(mq, *[f"{n:0100}" for n in range(50)])
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await until(lambda: (statistics := consumer.statistics()) is not None and statistics.held >= 8)
        for _ in range(3):
            await consumer.lag()  # time enough for one more fetch
        statistics = consumer.statistics()
        assert statistics is not None
        assert statistics.held == 8
        gate.set()
        await seen.until_done(50)


async def test_the_numbers_of_both_sides(tmp_path: Path) -> None:
    """What was sent, done, retried, put aside, dropped and committed is counted for each incarnation."""
    errors = {b"drop": ValueError(), b"letter": KeyError(), b"again": Boom()}
    failed: set[bytes] = set()

    async def fail(record: m.Received) -> None:
        if record.value in errors and record.value not in failed:
            failed.add(record.value)
            raise errors[record.value]

    seen = Seen(fail)
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        events = recorded(runtime)
        await send(mq, "drop", "letter", "again", "fine")
        sent = mq.statistics()
        assert sent is not None
        assert (sent.sent, sent.sent_bytes, sent.failed, sent.waiting, sent.waiting_bytes) == (4, 23, 0, 0, 0)
        assert sent.transactions >= 1
        assert 0 < sent.average_latency < LIMIT
        policy = m.RetryPolicy(backoff=QUICK, on={ValueError: "drop", KeyError: "dead_letter"})
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=policy))
        await seen.until_done(2)
        await consumer.lag()
        numbers = consumer.statistics()
        assert numbers is not None
        assert (numbers.done, numbers.failures, numbers.retried) == (4, 3, 1)
        assert (numbers.dead_lettered, numbers.dropped, numbers.moved_to_retry) == (1, 1, 0)
        assert (numbers.held, numbers.running, numbers.commit_failures) == (0, 0, 0)
        assert numbers.commits >= 1
        assert 0 < numbers.average_handling < LIMIT
        await runtime.stop(consumer)
        assert consumer.statistics() is None
    assert [e.partitions for e in events if isinstance(e, m.PartitionsAssigned)] == [(("t", 0),)]
