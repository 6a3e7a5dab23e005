"""What can go wrong with the log, besides the outcomes of every call (`creche.CallFailed`)."""

from __future__ import annotations

from ...runtime.errors import CrecheError
from ...runtime.errors import Unavailable as Unavailable


class TopicInvalid(CrecheError, ValueError):
    """The name cannot be a topic's. Raised before anything was sent."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic!r}: use 1 to 249 letters, digits, '.', '_' or '-'")
        self.topic = topic


class GroupInvalid(CrecheError, ValueError):
    """The name cannot be a consumer group's. Raised before anything was sent."""

    def __init__(self, group: str) -> None:
        super().__init__(f"group {group!r}: use printable characters, at least one")
        self.group = group


class TopicExists(CrecheError):
    """The topic exists with another number of partitions. Nothing was changed."""

    def __init__(self, topic: str, partitions: int) -> None:
        super().__init__(f"topic {topic!r} exists already, with {partitions} partitions")
        self.topic = topic
        self.partitions = partitions


class PartitionUnknown(CrecheError, LookupError):
    """The consumer does not read this partition. `known` lists what it reads."""

    def __init__(self, topic: str, partition: int, known: tuple[tuple[str, int], ...]) -> None:
        names = ", ".join(f"{name}/{number}" for name, number in known)
        super().__init__(f"{topic}/{partition} is not read here; it reads {names}")
        self.topic = topic
        self.partition = partition
        self.known = known


class OffsetInvalid(CrecheError, ValueError):
    """No record can have this offset: it is no number from 0 to 2**63 - 1."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"offset {offset}: use 0 or more, less than 2**63")
        self.offset = offset


class CommitFailed(CrecheError):
    """SQLite failed while making a transaction durable, so nobody can say whether it is. A crash, not an answer."""
