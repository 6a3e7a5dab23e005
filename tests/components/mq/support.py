"""What the tests of the log share."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

import creche
from creche.components import mq as m
from creche.components.mq.log import Fetched
from creche.components.mq.membership import Membership
from creche.runtime.events import Event
from creche.runtime.node import State

LIMIT = 15.0  # seconds of real time for a whole test: far above what any of them takes
MANY_RESTARTS = creche.Intensity(restarts=1_000_000, window=1.0)
STEADY = creche.Backoff(first=1.0, factor=2.0, cap=8.0, jitter=0.0, free=0)
QUICK = creche.Backoff(first=0.0, cap=0.0, jitter=0.0, free=0)
AT_ONCE = creche.Backoff(first=0.0, cap=0.0, jitter=0.0)
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and /proc")


@asynccontextmanager
async def log_at(
    path: Path, clock: Callable[[], float] = time.time, **config: Any
) -> AsyncGenerator[tuple[creche.Runtime, m.Mq]]:
    """A runtime with a log in it, that may be killed as often as one likes."""
    with trio.fail_after(LIMIT):
        async with creche.open_runtime("test", intensity=MANY_RESTARTS, seed=1) as runtime:
            yield runtime, await _started(runtime, m.Config(path=str(path), **config), clock)


@asynccontextmanager
async def virtual_log_at(
    path: Path, monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float] = time.time, **config: Any
) -> AsyncGenerator[tuple[creche.Runtime, m.Mq]]:
    """The same for tests in virtual time: blocking work runs inline, for autojump takes a wait for a thread as idle."""

    async def run_inline(fn: Callable[..., Any], *args: Any, limiter: trio.CapacityLimiter | None = None) -> Any:
        await trio.lowlevel.checkpoint()
        return fn(*args)

    async with creche.open_runtime("test", intensity=MANY_RESTARTS, seed=1) as runtime:
        monkeypatch.setattr(runtime, "run_blocking", run_inline)
        yield runtime, await _started(runtime, m.Config(path=str(path), **config), clock)


async def _started(runtime: creche.Runtime, config: m.Config, clock: Callable[[], float]) -> m.Mq:
    return await runtime.start(m.component(config, clock=clock).options(backoff=AT_ONCE))


@dataclass
class Seen:
    """A handler that remembers what it was given, and when; `before` runs first and may raise."""

    before: Callable[[m.Received], Awaitable[object]] | None = None
    tried: list[m.Received] = field(default_factory=list[m.Received])
    done: list[m.Received] = field(default_factory=list[m.Received])
    times: list[float] = field(default_factory=list[float])
    _changed: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, message: m.Received) -> None:
        self.tried.append(message)
        self.times.append(trio.current_time())
        self._tell()
        if self.before is not None:
            await self.before(message)
        self.done.append(message)
        self._tell()

    @property
    def values(self) -> list[bytes]:
        return [message.value for message in self.done]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    async def until_done(self, count: int) -> None:
        await self.until(lambda: len(self.done) >= count)

    async def until_tried(self, count: int) -> None:
        await self.until(lambda: len(self.tried) >= count)

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()


def message(value: int | str, key: bytes | None = b"k", topic: str = "t") -> m.Message:
    return m.Message(topic, str(value).encode(), key)


async def send(mq: m.Mq, *values: int | str, key: bytes | None = b"k", topic: str = "t") -> None:
    for result in await mq.send_batch([message(value, key, topic) for value in values]):
        assert isinstance(result, m.Ack)


def after_each_fetch(monkeypatch: pytest.MonkeyPatch, then: Callable[[Fetched], Awaitable[object]]) -> None:
    """Have `then` called with what consumers fetch, before they get it."""
    fetch = Membership.fetch

    async def watched(
        member: Membership, positions: Mapping[tuple[str, int], int], limit: int, max_bytes: int
    ) -> Fetched:
        some = await fetch(member, positions, limit, max_bytes)
        await then(some)
        return some

    monkeypatch.setattr(Membership, "fetch", watched)


async def sent_at_last(mq: m.Mq, record: m.Message) -> m.Ack:
    """Send a record as often as it takes."""
    while True:
        try:
            return await mq.send_sync(record)
        except creche.CallFailed:
            await trio.lowlevel.checkpoint()


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


class HeldClock:
    """A clock for the log's writer that, while held, keeps it in the midst of a transaction."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self.fails = False
        self._free = threading.Event()
        self._free.set()

    def hold(self) -> None:
        self._free.clear()
        self.reached = trio.Event()

    def release(self) -> None:
        self._free.set()

    def __call__(self) -> float:
        if not self._free.is_set():
            trio.from_thread.run_sync(self.reached.set)
            self._free.wait(LIMIT)
        if self.fails:
            raise RuntimeError("the clock is broken")
        return 1.0


