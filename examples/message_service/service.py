"""The message service: accepts messages and reads sessions.

Accepting is one transaction: the message, and its announcement in the outbox. The idempotency key is a UNIQUE column in
the same transaction, so a retry, however the first try ended, either finds the stored answer or stores it now."""

from __future__ import annotations

import time

import msgspec
from sqlalchemy import insert, select

import creche
from creche import components as c
from creche.components.mq.message import Message

from .errors import KeyConflict
from .model import TOPIC, Answer, SendMessage, StoredMessage, messages, session_counters


class MessageService(creche.Actor):
    """The author's actor: handles only, no state of its own."""

    def __init__(self, db: c.db.Db, uid: c.uid.Uid) -> None:
        self._db = db
        self._uid = uid
        self._log = c.clog.namespace("service")

    async def send(self, session_id: str, request_id: str, request: SendMessage) -> Answer:
        """Store a message and announce it; or give the stored answer if this request has been accepted before."""
        message_id = await self._uid.snowflake()
        answer = await self._db.transact(self._accept, message_id, session_id, f"send_message:{request_id}", request)
        self._log.debug("accepted", message_id=answer.message_id, session=session_id)
        return answer

    async def _accept(
        self, tx: c.db.Transaction, message_id: int, session_id: str, key: str, request: SendMessage
    ) -> Answer:
        before = await tx.first(select(messages).where(messages.c.request_key == key))
        if before is not None:
            if (before.session_id, before.user_id, before.content) != (session_id, request.user_id, request.content):
                raise KeyConflict(key)
            return Answer(str(before.id))
        now = time.time()
        row = {"id": message_id, "request_key": key, "session_id": session_id, "created_at": int(now * 1e6)}
        await tx.execute(insert(messages).values(**row, user_id=request.user_id, content=request.content))
        stored = StoredMessage(str(message_id), session_id, request.user_id, request.content, now)
        await tx.publish(Message(TOPIC, msgspec.json.encode(stored), key=str(message_id).encode()))
        return Answer(str(message_id))

    @creche.message(on_caller_gone="cancel")
    async def session(self, session_id: str, after: int, limit: int) -> list[StoredMessage]:
        """Up to `limit` messages of a session in order of id, from the one after `after`."""
        query = select(messages).where(messages.c.session_id == session_id, messages.c.id > after)
        rows = await self._db.all(query.order_by(messages.c.id).limit(limit))
        return [
            StoredMessage(str(row.id), row.session_id, row.user_id, row.content, row.created_at / 1e6) for row in rows
        ]

    @creche.message(on_caller_gone="cancel")
    async def count(self, session_id: str) -> int:
        """How many messages of a session have been counted so far."""
        query = select(session_counters.c.messages).where(session_counters.c.session_id == session_id)
        return await self._db.scalar(query) or 0
