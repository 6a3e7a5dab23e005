"""Groups of several consumers: who reads what, handed over without loss, repeats or disorder."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import creche
from creche.components import mq as m
from creche.runtime.component import ComponentSpec

from .support import AT_ONCE, Seen, killed, log_at, recorded, send, sent_at_last, until_shared, virtual_log_at


async def let_others_run(_record: m.Received) -> None:
    await trio.lowlevel.checkpoint()


async def test_consumers_of_a_group_share_its_partitions(tmp_path: Path) -> None:
    """In one process at once, without waiting for a heartbeat; each record goes to one of them."""
    one, two = Seen(), Seen()
    async with log_at(tmp_path / "log", partitions=4) as (runtime, mq):
        events = recorded(runtime)
        first = await runtime.start(m.consumer(mq, "g", "t", one, name="one"))
        await until_shared((first, 4))
        second = await runtime.start(m.consumer(mq, "g", "t", two, name="two"))
        await until_shared((first, 2), (second, 2))
        await send(mq, *range(40), key=None)
        await one.until_done(20)
        await two.until_done(20)
        assert sorted(one.values + two.values) == sorted(b"%d" % n for n in range(40))
        assert set((await first.lag()) | (await second.lag())) == {("t", n) for n in range(4)}
        await runtime.stop(second)
        await until_shared((first, 4))
        await send(mq, *range(8), key=None)
        await one.until_done(28)
    revoked = [e for e in events if isinstance(e, m.PartitionsRevoked)]
    assert [(len(e.partitions), e.lost) for e in revoked] == [(1, False)] * 2
    assert sum(len(e.partitions) for e in events if isinstance(e, m.PartitionsAssigned)) == 4 + 2 + 2


async def test_more_consumers_than_partitions_wait_in_reserve(tmp_path: Path) -> None:
    """And take over when another one has gone, from where that had come to."""
    one, two = Seen(), Seen()
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        first = await runtime.start(m.consumer(mq, "g", "t", one, name="one"))
        await until_shared((first, 1))
        second = await runtime.start(m.consumer(mq, "g", "t", two, name="two"))
        await send(mq, 1, 2)
        await one.until_done(2)
        await runtime.stop(first)
        await until_shared((second, 1))
        await send(mq, 3)
        await two.until_done(1)
    assert (one.values, two.values) == ([b"1", b"2"], [b"3"])


async def test_a_handler_that_runs_ends_before_its_partition_changes_hands(tmp_path: Path) -> None:
    """Its record is committed and not delivered again; nothing new begins in between; other partitions go on."""
    gate = trio.Event()

    async def hang(record: m.Received) -> None:
        if record.value == b"hung":
            await gate.wait()

    one, two = Seen(hang), Seen()
    async with log_at(tmp_path / "log", partitions=2) as (runtime, mq):
        first = await runtime.start(m.consumer(mq, "g", "t", one, name="one", concurrency=2, order="partition"))
        await until_shared((first, 2))
        await send(mq, "other", "hung", "another", "next", key=None)  # in turn to partitions 0 and 1
        await one.until_tried(3)
        second = await runtime.start(m.consumer(mq, "g", "t", two, name="two"))
        await second.lag()
        await send(mq, "third", key=None)
        await one.until_done(3)
        await wait_all_tasks_blocked()
        assert two.tried == []
        gate.set()
        await two.until_done(1)
        assert two.values == [b"next"]
    assert one.values == [b"other", b"another", b"third", b"hung"]


async def begun_out_of_order(mq: m.Mq, one: Seen, topic: str) -> None:
    """Send records of two keys to one partition; those of one hang at the first, the other's are done beyond it."""
    for value, key in (("hung", b"a"), ("other", b"b"), ("passed over", b"a"), ("last", b"b"), ("next", b"a")):
        await send(mq, value, key=key, topic=topic)
    await one.until_done(2)


