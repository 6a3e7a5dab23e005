"""Users, sessions and messages, read through the cache (pattern "cache-aside").

The database is the truth, the cache a copy that may be missing:

* A read takes the copy, or loads it once for all who ask. While the cache is down it goes to the database.
* A write goes to the database, then the copy is deleted: after a commit, after an error of which nobody knows whether
  it came before or after the commit, and when the writer is being ended. The cache itself does not keep what was
  being loaded meanwhile. If the copy cannot be deleted, the cache is down, and empty when it comes again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

import creche
from creche import components as c

from . import statements
from .errors import MessageNotFound, SessionNotFound, UserNotFound
from .model import Session, StoredMessage, User, stored_message

K = TypeVar("K", str, int)
T = TypeVar("T")

TTL = 3600.0  # seconds
NEGATIVE_TTL = 60.0  # seconds for which "there is no such thing" is remembered
FORGET_WITHIN = 1.0  # seconds by which a write may hold up the end of its actor


class Repository:
    """Raises what the database raises, and the `EntityNotFound` of what is not there."""

    def __init__(self, db: c.db.Db, cache: c.cache.Cache) -> None:
        self._db = db
        self._cache = cache
        self._log = c.clog.namespace("repository")

    async def user(self, user_id: str) -> User:
        """A user."""
        found = await self._read(_user_key(user_id), self._load_user, user_id, User, NEGATIVE_TTL)
        if found is None:
            raise UserNotFound(user_id)
        return found

    async def session(self, session_id: str) -> Session:
        """A session with its members."""
        found = await self._read(_session_key(session_id), self._load_session, session_id, Session, NEGATIVE_TTL)
        if found is None:
            raise SessionNotFound(session_id)
        return found

    async def message(self, message_id: int) -> StoredMessage:
        """A message. It never changes, so its copy needs no deleting; but one that is not there may come."""
        found = await self._read(f"message:{message_id}", self._load_message, message_id, StoredMessage, None)
        if found is None:
            raise MessageNotFound(message_id)
        return found

    async def save_users(self, saved: Sequence[User]) -> None:
        """Create or rename users."""
        rows = [{"id": user.user_id, "name": user.name} for user in saved]
        async with self.changing(*(_user_key(user.user_id) for user in saved)):
            await self._db.execute(statements.SAVE_USER, rows)

    async def save_session(self, session: Session) -> None:
        """Create or replace a session. Raises `UserNotFound` for a member who is no user."""
        async with self.changing(_session_key(session.session_id)):
            await self._db.transact_sync(_replace_session, session)

    @asynccontextmanager
    async def changing(self, *keys: str) -> AsyncGenerator[None]:
        """The block writes what these keys are copies of: they are deleted however it ends."""
        try:
            yield
        finally:
            with trio.move_on_after(FORGET_WITHIN, shield=True):
                await self._forget(*keys)

    # --- cache-aside --------------------------------------------------------------------------------------------------

    async def _read(
        self,
        key: str,
        load: Callable[[K], Awaitable[T | None]],
        identity: K,
        type: type[T],
        negative_ttl: float | None,
    ) -> T | None:
        try:
            return await self._cache.get_or_load(key, load, identity, type=type, ttl=TTL, negative_ttl=negative_ttl)
        except creche.CallFailed as error:
            self._log.warning("read past the cache", key=key, error=error)
            return await load(identity)  # if it was the database that failed, it says so again

    async def _forget(self, *keys: str) -> None:
        try:
            await self._cache.delete(*keys)
        except creche.CallFailed as error:
            self._log.warning("the cache is down; what it held is gone", error=error)

    # --- the database -------------------------------------------------------------------------------------------------

    async def _load_user(self, user_id: str) -> User | None:
        row = await self._db.reader.first(statements.USER, {"user": user_id})
        return None if row is None else User(row.id, row.name)

    async def _load_session(self, session_id: str) -> Session | None:
        rows = await self._db.reader.all(statements.SESSION, {"session": session_id})
        members = tuple(row.user_id for row in rows if row.user_id is not None)
        return Session(session_id, rows[0].kind, members) if rows else None

    async def _load_message(self, message_id: int) -> StoredMessage | None:
        row = await self._db.reader.first(statements.MESSAGE, {"message": message_id})
        return None if row is None else stored_message(row)


def _user_key(user_id: str) -> str:
    return f"user:{user_id}"


def _session_key(session_id: str) -> str:
    return f"session:{session_id}"


def _replace_session(tx: c.db.SyncTransaction, session: Session) -> None:
    known = {row.id for row in tx.all(statements.KNOWN_USERS, {"users": session.members})}
    for user in session.members:
        if user not in known:
            raise UserNotFound(user)
    tx.execute(statements.SAVE_SESSION, {"id": session.session_id, "kind": session.kind})
    tx.execute(statements.REMOVE_MEMBERS, {"session": session.session_id})
    rows = [{"session_id": session.session_id, "user_id": user} for user in session.members]
    if rows:
        tx.execute(statements.ADD_MEMBER, rows)
