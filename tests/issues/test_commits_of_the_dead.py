"""A consumer that was killed again and again, each time before the log got round to its commits, came no further.

Its commit waited in the mailbox of a log that was busy, and was revoked with the task that had sent it. So every
incarnation began at the same record, and a group under steady kills on a quick machine was stuck for ever.
"""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from creche.components import mq as m

from ..components.mq.support import AT_ONCE, HeldClock, Seen, killed, log_at, send


async def test_what_a_killed_consumer_had_done_is_not_done_again_although_the_log_was_busy(tmp_path: Path) -> None:
    """Its last commit does not end with it, and is there before the next incarnation asks where to go on."""
    clock, go_on = HeldClock(), trio.Event()

    async def wait(_record: m.Received) -> None:
        await go_on.wait()

    seen = Seen(wait)
    async with log_at(tmp_path / "log", clock, commit_every=1) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen).options(backoff=AT_ONCE))
        await send(mq, 1, 2, 3)
        await seen.until_tried(1)
        async with trio.open_nursery() as nursery:
            clock.hold()
            await mq.send(m.Message("other", b""))
            await clock.reached.wait()
            nursery.start_soon(mq.topics.list)  # in the log's hand, until the transaction has ended
            await wait_all_tasks_blocked()
            go_on.set()
            await seen.until_done(3)
            await wait_all_tasks_blocked()
            await killed(runtime, consumer)
            clock.release()
        while sum((await consumer.lag()).values()):
            await trio.lowlevel.checkpoint()
    assert seen.values == [b"1", b"2", b"3"]