@pytest.mark.parametrize("way", ["another takes over", "a stop"])
async def test_what_was_passed_over_is_done_before_a_partition_changes_hands(way: str, tmp_path: Path) -> None:
    """By key: else what is done behind it would be done again. What nobody has passed begins with the next owner."""
    gate = trio.Event()

    async def hang(record: m.Received) -> None:
        if record.value == b"hung":
            await gate.wait()

    one, two = Seen(hang), Seen()
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        first = await runtime.start(m.consumer(mq, "g", ("t", "u"), one, name="one", concurrency=2))
        await until_shared((first, 2))
        await begun_out_of_order(mq, one, "u")
        async with trio.open_nursery() as nursery:
            if way == "a stop":
                nursery.start_soon(runtime.stop, first)
                await wait_all_tasks_blocked()
            second = await runtime.start(m.consumer(mq, "g", ("t", "u"), two, name="two"))
            await second.lag()
            await wait_all_tasks_blocked()
            assert two.tried == []
            gate.set()
        await two.until_done(1)
    assert one.values == [b"other", b"last", b"hung", b"passed over"]
    assert two.values == [b"next"]


def slow_for(key: bytes, seconds: float) -> Seen:
    """A handler that takes some time for one key."""

    async def take_time(record: m.Received) -> None:
        await trio.sleep(seconds if record.key == key else 0.0)

    return Seen(take_time)


async def test_what_was_passed_over_may_take_half_of_the_rebalance_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Then nothing more begins, and what runs has the other half: the partition is given away, not lost."""
    one, two = slow_for(b"a", 20.0), Seen()
    config: dict[str, Any] = {"partitions": 1, "rebalance_timeout": 60.0, "session_timeout": 20.0}
    async with virtual_log_at(tmp_path / "log", monkeypatch, clock=trio.current_time, **config) as (runtime, mq):
        events = recorded(runtime)
        await runtime.start(m.consumer(mq, "g", ("t", "u"), one, name="one", concurrency=2))
        await trio.sleep(1)
        for n in range(5):
            await send(mq, n, key=b"a", topic="u")
        await send(mq, "last", key=b"b", topic="u")
        await one.until_done(1)
        await runtime.start(m.consumer(mq, "g", ("t", "u"), two, name="two"))
        await two.until_done(4)
    assert (one.values, two.values) == ([b"last", b"0", b"1"], [b"2", b"last", b"3", b"4"])
    assert not [e for e in events if isinstance(e, m.PartitionsRevoked) and e.lost]


async def test_a_stop_leaves_time_for_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """What was passed over begins in the first half of the time to stop, so that nothing has to be cancelled."""
    one, two = slow_for(b"a", 2.0), Seen()
    async with virtual_log_at(tmp_path / "log", monkeypatch, partitions=1) as (runtime, mq):
        spec = m.consumer(mq, "g", "t", one, name="one", concurrency=2).options(shutdown=10.0, drain=10.0)
        consumer = await runtime.start(spec)
        for n in range(5):
            await send(mq, n, key=b"a")
        await send(mq, "last", key=b"b")
        await one.until_done(1)
        await runtime.stop(consumer)
        assert one.values == [b"last", b"0", b"1", b"2"]
        assert len(one.tried) == len(one.done)
        await runtime.start(m.consumer(mq, "g", "t", two, name="two"))
        await two.until_done(3)
    assert two.values == [b"3", b"last", b"4"]


async def test_a_consumer_that_crashes_keeps_its_share(tmp_path: Path) -> None:
    """No rebalance for a restart: it is the same member."""
    one, two = Seen(), Seen()
    async with log_at(tmp_path / "log", partitions=2, commit_every=1) as (runtime, mq):
        first = await runtime.start(m.consumer(mq, "g", "t", one, name="one").options(backoff=AT_ONCE))
        await until_shared((first, 2))
        second = await runtime.start(m.consumer(mq, "g", "t", two, name="two"))
        await until_shared((first, 1), (second, 1))
        events = recorded(runtime)
        await killed(runtime, first)
        await until_shared((first, 1), (second, 1))
        await second.lag()
        await send(mq, *range(6), key=None)
        await one.until_done(3)
        await two.until_done(3)
    assert {e.path for e in events if isinstance(e, m.PartitionsAssigned)} == {"root/one"}
    assert not [e for e in events if isinstance(e, m.PartitionsRevoked)]


async def test_a_handler_that_hangs_loses_its_partition_and_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """After the rebalance timeout, so that it does not work beside the new owner, who does what was not done."""
    cancelled = trio.Event()

    async def hang(_record: m.Received) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    one, two = Seen(hang), Seen()
    config: dict[str, Any] = {"partitions": 2, "rebalance_timeout": 60.0, "session_timeout": 20.0}
    async with virtual_log_at(tmp_path / "log", monkeypatch, clock=trio.current_time, **config) as (runtime, mq):
        events = recorded(runtime)
        first = await runtime.start(m.consumer(mq, "g", "t", one, name="one", concurrency=2))
        await trio.sleep(1)
        await send(mq, "stays", "goes", key=None)
        await one.until_tried(2)
        await runtime.start(m.consumer(mq, "g", "t", two, name="two"))
        await two.until_done(1)
        assert 61 <= trio.current_time() < 70
        await cancelled.wait()
        assert (one.done, two.values) == ([], [b"goes"])
        assert runtime.node_of(first).incarnation == 1
    assert [e.lost for e in events if isinstance(e, m.PartitionsRevoked)].count(True) == 1


async def test_a_slow_handler_is_no_reason_to_lose_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Heartbeats do not depend on handlers: one that takes an hour keeps its place in the group."""

    async def take_an_hour(_record: m.Received) -> None:
        await trio.sleep(3600)

    seen, other = Seen(take_an_hour), Seen()
    config: dict[str, Any] = {"partitions": 1, "poll_interval": 600.0}
    async with virtual_log_at(tmp_path / "log", monkeypatch, clock=trio.current_time, **config) as (runtime, mq):
        events = recorded(runtime)
        await runtime.start(m.consumer(mq, "g", "t", seen, name="one"))
        await trio.sleep(1)
        await runtime.start(m.consumer(mq, "g", "t", other, name="two"))
        await send(mq, 1, 2)
        await seen.until_done(2)
    assert other.tried == []
    assert not [e for e in events if isinstance(e, m.PartitionsRevoked | m.MembersExpelled)]


