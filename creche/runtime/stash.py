"""The stash: messages that a handler has put aside for later.

Theory of operation
-------------------
`ActorContext.stash` raises `Stashed` through the handler: no line of it runs after that, and what it holds in `with`
blocks is given back. Where the handler's errors are judged the message, which has not been handled, goes into the stash
of its cell. `unstash_all` puts all of them back at the head of the mailbox, in order; so does the end of the
incarnation: they are mail that waits, and mail survives.

A stashed call is still its caller's: it can be revoked, and its deadline goes on. Then it becomes a tombstone here, as
in the mailbox. For the wait-for graph it waits for the actor's task, as a queued one does.
"""

from __future__ import annotations

from collections import deque

from .envelope import QUEUED, STASHED, Cast, Request
from .mailbox import is_live

_SWEEP_ABOVE = 32


class Stash:
    """Up to `capacity` live messages, in the order in which they were put aside."""

    __slots__ = ("_dead", "_items", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._items: deque[Cast | Request] = deque()
        self._dead = 0  # tombstones

    def __len__(self) -> int:
        """Live messages."""
        return len(self._items) - self._dead

    def put(self, item: Cast | Request) -> bool:
        """Put one aside. False if there is no room."""
        if len(self) >= self.capacity:
            return False
        if not isinstance(item, tuple):
            item.state = STASHED
        self._items.append(item)
        return True

    def take_all(self) -> list[Cast | Request]:
        """All of them, in order; those that are calls wait in the mailbox from now on."""
        items = [item for item in self._items if is_live(item)]
        self._items.clear()
        self._dead = 0
        for item in items:
            if not isinstance(item, tuple):
                item.state = QUEUED
        return items

    def take_calls(self) -> list[Request]:
        """Those with a caller who waits; the casts stay."""
        calls = [item for item in self._items if not isinstance(item, tuple) and is_live(item)]
        self._items = deque(item for item in self._items if isinstance(item, tuple))
        self._dead = 0
        return calls

    def bury(self) -> None:
        """A message has become a tombstone."""
        self._dead += 1
        if self._dead > _SWEEP_ABOVE and self._dead * 2 > len(self._items):
            self._items = deque(item for item in self._items if is_live(item))
            self._dead = 0
