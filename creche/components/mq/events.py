"""What the log and its consumers tell on the runtime's event hook. Keys and values of records never appear in it."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.events import Event
from .message import TopicPartition
from .retry import Action


@dataclass(frozen=True, slots=True)
class RecordFailed(Event):
    """A handler raised `error` (one line), and this is what follows.

    `delay` is in seconds, for ``"retry"`` and ``"retry_topic"``. `attempt` counts as `Received.attempt`. `group` is the
    consumer's.
    """

    group: str
    topic: str
    partition: int
    offset: int
    attempt: int
    error: str
    action: Action
    delay: float


@dataclass(frozen=True, slots=True)
class PartitionsAssigned(Event):
    """The consumer reads these partitions from now on, too."""

    group: str
    partitions: tuple[TopicPartition, ...]


@dataclass(frozen=True, slots=True)
class PartitionsRevoked(Event):
    """The consumer reads these partitions no more.

    `lost`: the group took them away without waiting for it, so what it had done and not committed is done again by
    others, and its handlers that still ran there were cancelled.
    """

    group: str
    partitions: tuple[TopicPartition, ...]
    lost: bool


@dataclass(frozen=True, slots=True)
class MembersExpelled(Event):
    """Members of a group whose process has ended, or that have not been heard of for `session_timeout`."""

    group: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecordsExpired(Event):
    """Retention has deleted so many records; the partition begins at offset `begin` now."""

    topic: str
    partition: int
    records: int
    begin: int


@dataclass(frozen=True, slots=True)
class RecordsMissed(Event):
    """Retention has deleted records from `offset` to before `until` that the group had not done: it goes on behind."""

    group: str
    topic: str
    partition: int
    offset: int
    until: int


@dataclass(frozen=True, slots=True)
class GroupLags(Event):
    """A group has so many records before it that it has not committed: more than `Config.lag_warning`."""

    group: str
    records: int
