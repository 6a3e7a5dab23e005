"""A consumer's place in its group: what it asks of the log.

This is the seam for other backends and for groups of several members. With one consumer per group, a join assigns it
every partition and nothing takes one away again; with several, `join` would return this member's share, and a change of
it would come as a wake-up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import final

from ...runtime.handle import Handle
from .actor import LogActor, LogLease, Tail
from .config import Config
from .log import TopicPartition
from .message import Received


@final
class Membership:
    """Of one incarnation of a consumer. Its methods raise the outcomes of a call and `Unavailable`."""

    def __init__(
        self,
        log: Handle[LogActor],
        lease: Callable[[], LogLease | None],
        group: str,
        topics: Sequence[str],
    ) -> None:
        self.config: Config  # the log's; there from `join` on
        self._log = log
        self._lease = lease
        self._group = group
        self._topics = tuple(topics)
        self._tail: Tail | None = None  # what `listen` was called on last

    async def join(self) -> dict[TopicPartition, int]:
        """The partitions to read, each with the offset to go on from."""
        offsets, self.config = await self._log.call(LogActor.join, self._group, self._topics)
        return offsets

    async def fetch(self, positions: Mapping[TopicPartition, int], limit: int) -> list[Received]:
        """Records from each position on, in order, at most `limit` of each partition; none if there are none yet."""
        return await self._log.call(LogActor.fetch, positions, limit)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The group goes on from these offsets. May be repeated."""
        await self._log.call(LogActor.commit, self._group, offsets)

    async def lag(self) -> dict[TopicPartition, int]:
        """How many records are not committed, of each partition."""
        lags = await self._log.call(LogActor.lag, self._group)
        return {place: lag for place, lag in lags.items() if place[0] in self._topics}

    def listen(self, wake: Callable[[], None]) -> bool:
        """Have `wake` called whenever there may be something to fetch, by the present incarnation of the log.

        Returns True if that is new: something may have come before.
        """
        lease = self._lease()
        if lease is None or lease.tail is self._tail:
            return False
        self._tail = lease.tail
        self._tail.listen(frozenset(self._topics), wake)
        return True

    def close(self, wake: Callable[[], None]) -> None:
        """Have it called no more."""
        if self._tail is not None:
            self._tail.forget(wake)
