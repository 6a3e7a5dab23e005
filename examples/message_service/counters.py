"""The consumer: keeps a counter per session.

Delivery is at least once, so the mark "this message has been counted" and the counter change in one transaction: a
message that is delivered again finds its mark and changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sqlalchemy.dialects.sqlite import insert

from creche import components as c
from creche.components.mq.message import Message

from .model import StoredMessage, counted, session_counters


def counter(db: c.db.Db) -> Callable[[Message], Awaitable[None]]:
    """The handler of `messages.new`."""

    async def count(message: Message) -> None:
        stored = message.decode(StoredMessage)
        await db.transact_sync(_count_once, int(stored.message_id), stored.session_id)

    return count


def _count_once(tx: c.db.SyncTransaction, message_id: int, session_id: str) -> None:
    marked = tx.execute(insert(counted).values(message_id=message_id).on_conflict_do_nothing())
    if marked.rowcount:
        one = insert(session_counters).values(session_id=session_id, messages=1)
        column = session_counters.c.messages
        tx.execute(one.on_conflict_do_update(index_elements=["session_id"], set_={"messages": column + 1}))
