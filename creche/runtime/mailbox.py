"""The mailbox: a bounded queue that outlives incarnations, from which a waiting request can be taken back.

Theory of operation ------------------- Two deques. `_queue` holds at most `capacity` live messages. `_spill` holds
those whose senders wait for room, in order of arrival; while it is not empty everything new goes there too, so that
nobody overtakes. Taking one message lets one waiting one move up.

A memory channel cannot take a message back, so callers that time out would leave garbage that blocks live callers and
is executed later. Here a revoked request becomes a tombstone: it is skipped when taken and does not count against the
capacity. Tombstones are swept out when they are many and more than half of the queue, so that a small mailbox cannot
fill up with them.

A message is popped one at a time, at the moment its handler starts: draining into a local list would lose the rest on a
crash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from .envelope import QUEUED, Cast, Request, Waiting, WaitingCast

T = TypeVar("T", bound=Cast | Waiting)

_SWEEP_ABOVE = 32


class _Lane(Generic[T]):
    """A deque that knows how many of its entries are tombstones."""

    __slots__ = ("dead", "items", "sweep_above")

    def __init__(self, sweep_above: int) -> None:
        self.items: deque[T] = deque()
        self.dead = 0
        self.sweep_above = sweep_above

    def __len__(self) -> int:
        return len(self.items) - self.dead

    def bury(self) -> None:
        """One entry has become a tombstone."""
        self.dead += 1
        if self.dead > self.sweep_above and self.dead * 2 > len(self.items):
            self.items = deque(item for item in self.items if is_live(item))
            self.dead = 0

    def pop(self) -> T | None:
        """The first live entry."""
        items = self.items
        while items:
            item = items.popleft()
            if is_live(item):
                return item
            self.dead -= 1
        return None


class Mailbox:
    """See the theory of operation above. All methods are synchronous and O(1) amortised."""

    __slots__ = ("_queue", "_spill", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._queue: _Lane[Cast | Request] = _Lane(min(_SWEEP_ABOVE, capacity // 2))
        self._spill: _Lane[Waiting] | None = None

    def __len__(self) -> int:
        """Live messages, those whose senders still wait for room included."""
        return len(self._queue) + (0 if self._spill is None else len(self._spill))

    def full(self) -> bool:
        """Whether the next message has to wait for room."""
        return bool(self._spill) or len(self._queue) >= self.capacity

    def put(self, item: Cast | Request) -> None:
        """Append; the caller has seen that it is not full."""
        self._queue.items.append(item)

    def put_waiting(self, item: Waiting) -> None:
        """Append to those that wait for room."""
        item.spilled = True
        if self._spill is None:
            self._spill = _Lane(_SWEEP_ABOVE)
        self._spill.items.append(item)

    def take(self) -> Cast | Request | None:
        """The next live message, or None."""
        item = self._queue.pop()
        if self._spill is not None:
            self._refill()
        return item

    def bury(self, item: Waiting) -> None:
        """`item` has been revoked."""
        if item.spilled and self._spill is not None:
            self._spill.bury()
        else:
            self._queue.bury()
        self._refill()

    def take_all(self) -> Iterator[Cast | Waiting]:
        """Empty the mailbox: whoever calls this answers for every message."""
        while (item := self._queue.pop()) is not None:
            yield item
        while self._spill is not None and (waiting := self._spill.pop()) is not None:
            yield waiting

    def _refill(self) -> None:
        while self._spill is not None and len(self._queue) < self.capacity:
            item = self._spill.pop()
            if item is None:
                self._spill = None
            elif isinstance(item, WaitingCast):
                self._queue.items.append(item.cast)
                item.accept()
            else:
                item.spilled = False
                self._queue.items.append(item)


def is_live(item: Cast | Waiting) -> bool:
    """False for a tombstone."""
    return isinstance(item, tuple) or item.state == QUEUED
