"""Every public await, cancelled at each of its checkpoints in turn: nothing half-written, nothing stuck."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from creche.components import mq as m

from .support import HeldClock, Seen, cancelled_at_checkpoint, log_at, message, values_in

Operation = Callable[[m.Mq, int], Awaitable[object]]


async def send_and_wait(mq: m.Mq, n: int) -> None:
    await (await mq.send(message(n))).wait()


OPERATIONS: dict[str, Operation] = {
    "send": lambda mq, n: mq.send(message(n)),
    "send, wait": send_and_wait,
    "send_sync": lambda mq, n: mq.send_sync(message(n)),
    "send_batch": lambda mq, n: mq.send_batch([message(n), message(f"{n}b")]),
    "flush": lambda mq, _n: mq.flush(),
    "lag": lambda mq, _n: mq.lag("g"),
    "topics.create": lambda mq, n: mq.topics.create(f"new{n}", 7),
    "topics.list": lambda mq, _n: mq.topics.list(),
    "topics.describe": lambda mq, _n: mq.topics.describe("t"),
    "topics.delete": lambda mq, _n: mq.topics.delete("other"),
    "topics.create_partitions": lambda mq, _n: mq.topics.create_partitions("t", 3),
    "groups.list": lambda mq, _n: mq.groups.list(),
    "groups.describe": lambda mq, _n: mq.groups.describe("g"),
    "groups.set_offsets": lambda mq, n: mq.groups.set_offsets("g", {("t", 0): n, ("t", 1): n}),
    "groups.delete": lambda mq, _n: mq.groups.delete("g"),
    "dead_letters.list": lambda mq, _n: mq.dead_letters.list("t.dead_letter", "g"),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_cancelled_call_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    """The log goes on; what was sent is there or not; a topic has all of its partitions or is not there."""
    path = tmp_path / "log"
    async with log_at(path) as (runtime, mq):
        await mq.send_sync(message("first"))
        n = 1
        while await cancelled_at_checkpoint(n, lambda: OPERATIONS[name](mq, n)):  # noqa: B023  # called at once
            await mq.send_sync(message(f"after {n}"))
            n += 1
        await mq.flush()
        assert n > 1
        assert set((await mq.topics.list()).items()) <= {("t", 3), *((f"new{k}", 7) for k in range(1, n + 1))}
        assert runtime.node_of(mq).incarnation == 1
    written = values_in(path)
    assert len(written) == len(set(written))
    assert {b"first", *(b"after %d" % k for k in range(1, n))} <= set(written)
    if name.startswith("send"):
        assert b"%d" % n in written  # this one was not cancelled


@pytest.mark.parametrize("name", ["send", "send, wait", "send_sync", "send_batch"])
async def test_a_send_that_waits_for_room_can_be_cancelled(name: str, tmp_path: Path) -> None:
    """At each of its checkpoints; others get the room, and what was cancelled before it was accepted is nowhere."""
    path = tmp_path / "log"
    clock = HeldClock()
    async with log_at(path, clock, max_buffered=1) as (runtime, mq):
        n, again = 1, True
        while again:
            clock.hold()
            await mq.send(message(f"writing {n}"))
            await clock.reached.wait()
            waiting = await mq.send(message(f"waiting {n}"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(release_when_all_wait, clock)
                again = await cancelled_at_checkpoint(n, lambda: OPERATIONS[name](mq, n))  # noqa: B023
            assert (await waiting.wait()).topic == "t"
            await mq.flush()
            n += 1
        await mq.send_sync(message("last"))
        assert n > 2
        assert runtime.node_of(mq).incarnation == 1
    written = values_in(path)
    assert b"1" not in written
    assert b"%d" % (n - 1) in written
    assert len(written) == len(set(written))


async def release_when_all_wait(clock: HeldClock) -> None:
    await wait_all_tasks_blocked()
    clock.release()


async def test_a_cancelled_send_is_taken_back_unless_it_is_being_written(tmp_path: Path) -> None:
    """`send_sync` and `send_batch` revoke what still waits; `Delivery.wait` does not: that message was accepted."""
    clock = HeldClock()
    path = tmp_path / "log"
    async with log_at(path, clock) as (_, mq):
        clock.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mq.send_sync, message("writing"))
            await clock.reached.wait()
            nursery.start_soon(mq.send_sync, message("waiting"))
            nursery.start_soon(mq.send_batch, [message("batch 1"), message("batch 2")])
            delivery = await mq.send(message("accepted"))
            nursery.start_soon(delivery.wait)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not delivery.settled
        clock.release()
        assert (await delivery.wait()).offset == 1
        await mq.flush()
    assert values_in(path) == [b"writing", b"accepted"]


STEERING: dict[str, Callable[[m.Consumer], Awaitable[object]]] = {
    "pause": lambda consumer: consumer.pause(),
    "resume": lambda consumer: consumer.resume(),
    "pause one": lambda consumer: consumer.pause("t", 0),
    "seek": lambda consumer: consumer.seek("t", 0, 0),
    "seek to the beginning": lambda consumer: consumer.seek("t", 0, "beginning"),
    "seek to a time": lambda consumer: consumer.seek_to_time("t", 0, 0.0),
    "lag": lambda consumer: consumer.lag(),
}


@pytest.mark.parametrize("name", STEERING)
async def test_a_cancelled_steering_call_leaves_the_consumer_working(name: str, tmp_path: Path) -> None:
    """After it the consumer reads on, and commits what it has done."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=1, commit_every=1) as (runtime, mq):
        await mq.send_sync(message("first"))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(1)
        n = 1
        while await cancelled_at_checkpoint(n, lambda: STEERING[name](consumer)):
            await consumer.resume()
            ack = await mq.send_sync(message(n))
            await seen.until(lambda: bool(seen.done) and seen.done[-1].offset == ack.offset)  # noqa: B023
            assert await consumer.lag() == {("t", 0): 0}
            n += 1
        assert n > 1
        assert runtime.node_of(consumer).incarnation == 1


async def test_a_start_or_stop_that_is_cancelled_leaves_a_working_group(tmp_path: Path) -> None:
    """At each checkpoint of either, in the midst of a rebalance: the member is in or out, and nothing is lost."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=2, commit_every=1, session_timeout=1000.0) as (runtime, mq):
        await runtime.start(m.consumer(mq, "g", "t", seen, name="stays"))
        sent, n, again = 0, 0, True
        while again:
            n += 1
            comes = m.consumer(mq, "g", "t", seen, name=f"comes{n}")

            async def start_and_stop() -> None:
                await runtime.stop(await runtime.start(comes))  # noqa: B023  # called at once

            again = await cancelled_at_checkpoint(n, start_and_stop)
            await mq.send_batch([message(n, b"%d" % key) for key in range(5)])
            sent += 5
            await seen.until_done(sent)
            if any(child.name == f"comes{n}" for child in runtime.tree().children):
                await runtime.stop(f"root/comes{n}")
        while set((await mq.lag("g")).values()) != {0}:
            await trio.lowlevel.checkpoint()
    assert n > 2
    assert len(seen.done) == sent
