"""Consumers that stood still, or fell, for no reason of their own."""

from __future__ import annotations

from pathlib import Path

from trio.testing import wait_all_tasks_blocked

from creche.components import mq as m
from creche.components.mq.progress import Latch, Partition
from creche.components.mq.sessions import Session

from ..components.mq.support import Seen, log_at, send


async def test_one_partition_can_go_on_although_all_was_paused(tmp_path: Path) -> None:
    """To resume one of them did nothing, without a word, until everything was resumed."""
    seen = Seen()
    async with log_at(tmp_path / "log", partitions=2) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen))
        await consumer.lag()  # has joined
        await consumer.pause()
        await send(mq, *range(4), key=None)
        await consumer.resume("t", 1)
        await seen.until_done(2)
        await wait_all_tasks_blocked()
        assert {record.partition for record in seen.done} == {1}
        await consumer.resume()
        await seen.until_done(4)


async def test_a_wait_whose_time_is_over_already_is_over() -> None:
    """The clock may go on between a look at it and the wait; Trio takes no negative time: the consumer would crash."""
    await Latch().wait(-1e-9)


def test_a_letter_of_what_was_sought_away_is_no_reason_to_go_on() -> None:
    """A partition that is left waited for records up to the one whose letter was still on its way."""
    partition = Partition(("t", 0), 0, by_key=True)
    partition.aside += partition.window.add([m.Received("t", b"", partition=0, offset=7, time=0.0)])
    partition.seek(0)
    partition.leave()
    assert partition.until == 0


def test_a_session_that_cannot_be_looked_at_counts_as_alive(tmp_path: Path) -> None:
    """One of another user, or for want of descriptors: over such a member the log crashed at every sync."""
    session = Session(str(tmp_path / "log"), "one")
    session.open()
    (tmp_path / "log-sessions" / "two").mkdir()  # what can be opened for nobody
    assert session.is_alive("two")
    session.close()
