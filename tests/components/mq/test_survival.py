"""Kills of the log and of its consumers, at any time and under load; and of the whole process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import trio

import creche
from creche.components import mq as m

from .support import AT_ONCE, Seen, log_at, values_in

KEYS = 6
EACH = 60
TOTAL = KEYS * EACH


class Killer:
    """Kills something after every so many ticks."""

    def __init__(self, runtime: creche.Runtime, every: int) -> None:
        self.runtime = runtime
        self.every = every
        self.target: object = None
        self.ticks = 0
        self.kills = 0

    def tick(self) -> None:
        self.ticks += 1
        if self.target is not None and self.ticks % self.every == 0:
            self.kills += self.runtime.kill(self.target, "test")


async def produce(mq: m.Mq, key: int, killer: Killer) -> None:
    """Send the key's records in order, each until it is acknowledged."""
    for n in range(EACH):
        record = m.Message("t", b"%d:%d" % (key, n), b"%d" % key, {m.OUTBOX_HEADER: f"{key}:{n}"})
        while True:
            killer.tick()
            try:
                await mq.send_sync(record)
                break
            except creche.CallFailed:
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(("stride", "order"), [(1, "key"), (2, "key"), (3, "partition")])
async def test_nothing_acknowledged_is_lost_and_order_is_kept(stride: int, order: m.Order, tmp_path: Path) -> None:
    """Log and consumer die again and again, also inside transactions and handlers; afterwards everything adds up."""
    path = tmp_path / "log"
    handled: list[tuple[int, m.Received]] = []  # (incarnation of the consumer, record)
    everything = trio.Event()
    in_transaction: list[Killer] = []

    def clock() -> float:  # runs in the writer's thread, in the midst of a transaction
        for killer in in_transaction:
            trio.from_thread.run_sync(killer.tick)
        return time.time()

    async with log_at(path, clock, max_batch=4 * stride, commit_every=7, commit_interval=0.05) as (runtime, mq):
        log_killer, consumer_killer = Killer(runtime, 37 + stride), Killer(runtime, 41 + stride)

        async def handle(record: m.Received) -> None:
            await trio.lowlevel.checkpoint()
            consumer_killer.tick()
            await trio.lowlevel.checkpoint()  # a kill comes into force here
            handled.append((runtime.node_of(consumer).incarnation, record))
            if len({record.value for _, record in handled}) == TOTAL:
                everything.set()

        spec = m.consumer(mq, "g", "t", handle, concurrency=4, order=order).options(backoff=AT_ONCE)
        consumer = await runtime.start(spec)
        log_killer.target, consumer_killer.target = mq, consumer
        in_transaction.append(log_killer)
        async with trio.open_nursery() as nursery:
            for key in range(KEYS):
                nursery.start_soon(produce, mq, key, log_killer)
        await everything.wait()
        log_killer.target = consumer_killer.target = None
        while set((await consumer.lag()).values()) != {0}:
            await trio.lowlevel.checkpoint()
        assert log_killer.kills > 3
        assert consumer_killer.kills > 3

    written = [tuple(map(int, value.split(b":"))) for value in values_in(path)]  # dense, too
    assert sorted(written) == [(key, n) for key in range(KEYS) for n in range(EACH)]
    assert [pair for key in range(KEYS) for pair in written if pair[0] == key] == sorted(written)
    assert_handled_in_order(handled, order)


def assert_handled_in_order(handled: list[tuple[int, m.Received]], order: m.Order) -> None:
    """In each life of the consumer without gaps or repeats; over all lives, each record for the first time in order."""
    for lives in grouped(handled, order).values():
        first_time: list[int] = []
        for numbers in lives.values():
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            first_time += [number for number in numbers if number not in first_time]
        assert first_time == list(range(len(first_time)))


