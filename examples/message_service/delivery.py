"""The consumers that put messages into inboxes, as `distribution.plan` says.

Delivery is at least once, so a row that is there already is left alone: a message is in each inbox once, however often
it is delivered. A large group does not hold up what is behind it: its batches are records of a topic of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import msgspec

import creche
from creche import components as c

from . import statements
from .distribution import Direct, Fanout, Scheduled, World, plan
from .model import BATCHES_TOPIC, Batch, StoredMessage
from .repository import Repository

Handler = Callable[[c.mq.Received], Awaitable[None]]

# What can never be delivered, such as a message whose session is gone, does not become better by another try.
RETRY = c.mq.RetryPolicy(on={creche.DomainError: "dead_letter", msgspec.ValidationError: "dead_letter"})


def distributor(repository: Repository, db: c.db.Db, mq: c.mq.Mq) -> Handler:
    """The handler of `messages.new`."""

    async def distribute(record: c.mq.Received) -> None:
        message = record.decode(StoredMessage)
        session = await repository.session(message.session_id)
        match plan(session.kind, session.members):
            case Direct(members) | Fanout(members):
                await _deliver(db, Batch(message.message_id, members))
            case Scheduled(batches):
                await _schedule(mq, [Batch(message.message_id, members) for members in batches])
            case World():
                await db.execute(statements.DELIVER_TO_ALL, {"message_id": int(message.message_id)})

    return distribute


def batch_deliverer(db: c.db.Db) -> Handler:
    """The handler of `messages.batches`."""

    async def deliver(record: c.mq.Received) -> None:
        await _deliver(db, record.decode(Batch))

    return deliver


async def _deliver(db: c.db.Db, batch: Batch) -> None:
    rows = [{"user_id": user, "message_id": int(batch.message_id)} for user in batch.members]
    await db.execute(statements.DELIVER, rows)


async def _schedule(mq: c.mq.Mq, batches: Iterable[Batch]) -> None:
    records = [c.mq.Message(BATCHES_TOPIC, msgspec.json.encode(batch)) for batch in batches]
    for result in await mq.send_batch(records):
        if isinstance(result, c.mq.NotSent):
            raise result.reason  # all of it is tried again
