"""Public awaits cancelled, and the log and its consumer killed, at each moment in turn. See `tests/cancelling.py`.

The other public awaits are cancelled in `test_cancellation`, at the checkpoints of their own task.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import trio

import creche
from creche.components import mq as m
from creche.runtime.component import ComponentSpec
from tests.cancelling import Strike, everywhere

from .support import AT_ONCE, MANY_RESTARTS, Seen, message, sent_at_last


@dataclass
class Stage:
    """A log with one record in it, and a consumer that has handled it."""

    runtime: creche.Runtime
    mq: m.Mq
    consumer: m.Consumer
    seen: Seen


def reader(mq: m.Mq, seen: Seen, name: str) -> ComponentSpec[m.Consumer]:
    return m.consumer(mq, "g", "t", seen, name=name, concurrency=2).options(backoff=AT_ONCE)


@asynccontextmanager
async def stage() -> AsyncGenerator[Stage]:
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder:
        async with creche.open_runtime("stage", intensity=MANY_RESTARTS, seed=1) as runtime:
            config = m.Config(path=f"{folder}/log", partitions=2, commit_every=1)
            mq = await runtime.start(m.component(config, clock=trio.current_time).options(backoff=AT_ONCE))
            await mq.send_sync(message("first"))
            consumer = await runtime.start(reader(mq, seen, "consumer"))
            await seen.until_done(1)
            yield Stage(runtime, mq, consumer, seen)


async def prove_working(on: Stage) -> None:
    """What is sent now is acknowledged, handled and committed, in the order of its key."""
    before = {r.offset for r in on.seen.done if r.key == b"k"}
    acks = [await sent_at_last(on.mq, message(f"after {n}")) for n in range(2)]
    await on.seen.until(lambda: {b"after 0", b"after 1"} <= set(on.seen.values))
    assert not {ack.offset for ack in acks} & before
    first_time = list(dict.fromkeys(r.offset for r in on.seen.done if r.key == b"k"))
    assert first_time == sorted(first_time)
    while set((await on.mq.lag("g")).values()) != {0}:
        await trio.lowlevel.checkpoint()
    written = sum(partition.end for partition in (await on.mq.topics.describe("t")).partitions)
    assert len({(r.partition, r.offset) for r in on.seen.done}) == written


async def send_and_see(on: Stage) -> None:
    """From the sender to the handler; tried again when it fails, as a sender should."""
    await sent_at_last(on.mq, message("sent"))
    await on.seen.until(lambda: b"sent" in on.seen.values)


async def come_and_go(on: Stage) -> None:
    await on.runtime.stop(await on.runtime.start(reader(on.mq, on.seen, "second")))


async def come_and_go_at_work(on: Stage) -> None:
    """The partitions change hands twice while keys are handled in parallel."""
    second = await on.runtime.start(reader(on.mq, on.seen, "second"))
    await on.mq.send_batch([message(f"sent {n}", key) for n in range(2) for key in (b"k", b"a", b"b")])
    await on.runtime.stop(second)


OPERATIONS: dict[str, Callable[[Stage], Awaitable[object]]] = {
    "send": lambda on: on.mq.send(message("sent")),
    "send_sync": lambda on: on.mq.send_sync(message("sent")),
    "send_batch": lambda on: on.mq.send_batch([message("sent 1"), message("sent 2")]),
    "seek": lambda on: on.consumer.seek("t", 0, "beginning"),
    "second consumer": come_and_go,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_cancel_at_any_moment_leaves_everything_working(name: str) -> None:
    """Whoever sends or steers: the log and the consumer go on, in their first life."""

    async def scenario(strike: Strike) -> None:
        async with stage() as on:
            end = await strike.cancel(OPERATIONS[name], on)
            assert end.what in ("value", "cancelled")
            if any(child.name == "second" for child in on.runtime.tree().children):
                await on.runtime.stop("root/second")
            await prove_working(on)
            assert on.runtime.node_of(on.mq).incarnation == on.runtime.node_of(on.consumer).incarnation == 1

    ends = everywhere(scenario)
    assert ends["cancelled"]
    assert ends["value"]


@pytest.mark.parametrize(
    ("operation", "victim"),
    [(send_and_see, "mq"), (send_and_see, "consumer"), (come_and_go, "consumer"), (come_and_go_at_work, "consumer")],
)
def test_a_kill_at_any_moment_loses_nothing(operation: Callable[[Stage], Awaitable[object]], victim: str) -> None:
    """On the way of a record from its sender to the commit behind its handler, and while a group is rebalanced."""

    async def scenario(strike: Strike) -> None:
        async with stage() as on:
            end = await strike.hit(partial(on.runtime.kill, getattr(on, victim), "test"), operation, on)
            assert end.what == "value"
            await prove_working(on)

    everywhere(scenario)