async def until(condition: Callable[[], bool]) -> None:
    """Look from time to time. The log's threads would not get Python's lock from a loop of mere checkpoints."""
    while not condition():  # noqa: ASYNC110  # there is nobody who would set an event
        await trio.sleep(0.001)


def partitions_of(consumer: m.Consumer) -> int:
    numbers = consumer.statistics()
    return 0 if numbers is None else numbers.partitions


async def until_shared(*parts: tuple[m.Consumer, int]) -> None:
    """Wait until each consumer has so many partitions."""
    await until(lambda: all(partitions_of(consumer) == count for consumer, count in parts))


async def killed(runtime: creche.Runtime, target: object) -> None:
    """Kill an actor and wait until its successor runs."""
    node = runtime.node_of(target)
    before = node.incarnation
    assert runtime.kill(target, "test")
    while node.incarnation == before or node.state is not State.RUNNING:
        await node.wait_for_change()


def recorded(runtime: creche.Runtime) -> list[Event]:
    """All events from now on."""
    seen: list[Event] = []
    runtime.events.subscribe(seen.append)
    return seen


def values_in(path: Path, topic: str = "t") -> list[bytes]:
    """The values in the file, by partition and offset; fails unless the offsets of each partition are dense."""
    db = sqlite3.connect(path)
    try:
        rows = db.execute(
            'SELECT partition, "offset", value FROM records WHERE topic = ? ORDER BY 1, 2', (topic,)
        ).fetchall()
        ends = dict(db.execute("SELECT partition, next_offset FROM topics WHERE topic = ?", (topic,)))
    finally:
        db.close()
    next_offsets: Counter[int] = Counter()
    for partition, offset, _ in rows:
        assert offset == next_offsets[partition], f"a gap before {partition}/{offset}"
        next_offsets[partition] += 1
    assert {partition: next_offsets[partition] for partition in ends} == ends
    return [value for _, _, value in rows]


@contextmanager
def full_disk(path: Path) -> Generator[None]:
    """Nothing more can be written to the log's WAL by the connections that are open in this process."""
    with _wal_is("/dev/full", os.O_RDWR, path):
        yield


@contextmanager
def broken_disk(path: Path) -> Generator[None]:
    """The same, and the system's error is not the one of a full disk, but EBADF."""
    with _wal_is(os.devnull, os.O_RDONLY, path):
        yield


@contextmanager
def _wal_is(device: str, flags: int, path: Path) -> Generator[None]:
    """Put a device into the place of the WAL, behind the back of SQLite, which cannot tell it from a faulty disk."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that nobody need read from it
    wal = os.path.realpath(f"{path}-wal")
    files = [int(name) for name in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{name}") == wal]
    assert files
    kept = [os.dup(file) for file in files]
    other = os.open(device, flags)
    try:
        for file in files:
            os.dup2(other, file)
        yield
    finally:
        for file, original in zip(files, kept, strict=True):
            os.dup2(original, file)
            os.close(original)
        os.close(other)


class _CancelAt(trio.abc.Instrument):
    """Cancels a scope as soon as a task has parked for the n-th time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, n: int) -> None:
        self.task = task
        self.scope = scope
        self.left = n

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if not self.left:
                self.scope.cancel()


async def cancelled_at_checkpoint(n: int, fn: Callable[[], Awaitable[object]]) -> bool:
    """Await `fn()`, cancelling it when it has parked for the n-th time. False: it never did, so it ran to its end."""
    scope = trio.CancelScope()
    instrument = _CancelAt(trio.lowlevel.current_task(), scope, n)
    trio.lowlevel.add_instrument(instrument)
    try:
        with scope:
            await fn()
    finally:
        trio.lowlevel.remove_instrument(instrument)
    return instrument.left <= 0
