"""The message service: accepts messages and reads what became of them.

Accepting is one transaction: the message, and its announcement in the outbox. The idempotency key is a UNIQUE column in
the same transaction, so a retry, however the first try ended, either finds the stored answer or stores it now.

Many messages are accepted at a time, each in one visit to the database's thread (`transact_sync`); those that wait
there together share a COMMIT."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row

import creche
from creche import components as c
from creche.components.mq.message import Message

from . import statements
from .distribution import Kind, plan
from .errors import KeyConflict, PermissionDenied
from .model import (
    TOPIC,
    Answer,
    SendMessage,
    Session,
    StoredMessage,
    User,
    stored_message,
)
from .repository import Repository

AT_ONCE = 64  # messages


class MessageService(creche.Actor):
    """The author's actor: handles only, no state of its own."""

    def __init__(self, db: c.db.Db, uid: c.uid.Uid, repository: Repository) -> None:
        self._db = db
        self._uid = uid
        self._repository = repository
        self._log = c.clog.namespace("service")

    async def save_users(self, users: Sequence[User]) -> None:
        """Create or rename users."""
        await self._repository.save_users(users)

    async def save_session(self, session: Session) -> None:
        """Create or replace a session. Raises `InvalidInput` for one whose messages could not be delivered."""
        plan(session.kind, session.members)
        await self._repository.save_session(session)

    @creche.message(concurrency=AT_ONCE)
    async def send(self, session_id: str, request_id: str, request: SendMessage) -> Answer:
        """Store a message and announce it; or give the stored answer if this request has been accepted before.

        Raises `UserNotFound`, `SessionNotFound`, `PermissionDenied`, `KeyConflict`.
        """
        await self._check_may_post(request.user_id, session_id)
        message_id = await self._uid.snowflake()
        key = f"send_message:{request_id}"
        answer = await self._db.transact_sync(accept, message_id, session_id, key, request)
        self._log.debug("accepted", message_id=answer.message_id, session=session_id)
        return answer

    async def _check_may_post(self, user_id: str, session_id: str) -> None:
        await self._repository.user(user_id)
        session = await self._repository.session(session_id)
        if session.kind != Kind.WORLD and user_id not in session.members:
            raise PermissionDenied(user_id, session_id)

    @creche.message(on_caller_gone="cancel")
    async def message(self, message_id: int) -> StoredMessage:
        """One message. Raises `MessageNotFound`."""
        return await self._repository.message(message_id)

    @creche.message(on_caller_gone="cancel")
    async def history(self, session_id: str, after: int, limit: int) -> list[StoredMessage]:
        """Up to `limit` messages of a session in order of id, from the one after `after`. Raises `SessionNotFound`."""
        await self._repository.session(session_id)
        wanted = {"session": session_id, "after": after, "limit": limit}
        return list(map(stored_message, await self._db.reader.all(statements.HISTORY, wanted)))

    @creche.message(on_caller_gone="cancel")
    async def inbox(self, user_id: str, after: int, limit: int) -> list[StoredMessage]:
        """As `history`, of all that was delivered to a user. Raises `UserNotFound`."""
        await self._repository.user(user_id)
        wanted = {"user": user_id, "after": after, "limit": limit}
        return list(map(stored_message, await self._db.reader.all(statements.INBOX, wanted)))

    @creche.message(on_caller_gone="cancel")
    async def count(self, session_id: str) -> int:
        """How many messages of a session have been counted so far."""
        return await self._db.scalar(statements.COUNT, {"session": session_id}) or 0


def accept(tx: c.db.SyncTransaction, message_id: int, session_id: str, key: str, request: SendMessage) -> Answer:
    """Store a message and its announcement, or find the answer that its key got before: one transaction."""
    now = time.time()
    about = {"session_id": session_id, "user_id": request.user_id, "content": request.content}
    row = {"id": message_id, "request_key": key, "created_at": int(now * 1e6), **about}
    if not tx.execute(statements.ADD_MESSAGE, row).rowcount:
        return answer_before(tx.one(statements.MESSAGE_OF_KEY, {"key": key}), key, about)
    stored = StoredMessage(str(message_id), session_id, request.user_id, request.content, now)
    tx.publish(Message(TOPIC, msgspec.json.encode(stored), key=str(message_id).encode()))
    return Answer(str(message_id))


def answer_before(before: Row[Any], key: str, about: Mapping[str, str]) -> Answer:
    """What the stored message of this key was answered. Raises `KeyConflict` if it was another one."""
    if any(getattr(before, name) != value for name, value in about.items()):
        raise KeyConflict(key)
    return Answer(str(before.id))
