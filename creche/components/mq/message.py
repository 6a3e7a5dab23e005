"""What travels through the log, in Kafka's words: what is sent, what is received, and what a producer is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from ..clog.trace import from_traceparent, is_trace_id

T = TypeVar("T")
TopicPartition = tuple[str, int]

TRACE_HEADER: Final = "X-Trace-ID"
"""Carries the trace id of the sender's baggage to the consumer's handler."""

OUTBOX_HEADER: Final = "creche-outbox-id"
"""Makes a publish idempotent: a topic takes one record per value; later ones are acknowledged with its place."""

MAX_MESSAGE_BYTES: Final = 1_048_576
"""Most bytes of a record: of `Config` by default, and of what goes through an outbox."""

ORIGINAL_TOPIC: Final = "creche-original-topic"


def is_topic(name: str) -> bool:
    """Whether a topic may be named so: letters, digits, ``.``, ``_`` and ``-``, at most 249 of them: Kafka's rule."""
    return re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) is not None


def size_of(key: bytes | None, value: bytes, headers: Mapping[str, str]) -> int:
    """Bytes of value, key and headers together, headers counted in characters."""
    text = sum(map(len, headers)) + sum(map(len, headers.values())) if headers else 0
    return len(value) + (0 if key is None else len(key)) + text


class Message(msgspec.Struct, frozen=True):
    """A record to be sent.

    Parameters
    ----------
    topic
        Letters, digits, ``.``, ``_`` and ``-``, at most 249 of them: Kafka's rule.
    value
        Bytes. Encode with ``msgspec.json.encode`` what `decode` is to read.
    key
        Records with the same key go to the same partition and keep their order; without a key partitions take turns.
    headers
        Text by name. They are never changed by sending: what is added goes into a copy.
    """

    topic: str
    value: bytes
    key: bytes | None = None
    headers: dict[str, str] = {}

    def decode(self, type: type[T]) -> T:
        """The value, read as JSON into `type`. Raises `msgspec.ValidationError` or `msgspec.DecodeError`."""
        return msgspec.json.decode(self.value, type=type)

    @property
    def size(self) -> int:
        """Bytes of value, key and headers together, headers counted in characters."""
        return size_of(self.key, self.value, self.headers)


class Letter(Message, frozen=True):
    """A record on its way to a retry topic, to the dead letters or back, or from an outbox.

    It was accepted before and has to go somewhere: `Config.max_message_bytes` is no matter any more.
    """


class Received(Message, frozen=True, kw_only=True):
    """A record as a consumer's handler gets it.

    `time` is when the log took it, in seconds since the epoch; within a partition it never goes back. `attempt` is 1 at
    first and counts the failures that the retry policy counts, those before it went to a retry topic included; it
    starts anew in a topic when the record is delivered again by another incarnation of the consumer.
    """

    partition: int
    offset: int
    time: float
    attempt: int = 1

    @property
    def place(self) -> TopicPartition:
        """Topic and partition."""
        return self.topic, self.partition

    @property
    def original_topic(self) -> str:
        """The topic that it was sent to at first: `topic`, unless that is a retry topic or one of dead letters."""
        return self.headers.get(ORIGINAL_TOPIC, self.topic)


def trace_of(record: Received) -> str | None:
    """The trace id in the headers: of ``X-Trace-ID``, else of W3C's ``traceparent``; one that is valid, or None."""
    own = record.headers.get(TRACE_HEADER)
    if own is not None and is_trace_id(own):
        return own
    return from_traceparent(record.headers.get("traceparent", ""))


class Ack(msgspec.Struct, frozen=True, gc=False):
    """Where a record stands in the log, which has it for good. `time` is in seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    time: float


class NotSent(msgspec.Struct, frozen=True):
    """A message of a batch that was not acknowledged.

    `reason` is the error that `send_sync` would have raised: with `creche.OutcomeUnknown` the record may be in the
    log all the same, with any other it is not.
    """

    message: Message
    reason: Any  # an Exception; msgspec knows no such field type
