"""A consumer's place in its group: what it asks of the log. This is the seam for other backends.

It keeps the tokens of the partitions (see `groups`), so that the consumer need not know of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import final

import msgspec
import trio

from ...runtime.errors import CallFailed
from ...runtime.handle import Handle
from .actor import Clock, LogActor, LogLease, Tail
from .config import Config
from .log import Fetched
from .message import TopicPartition


class Changes(msgspec.Struct, frozen=True):
    """What a sync has changed for this member, and what it should do."""

    lost: list[TopicPartition]
    """No longer its own, without having been released."""

    assigned: dict[TopicPartition, int]
    """Its own from now on, each with the offset to go on from. May name what is in `lost`, too: lost and won again."""

    release: list[TopicPartition]
    """To be released, as soon as what runs there has ended."""


@final
class Membership:
    """Of one incarnation of a consumer. Its methods raise the outcomes of a call and `Unavailable`."""

    def __init__(
        self,
        log: Handle[LogActor],
        lease: Callable[[], LogLease | None],
        group: str,
        member: str,
        topics: Sequence[str],
    ) -> None:
        self.config: Config  # the log's; there from the first `sync` on
        self.clock: Clock  # the log's; seconds since the epoch
        self._log = log
        self._lease = lease
        self._group = group
        self._member = member
        self._topics = tuple(topics)
        self._tokens: dict[TopicPartition, int] = {}
        self._tail: Tail | None = None  # what was listened to last
        self._groups: Tail | None = None

    async def sync(self) -> Changes:
        """Be a member, and hear what that means now."""
        share, self.config, self.clock = await self._log.call(LogActor.sync, self._group, self._member, self._topics)
        before, self._tokens = self._tokens, {place: token for place, (token, _) in share.owned.items()}
        lost = [place for place, token in before.items() if self._tokens.get(place) != token]
        assigned = {p: offset for p, (token, offset) in share.owned.items() if before.get(p) != token}
        return Changes(lost, assigned, share.release)

    async def release(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit, and let others have these partitions. May be repeated."""
        await self._log.call(LogActor.release, self._group, self._with_tokens(offsets))
        for place in offsets:
            self._tokens.pop(place, None)

    async def leave(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit, and be a member no more. May be repeated."""
        await self._log.call(LogActor.leave, self._group, self._member, self._with_tokens(offsets))

    async def fetch(self, positions: Mapping[TopicPartition, int], limit: int, max_bytes: int) -> Fetched:
        """Records from each position on, in order, none if there are none yet.

        At most `limit`, and `max_bytes`, of each partition; but at least one.
        """
        return await self._log.call(LogActor.fetch, positions, limit, max_bytes)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> list[TopicPartition]:
        """The group goes on from these offsets. Returns those that are lost: they were not changed. May be repeated."""
        return await self._log.call(LogActor.commit, self._group, self._with_tokens(offsets))

    def commit_nowait(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The same from somebody who is about to end and cannot wait. Without effect if the log takes no messages."""
        try:
            self._log.cast_nowait(LogActor.commit, self._group, self._with_tokens(offsets))
        except (CallFailed, trio.WouldBlock):
            pass  # the records will be delivered again

    async def offset_at(self, place: TopicPartition, time: float) -> int:
        """The offset of the first record from `time` on, in seconds since the epoch; the next one if there is none."""
        return await self._log.call(LogActor.offset_at, *place, time)

    async def lag(self) -> dict[TopicPartition, int]:
        """How many records are not committed, of each partition that is its own."""
        lags = await self._log.call(LogActor.lag, self._group)
        return {place: lag for place, lag in lags.items() if place in self._tokens}

    def listen(self, appended: Callable[[], None], regrouped: Callable[[], None]) -> bool:
        """Have them called whenever there may be something to fetch, or to sync for, by the log's present incarnation.

        Returns True if that is new: something may have come before.
        """
        lease = self._lease()
        if lease is None or lease.tail is self._tail:
            return False
        self._tail, self._groups = lease.tail, lease.groups
        self._tail.listen(frozenset(self._topics), appended)
        self._groups.listen(frozenset([self._group]), regrouped, self._member)
        return True

    def close(self, appended: Callable[[], None], regrouped: Callable[[], None]) -> None:
        """Have them called no more."""
        if self._tail is not None and self._groups is not None:
            self._tail.forget(appended)
            self._groups.forget(regrouped)

    def _with_tokens(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, tuple[int, int]]:
        return {place: (self._tokens.get(place, 0), offset) for place, offset in offsets.items()}
