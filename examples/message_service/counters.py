"""The consumer: keeps a counter per session.

Delivery is at least once, so the mark "this message has been counted" and the counter change in one transaction: a
message that is delivered again finds its mark and changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from creche import components as c
from creche.components.mq.message import Message

from . import statements
from .model import StoredMessage


def counter(db: c.db.Db) -> Callable[[Message], Awaitable[None]]:
    """The handler of `messages.new`."""

    async def count(message: Message) -> None:
        stored = message.decode(StoredMessage)
        await db.transact_sync(_count_once, int(stored.message_id), stored.session_id)

    return count


def _count_once(tx: c.db.SyncTransaction, message_id: int, session_id: str) -> None:
    marked = tx.execute(statements.MARK_COUNTED, {"message_id": message_id})
    if marked.rowcount:
        tx.execute(statements.COUNT_ONE, {"session": session_id})
