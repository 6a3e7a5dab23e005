"""The message service with one fault planted at a time, and the scenario that each is to be found in.

Each is a mistake that people make, and each looks fine until something crashes at the wrong moment.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

import msgspec
import trio
from sqlalchemy import insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

import creche
from creche import chaos
from creche import components as c
from creche.components.mq.message import Message
from examples.message_service.app import Parts
from examples.message_service.chaos import scenario
from examples.message_service.model import (
    TOPIC,
    Answer,
    SendMessage,
    StoredMessage,
    messages,
    session_counters,
)
from examples.message_service.repository import Repository
from examples.message_service.service import MessageService, accept
from tests.examples.faulty_server import AcknowledgesBeforeCommit

Handler = Callable[[c.mq.Received], Awaitable[None]]


async def acknowledged_before_commit(world: chaos.World) -> None:
    """The answer goes out while the write is still under way in the background."""
    await scenario(world, Parts(service=AcknowledgesBeforeCommit))


class NewKeyForEachTry(MessageService):
    """The idempotency key holds the id that is drawn anew for each try."""

    async def send(self, session_id: str, request_id: str, request: SendMessage) -> Answer:
        message_id = await self._uid.snowflake()
        key = f"send_message:{request_id}:{message_id}"
        return await self._db.transact_sync(accept, message_id, session_id, key, request)


async def a_new_key_for_each_try(world: chaos.World) -> None:
    """A retry after an unknown outcome stores a second message."""
    await scenario(world, Parts(service=NewKeyForEachTry))


class DualWrite(MessageService):
    """Stores, and then publishes, without an outbox."""

    def __init__(self, db: c.db.Db, uid: c.uid.Uid, repository: Repository) -> None:
        super().__init__(db, uid, repository)
        self._pending: set[str] = set()

    async def send(self, session_id: str, request_id: str, request: SendMessage) -> Answer:
        key = f"send_message:{request_id}"
        found = await self._db.first(select(messages.c.id).where(messages.c.request_key == key))
        if found is not None:
            return Answer(str(found.id))
        message_id = await self._uid.snowflake()
        stored = StoredMessage(str(message_id), session_id, request.user_id, request.content, time.time())
        row = {"id": message_id, "request_key": key, "session_id": session_id, "created_at": 0}
        await self._db.execute(insert(messages).values(**row, user_id=request.user_id, content=request.content))
        # A crash here: stored, and never published.
        await self._db.transact(announce, Message(TOPIC, msgspec.json.encode(stored), key=str(message_id).encode()))
        return Answer(str(message_id))


async def announce(tx: c.db.Transaction, message: Message) -> None:
    """Publish in a transaction of its own."""
    await tx.publish(message)


async def a_dual_write(world: chaos.World) -> None:
    """What was stored in one transaction is announced in another."""
    await scenario(world, Parts(service=DualWrite))


def counts_each_delivery(db: c.db.Db) -> Callable[[Message], Awaitable[None]]:
    """Counts without a mark: what is delivered again is counted again."""

    async def count(message: Message) -> None:
        stored = message.decode(StoredMessage)
        one = upsert(session_counters).values(session_id=stored.session_id, messages=1)
        more = one.on_conflict_do_update(
            index_elements=["session_id"], set_={"messages": session_counters.c.messages + 1}
        )
        await db.execute(more)

    return count


async def counted_without_a_mark(world: chaos.World) -> None:
    """At least once is taken for exactly once."""
    await scenario(world, Parts(counter=counts_each_delivery))


def swallows_errors(repository: Repository, db: c.db.Db, mq: c.mq.Mq) -> Handler:
    """Delivers, and takes what fails for delivered."""
    deliver = Parts().distributor(repository, db, mq)

    async def distribute(record: c.mq.Received) -> None:
        try:
            await deliver(record)
        except (creche.CallFailed, creche.Unavailable):
            return  # "it will be all right"

    return distribute


async def an_error_swallowed(world: chaos.World) -> None:
    """A consumer returns although it has not done its work: its offset is committed."""
    await scenario(world, Parts(distributor=swallows_errors))


class LosesPermits(MessageService):
    """Has a permit for each database write, kept outside of the actor, and not given back by who is killed."""

    permits = 2

    async def send(self, session_id: str, request_id: str, request: SendMessage) -> Answer:
        bucket = self.context.keep("permits", lambda: trio.Semaphore(self.permits), lambda _: None)
        await bucket.acquire()
        answer = await super().send(session_id, request_id, request)
        bucket.release()
        return answer


async def a_permit_lost(world: chaos.World) -> None:
    """After so many crashes nobody gets a permit any more: the service lives, and does nothing."""
    await scenario(world, Parts(service=LosesPermits))


def forgets_the_world(repository: Repository, db: c.db.Db, mq: c.mq.Mq) -> Handler:
    """Remembers in memory what it has delivered to everybody before it has done so."""
    deliver = Parts().distributor(repository, db, mq)
    memory: WeakKeyDictionary[creche.Runtime, set[str]] = WeakKeyDictionary()

    async def distribute(record: c.mq.Received) -> None:
        message = record.decode(StoredMessage)
        runtime = creche.current_runtime()
        assert runtime is not None
        begun = memory.setdefault(runtime, set())
        if message.message_id in begun:
            return
        begun.add(message.message_id)
        await deliver(record)

    return distribute


async def marked_before_the_work(world: chaos.World) -> None:
    """A record that is delivered again is taken for a duplicate, but the first try had died."""
    await scenario(world, Parts(distributor=forgets_the_world))


PLANTED: tuple[chaos.Scenario, ...] = (
    acknowledged_before_commit,
    a_new_key_for_each_try,
    a_dual_write,
    counted_without_a_mark,
    an_error_swallowed,
    a_permit_lost,
    marked_before_the_work,
)