async def test_a_locked_log_is_no_reason_to_lose_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Who could not sync for longer than the session timeout goes on with what it does, and so do the others."""

    async def take_a_minute(_record: m.Received) -> None:
        await trio.sleep(60)

    one, two = Seen(take_a_minute), Seen(take_a_minute)
    path = tmp_path / "log"
    config: dict[str, Any] = {"partitions": 2, "busy_timeout": 0.0, "session_timeout": 10.0, "heartbeat_interval": 3.0}
    async with virtual_log_at(path, monkeypatch, clock=trio.current_time, **config) as (runtime, mq):
        await runtime.start(m.consumer(mq, "g", "t", one, name="one"))
        await runtime.start(m.consumer(mq, "g", "t", two, name="two"))
        await trio.sleep(10)
        await send(mq, 1, 2, key=None)
        await one.until_tried(1)
        await two.until_tried(1)
        events = recorded(runtime)
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            await trio.sleep(20)
        await one.until_done(1)
        await two.until_done(1)
    assert (len(one.tried), len(two.tried)) == (1, 1)
    assert not [
        e for e in events if isinstance(e, m.MembersExpelled) or (isinstance(e, m.PartitionsRevoked) and e.lost)
    ]


async def test_processes_share_a_group_through_the_file(tmp_path: Path) -> None:
    """Found by heartbeats; when one has ended, without a word, the other is told by its session at the next one."""
    path = tmp_path / "log"
    config: dict[str, Any] = {"partitions": 2, "session_timeout": 1000.0}
    config |= {"heartbeat_interval": 0.02, "poll_interval": 0.02}
    one, two = Seen(), Seen()
    async with log_at(path, **config) as (runtime, mq):
        events = recorded(runtime)
        first = await runtime.start(m.consumer(mq, "g", "t", one))
        await until_shared((first, 2))
        async with creche.open_runtime("another") as other_runtime:
            other_mq = await other_runtime.start(m.component(m.Config(path=str(path), **config)))
            second = await other_runtime.start(m.consumer(other_mq, "g", "t", two))
            await until_shared((first, 1), (second, 1))
            await send(mq, *range(6), key=None)
            await one.until_done(3)
            await two.until_done(3)
            await other_runtime.stop(other_mq)  # so its consumer cannot say good-bye
            await until_shared((first, 2))
    (expelled,) = [e for e in events if isinstance(e, m.MembersExpelled)]
    assert (expelled.group, len(expelled.members)) == ("g", 1)


async def test_a_pause_holds_for_what_is_assigned_later(tmp_path: Path) -> None:
    """A consumer that is paused begins nothing, whatever the group gives it."""
    one, two = Seen(), Seen()
    async with log_at(tmp_path / "log", partitions=2) as (runtime, mq):
        first = await runtime.start(m.consumer(mq, "g", "t", one, name="one"))
        await until_shared((first, 2))
        second = await runtime.start(m.consumer(mq, "g", "t", two, name="two"))
        await until_shared((first, 1), (second, 1))
        await second.pause()
        await runtime.stop(first)
        await until_shared((second, 2))
        await send(mq, *range(4), key=None)
        await second.lag()
        await wait_all_tasks_blocked()
        assert two.tried == []
        await second.resume()
        await two.until_done(4)


@pytest.mark.parametrize("order", ["key", "partition"])
@pytest.mark.parametrize("kills", [False, True], ids=["", "with kills"])
async def test_members_come_and_go_under_load(order: m.Order, kills: bool, tmp_path: Path) -> None:
    """Each key in order for the first time, whoever handles it; without crashes each record is delivered once."""
    keys, each = 6, 60
    seen = Seen(let_others_run)
    async with log_at(tmp_path / "log", partitions=4, commit_every=5, session_timeout=1000.0) as (runtime, mq):

        async def produce(key: int) -> None:
            for n in range(each):
                await sent_at_last(mq, m.Message("t", b"%d" % n, b"%d" % key))

        def member(number: int) -> ComponentSpec[m.Consumer]:
            spec = m.consumer(mq, "g", "t", seen, name=f"member{number}", concurrency=3, order=order)
            return spec.options(backoff=AT_ONCE)

        members = [await runtime.start(member(0))]
        async with trio.open_nursery() as nursery:
            for key in range(keys):
                nursery.start_soon(produce, key)
            for number in range(1, 8):
                await seen.until(lambda: len({(r.key, r.value) for r in seen.done}) >= number * 30)  # noqa: B023
                if kills:
                    runtime.kill(members[0], "test")
                    runtime.kill(mq if number % 2 else members[-1], "test")
                members.append(await runtime.start(member(number)))
                if number % 3:
                    await runtime.stop(members.pop(0))
        await seen.until(lambda: len({(r.key, r.value) for r in seen.done}) == keys * each)
    by_key: dict[bytes | None, list[bytes]] = defaultdict(list)
    for record in seen.done:
        if record.value not in by_key[record.key]:
            by_key[record.key].append(record.value)
    assert kills or set(Counter((r.key, r.value) for r in seen.done).values()) == {1}
    assert by_key == {b"%d" % key: [b"%d" % n for n in range(each)] for key in range(keys)}


async def test_who_is_stopped_while_down_leaves_the_group(tmp_path: Path) -> None:
    """It cannot say so itself; the others need not wait for its session to run out."""
    one, two = Seen(), Seen()
    async with log_at(tmp_path / "log", partitions=2, session_timeout=1000.0) as (runtime, mq):
        late = creche.Backoff(first=1000.0, cap=1000.0, free=0)
        first = await runtime.start(m.consumer(mq, "g", "t", one, name="one").options(backoff=late))
        await until_shared((first, 2))
        runtime.kill(first, "test")
        await wait_all_tasks_blocked()
        await runtime.stop(first)
        second = await runtime.start(m.consumer(mq, "g", "t", two, name="two"))
        await until_shared((second, 2))


async def test_a_stop_leaves_the_group_although_it_is_being_rebalanced(tmp_path: Path) -> None:
    """Nobody waits for a member that is gone, whenever it goes."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=2, session_timeout=1000.0) as (runtime, mq):
        for rounds in range(10):
            one = await runtime.start(m.consumer(mq, "g", "t", seen, name=f"one{rounds}"))
            two = await runtime.start(m.consumer(mq, "g", "t", seen, name=f"two{rounds}"))
            for _ in range(rounds * 3):
                await trio.lowlevel.checkpoint()
            await runtime.stop(two)
            await until_shared((one, 2))
            await runtime.stop(one)
        last = await runtime.start(m.consumer(mq, "g", "t", seen))
        await until_shared((last, 2))
