"""A log tells by a header which records it has. Some names came again for others, which were lost without a word.

Letters were named by the place of their record: the offsets of a topic that is deleted and made anew begin again. What
goes through an outbox was named by its row: a power loss takes the last rows, and their numbers are given again. And a
database took its own name from the randomness of its runtime, which is the same for all that have one seed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import sqlalchemy as sa
import trio

import creche
from creche import components as c
from creche.components import mq as m

from ..components.mq.support import Failing, Seen, log_at, send, values_in

ONCE = m.RetryPolicy(attempts=1)


async def settled(consumer: m.Consumer, seen: Seen, tries: int) -> None:
    """Wait until the handler was called so often, and what followed is over."""
    await seen.until_tried(tries)
    while sum((await consumer.lag()).values()):
        await trio.lowlevel.checkpoint()


async def test_a_letter_of_a_topic_that_was_made_anew_is_not_taken_for_an_old_one(tmp_path: Path) -> None:
    """Its record has the place of one that was put aside before."""
    path, seen = tmp_path / "log", Seen(Failing({b"old": 1, b"new": 1}))
    async with log_at(path, partitions=1) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=ONCE))
        for tries, value in enumerate(("old", "new"), 1):
            await send(mq, value)
            await settled(consumer, seen, tries)
            await mq.topics.delete("t")
    assert values_in(path, "t.dead_letter") == [b"old", b"new"]


async def test_a_record_of_a_topic_that_was_made_anew_comes_back_from_its_retry_topic(tmp_path: Path) -> None:
    """The same on the way to a retry topic."""
    path, seen = tmp_path / "log", Seen(Failing({b"old": 1, b"new": 1}))
    async with log_at(path, partitions=1) as (runtime, mq):
        policy = m.RetryPolicy(attempts=1, topics=(0.001,))
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=policy))
        for tries, value in enumerate(("old", "new")):
            await send(mq, value)
            await settled(consumer, seen, 2 * tries + 1)
            await mq.topics.delete("t")
    assert seen.values == [b"old", b"new"]


async def test_letters_are_replayed_though_others_had_their_places_before(tmp_path: Path) -> None:
    """The topic with the letters is deleted once they have been replayed, and made anew by the next letter."""
    path, seen = tmp_path / "log", Seen(Failing({b"1": 1, b"2": 1}))
    async with log_at(path, partitions=1) as (runtime, mq):
        consumer = await runtime.start(m.consumer(mq, "g", "t", seen, retry=ONCE))
        for n in (1, 2):
            await send(mq, n)
            await settled(consumer, seen, 2 * n - 1)
            assert await mq.dead_letters.replay("t", "g") == 1
            await mq.topics.delete("t.dead_letter")
    assert values_in(path) == [b"1", b"1", b"2", b"2"]


async def published(folder: Path, *values: bytes) -> None:
    """One life of a service: each value in a transaction of its own, and sent."""
    async with creche.open_runtime("test") as runtime:
        db = await runtime.start(c.db.component(c.db.Config(path=str(folder / "db" / "file"))))
        mq = await runtime.start(m.component(m.Config(path=str(folder / "log"), partitions=1)))
        await runtime.start(c.db.relay(db, mq))
        for value in values:
            async with db.transaction() as tx:
                await tx.publish(m.Message("t", value))
        while await db.scalar(sa.text("SELECT count(*) FROM creche_outbox")):
            await trio.lowlevel.checkpoint()


async def test_what_is_published_after_a_power_loss_is_sent(tmp_path: Path) -> None:
    """The loss has taken a commit whose message is in the log already, and so the number of its row."""
    await published(tmp_path)
    shutil.copytree(tmp_path / "db", tmp_path / "what is on the disk")
    await published(tmp_path, b"taken")
    shutil.rmtree(tmp_path / "db")
    shutil.copytree(tmp_path / "what is on the disk", tmp_path / "db")
    await published(tmp_path, b"kept")
    assert values_in(tmp_path / "log") == [b"taken", b"kept"]


async def test_two_databases_have_two_identities_whatever_the_seed(tmp_path: Path) -> None:
    """Their outboxes may go to one log."""
    identities: set[str] = set()
    for name in ("one", "two"):
        async with creche.open_runtime("test", seed=1) as runtime:
            db = await runtime.start(c.db.component(c.db.Config(path=str(tmp_path / name))))
            identities.add(await db.scalar(sa.text("SELECT value FROM creche_meta WHERE name = 'database_id'")))
    assert len(identities) == 2
