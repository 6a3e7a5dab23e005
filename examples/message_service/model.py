"""What is stored, and what goes over the wire."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text

TOPIC = "messages.new"
COUNTERS_GROUP = "session-counters"
MAX_CONTENT = 4_000  # characters

Name = Annotated[str, Meta(min_length=1, max_length=128)]


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


metadata = MetaData()

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
