"""What is stored, and what goes over the wire."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text

TOPIC = "messages.new"
BATCHES_TOPIC = "messages.batches"
COUNTERS_GROUP = "session-counters"
DISTRIBUTION_GROUP = "distribution"
BATCHES_GROUP = "batch-delivery"
MAX_CONTENT = 4_000  # characters

Name = Annotated[str, Meta(min_length=1, max_length=128)]
UserId = Annotated[str, Meta(pattern=r"\A[\w.\-]{1,128}\Z")]  # goes into paths


class User(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody who can post and has an inbox."""

    user_id: UserId
    name: Name


class SaveUsers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request to create or rename users."""

    users: Annotated[list[User], Meta(min_length=1, max_length=1_000)]


class SaveSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request to create or replace a session. `distribution` says which members go with which kind."""

    kind: str
    members: tuple[Name, ...] = ()


class Session(msgspec.Struct, frozen=True):
    """A conversation. The members are in order of their ids."""

    session_id: str
    kind: str
    members: tuple[str, ...] = ()


class SendMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request to post a message."""

    user_id: Name
    content: Annotated[str, Meta(min_length=1, max_length=MAX_CONTENT)]


class Answer(msgspec.Struct, frozen=True):
    """What the poster gets.

    The same again for each retry with the same key. Ids are strings: they exceed what JavaScript counts exactly.
    """

    message_id: str
    success: bool = True


class StoredMessage(msgspec.Struct, frozen=True):
    """A message as readers and consumers see it."""

    message_id: str
    session_id: str
    user_id: str
    content: str
    created_at: float


class Batch(msgspec.Struct, frozen=True):
    """A message, and some of those whose inboxes it is to be put into."""

    message_id: str
    members: tuple[str, ...]


metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
)

messages = Table(
    "messages",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("request_key", Text, nullable=False, unique=True),  # the idempotency key
    Column("session_id", Text, nullable=False, index=True),
    Column("user_id", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("created_at", Integer, nullable=False),  # microseconds since 1970
)

counted = Table("counted", metadata, Column("message_id", BigInteger, primary_key=True, autoincrement=False))

session_counters = Table(
    "session_counters",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("messages", Integer, nullable=False),
)

inbox = Table(
    "inbox",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("message_id", BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

# What is for everybody. Each inbox is read together with it.
world_inbox = Table("world_inbox", metadata, Column("message_id", BigInteger, primary_key=True, autoincrement=False))


def stored_message(row: Any) -> StoredMessage:
    """A row of `messages` as readers see it."""
    return StoredMessage(str(row.id), row.session_id, row.user_id, row.content, row.created_at / 1e6)
