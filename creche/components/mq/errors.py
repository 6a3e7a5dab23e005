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


class MessageTooLarge(CrecheError, ValueError):
    """The record has more bytes than `Config.max_message_bytes`. Nothing was sent, of a batch none of it.

    Of a message that is published through an outbox: nothing was stored, and the transaction is as it was.
    """

    def __init__(self, topic: str, size: int, limit: int, fix: str = "raise max_message_bytes") -> None:
        super().__init__(f"a record for topic {topic!r} has {size} bytes: at most {limit}, or {fix}")
        self.topic = topic
        self.size = size
        self.limit = limit


class TopicExists(CrecheError):
    """The topic exists with another number of partitions, or with more than were asked for. Nothing was changed."""

    def __init__(self, topic: str, partitions: int) -> None:
        super().__init__(f"topic {topic!r} exists already, with {partitions} partitions")
        self.topic = topic
        self.partitions = partitions


class TopicUnknown(CrecheError, LookupError):
    """There is no such topic."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"there is no topic {topic!r}")
        self.topic = topic


class GroupActive(CrecheError):
    """The group has members, which would go on as if nothing had been changed. Nothing was."""

    def __init__(self, group: str, members: tuple[str, ...]) -> None:
        names = ", ".join(members)
        super().__init__(f"group {group!r} has members ({names}): stop its consumers, or use Consumer.seek")
        self.group = group
        self.members = members


class PartitionUnknown(CrecheError, LookupError):
    """The consumer does not read this partition, at least not now. `known` lists what it reads."""

    def __init__(self, topic: str, partition: int | None, known: tuple[tuple[str, int], ...]) -> None:
        names = ", ".join(f"{name}/{number}" for name, number in known) or "nothing"
        place = topic if partition is None else f"{topic}/{partition}"
        super().__init__(f"{place} is not read here; it reads {names}")
        self.topic = topic
        self.partition = partition
        self.known = known


class OffsetInvalid(CrecheError, ValueError):
    """No record can have this offset: it is no number from 0 to 2**63 - 1."""

    def __init__(self, offset: object) -> None:
        super().__init__(f"offset {offset!r}: use 0 or more, less than 2**63, or 'beginning' or 'end'")
        self.offset = offset


class CommitFailed(CrecheError):
    """SQLite failed while making a transaction durable, so nobody can say whether it is. A crash, not an answer."""