def grouped(handled: list[tuple[int, m.Received]], order: m.Order) -> dict[object, dict[int, list[int]]]:
    """{key or partition: {incarnation: numbers in the order in which they were handled}}."""
    lives: dict[object, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for incarnation, record in handled:
        if order == "key":
            lives[record.key][incarnation].append(int(record.value.partition(b":")[2]))
        else:
            lives[record.partition][incarnation].append(record.offset)
    return lives


async def test_without_a_kill_nothing_is_delivered_twice(tmp_path: Path) -> None:
    """Redelivery is for crashes only."""
    handled: list[tuple[int, m.Received]] = []
    everything = trio.Event()

    async def handle(record: m.Received) -> None:
        handled.append((1, record))
        if len(handled) == TOTAL:
            everything.set()

    async with log_at(tmp_path / "log", max_batch=20, commit_every=3) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", handle, concurrency=3))
        async with trio.open_nursery() as nursery:
            for key in range(KEYS):
                nursery.start_soon(produce, mq, key, Killer(runtime, 1))
        await everything.wait()
        await runtime.stop(consumer)
    assert set(Counter(record.value for _, record in handled).values()) == {1}
    assert_handled_in_order(handled, "key")


async def test_a_send_without_an_id_is_never_written_twice(tmp_path: Path) -> None:
    """Acknowledged ones are there once; those that failed are there at most once, and not at all if not delivered."""
    path = tmp_path / "log"
    acked: list[bytes] = []
    not_delivered: list[bytes] = []

    async def send(mq: m.Mq, sender: int, killer: Killer) -> None:
        for n in range(EACH):
            value = b"%d:%d" % (sender, n)
            killer.tick()
            try:
                await mq.send_sync(m.Message("t", value))
                acked.append(value)
            except creche.NotDelivered:
                not_delivered.append(value)

    async with log_at(path, max_batch=2) as (runtime, mq):
        killer = Killer(runtime, 13)
        killer.target = mq
        async with trio.open_nursery() as nursery:
            for sender in range(8):
                nursery.start_soon(send, mq, sender, killer)
    written = values_in(path)
    assert sorted(written) == sorted(acked)
    assert not_delivered
    assert not set(not_delivered) & set(written)


PROGRAM = """
import sys, trio, creche
from creche.components import mq as m

async def handle(record):
    await trio.lowlevel.checkpoint()
    print("done", record.value.decode(), flush=True)

async def main():
    async with creche.open_runtime("child") as runtime:
        mq = await runtime.start(m.component(m.Config(path=sys.argv[1], commit_every=10)))
        async def send(sender):
            for n in range(1_000_000):
                await mq.send_sync(m.Message("t", b"%d:%d" % (sender, n), b"%d" % sender))
                print("sent", f"{sender}:{n}", flush=True)
        async with trio.open_nursery() as nursery:
            for sender in range(4):
                nursery.start_soon(send, sender)
            for name in sys.argv[2:]:
                await runtime.start(m.consumer(mq, "g", "t", handle, name=name, concurrency=4))

trio.run(main)
"""


def killed_in_the_midst(path: Path, *consumers: str) -> tuple[list[str], list[str]]:
    """Run the program, kill it, and return what it said to be acknowledged and to be handled, in order."""
    command = [sys.executable, "-c", PROGRAM, str(path), *consumers]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(500)]
        process.send_signal(signal.SIGKILL)
        lines += [line for line in process.stdout if line.endswith("\n")]
    words = [line.split() for line in lines]
    return [number for what, number in words if what == "sent"], [number for what, number in words if what == "done"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_acknowledged_records_survive_the_death_of_the_process(tmp_path: Path) -> None:
    """`kill -9` in the midst of sending: everything that was told to be acknowledged is in the file, in order."""
    acked, _ = killed_in_the_midst(tmp_path / "log")
    written = [value.decode() for value in values_in(tmp_path / "log")]
    assert not set(acked) - set(written)
    for sender in range(4):
        numbers = [int(value.partition(":")[2]) for value in written if value.startswith(f"{sender}:")]
        assert numbers == list(range(len(numbers)))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
async def test_a_group_goes_on_after_the_death_of_its_process(tmp_path: Path) -> None:
    """Everything acknowledged is handled, by the dead or the living; keys in order; without waiting for a session."""
    path = tmp_path / "log"
    acked, handled = await trio.to_thread.run_sync(killed_in_the_midst, path, "one", "two")
    seen = Seen()
    async with log_at(path, session_timeout=1000.0) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, concurrency=4))
        await seen.until(lambda: set(acked) <= {*handled, *(value.decode() for value in seen.values)})
        while set((await consumer.lag()).values()) != {0}:
            await trio.lowlevel.checkpoint()
    assert handled
    for sender in range(4):
        first_time: list[int] = []
        for value in [*handled, *(value.decode() for value in seen.values)]:
            key, number = value.split(":")
            if int(key) == sender and int(number) not in first_time:
                first_time.append(int(number))
        assert first_time == list(range(len(first_time)))
