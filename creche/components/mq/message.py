"""What travels through the log, in Kafka's words: what is sent, what is received, and what a producer is told."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

TRACE_HEADER: Final = "X-Trace-ID"
"""Carries the trace id of the sender's baggage to the consumer's handler."""

OUTBOX_HEADER: Final = "creche-outbox-id"
"""Makes a publish idempotent: a topic takes one record per value; later ones are acknowledged with its place."""


def is_topic(name: str) -> bool:
    """Whether a topic may be named so: letters, digits, ``.``, ``_`` and ``-``, at most 249 of them: Kafka's rule."""
    return re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) is not None


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


class Received(Message, frozen=True, kw_only=True):
    """A record as a consumer's handler gets it.

    `time` is when the log took it, in seconds since the epoch. `attempt` is 1 at first and counts the failures that
    the retry policy counts; it starts anew when the record is delivered again by another incarnation of the consumer.
    """

    partition: int
    offset: int
    time: float
    attempt: int = 1


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
