"""What topics are like."""

from __future__ import annotations

import msgspec


class Retention(msgspec.Struct, frozen=True):
    """How long a topic's records are kept: the first limit that is reached counts. None is no limit.

    `time` is in seconds; `bytes` is for each partition. What is too old or too much is deleted whether anybody has read
    it or not.
    """

    time: float | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("time", "bytes"):
            limit: float | None = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"Retention.{name} = {limit}: use a number above 0, or None for no limit")


class PartitionInfo(msgspec.Struct, frozen=True):
    """The partition has the records from offset `begin` to before `end`, and they have so many `bytes`."""

    begin: int
    end: int
    bytes: int


class TopicInfo(msgspec.Struct, frozen=True):
    """A topic as it is now. `retention` is its own or, if it has none, that of the config."""

    topic: str
    partitions: tuple[PartitionInfo, ...]
    retention: Retention
