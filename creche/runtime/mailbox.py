"""The mailbox: a bounded queue that outlives incarnations, from which a waiting request can be taken back.

Theory of operation
-------------------
Two deques. `queue` holds at most `capacity` live messages. `spill` holds those whose senders wait for room, in order
of arrival; while it is not empty everything new goes there too, so that nobody overtakes. Whenever a live message is
taken out of the queue, one that waits for room moves up; into what a revoked one leaves free it moves a moment later,
when the cell says so (see `Intake.bury`).

A memory channel cannot take a message back, so callers that time out would leave garbage that blocks live callers and
is executed later. Here a revoked request becomes a tombstone: it is skipped when taken and does not count against the
capacity. Tombstones are swept out when they are many and more than half of the queue, so that a small mailbox cannot
fill up with them.

A `LatestMailbox` also keeps a table of the casts that wait under a key: a later one takes over the place of an earlier.

A message is popped one at a time, at the moment its handler starts: draining into a local list would lose the rest on
a crash. The cell's loop pops from `queue` itself, for speed, and then calls `skipped` for a tombstone, or `popped`
while anything spills; so a sweep changes the deque in place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .envelope import KEYED, QUEUED, SPILLED, Cast, KeyedCast, Request, Waiting, WaitingCast

if TYPE_CHECKING:
    from .actor import MessageSpec

Queued = (
    Cast | Request
)  # and, in a `LatestMailbox`, a `KeyedCast` in place of a Request: the loop asks for its state only
T = TypeVar("T", bound=Queued | Waiting)

_SWEEP_ABOVE = 32
_NOTHING_YET: deque[Queued] = deque(maxlen=0)  # stands in for a queue that has not been made; never filled


class Mailbox:
    """See the theory of operation above. All methods are synchronous and O(1) amortised."""

    __slots__ = ("_dead", "_dead_spilled", "_sweep_above", "appends_below", "capacity", "queue", "spill")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        # While the queue is shorter than this, to send is to append to it: senders do it themselves, which saves them a
        # call. 0: only `put` knows.
        self.appends_below = 0
        self.queue: deque[Queued] = _NOTHING_YET
        self._dead = 0  # tombstones in the queue
        self.spill: deque[Waiting] | None = None
        self._dead_spilled = 0
        self._sweep_above = min(_SWEEP_ABOVE, capacity // 2)

    def __len__(self) -> int:
        """Live messages, those whose senders still wait for room included."""
        return len(self.queue) - self._dead + self._waiting()

    def _waiting(self) -> int:
        return 0 if self.spill is None else len(self.spill) - self._dead_spilled

    def full(self) -> bool:
        """Whether the next message has to wait for room."""
        return len(self.queue) - self._dead >= self.capacity or self._waiting() > 0

    def put(self, item: Cast | Request) -> bool:
        """Append if there is room."""
        if self.full():
            return False
        self.open().append(item)
        return True

    def open(self) -> deque[Queued]:
        """The queue, made now if nothing has needed it so far: an idle actor is a quarter larger with one."""
        if self.queue is _NOTHING_YET:
            self.queue = deque()
            self._let_append()
        return self.queue

    def _let_append(self) -> None:
        self.appends_below = self.capacity

    def put_waiting(self, item: Waiting) -> None:
        """Append to those that wait for room."""
        item.state = SPILLED
        if self.spill is None:
            self.spill = deque()
            self.appends_below = 0
        self.spill.append(item)

    def take(self) -> Cast | Request | None:
        """The next live message, or None."""
        while self.queue:
            item = self.queue.popleft()
            if is_live(item):
                self.popped()
                return self.release(item) if is_keyed(item) else item
            self.skipped()
        return None

    def take_another(self, spec: MessageSpec) -> Cast | Request | None:
        """The next live message if it is of this kind."""
        while self.queue and not is_live(self.queue[0]):
            self.queue.popleft()
            self.skipped()
        return self.take() if self.queue and spec_of(self.queue[0]) is spec else None

    def put_back(self, item: Cast | Request) -> None:
        """Return what has just been taken to the head. For a moment there may be one message too many."""
        self.queue.appendleft(item)

    def release(self, item: Any) -> Cast:
        """A `KeyedCast` has been taken out of `queue`: the cast that it stands for now."""
        return cast("KeyedCast", item).cast

    def popped(self) -> None:
        """A live message has been taken out of `queue`."""
        if self.spill is not None:
            self.refill()

    def skipped(self) -> None:
        """A tombstone has been taken out of `queue`."""
        self._dead -= 1

    def bury(self, was: int) -> None:
        """A message that was in state `was`, QUEUED or SPILLED, has become a tombstone.

        Whoever waits for its room is let in by `refill`.
        """
        if was == QUEUED:
            self._dead += 1
            if self._dead > self._sweep_above and self._dead * 2 > len(self.queue):
                self._dead = _sweep(self.queue)
        elif self.spill is not None:
            self._dead_spilled += 1
            if self._dead_spilled > _SWEEP_ABOVE and self._dead_spilled * 2 > len(self.spill):
                self._dead_spilled = _sweep(self.spill)

    def take_all(self) -> Iterator[Cast | Waiting]:
        """Empty the mailbox: whoever calls this answers for every message."""
        if not self.queue and not self.spill:
            return iter(())
        items = [*self.queue, *(self.spill or ())]
        self.queue.clear()
        self._nobody_waits()
        self._dead = self._dead_spilled = 0
        return (self.release(item) if is_keyed(item) else item for item in items if is_live(item))

    def refill(self) -> None:
        """Let those that wait for room move up into what is free."""
        while self.spill is not None and len(self.queue) - self._dead < self.capacity:
            if not self.spill:
                self._nobody_waits()
                return
            item = self.spill.popleft()
            if not is_live(item):
                self._dead_spilled -= 1
            elif isinstance(item, WaitingCast):
                self.queue.append(item.cast)
                item.accept()
            else:
                item.state = QUEUED
                self.queue.append(item)

    def _nobody_waits(self) -> None:
        self.spill = None
        if self.queue is not _NOTHING_YET:
            self._let_append()


class LatestMailbox(Mailbox):
    """A mailbox in which a cast replaces the one that waits under the same key."""

    __slots__ = ("_by_key", "_replaced")

    def __init__(self, capacity: int, replaced: Callable[[Cast], None]) -> None:
        super().__init__(capacity)
        self._by_key: dict[Hashable, KeyedCast] = {}
        self._replaced = replaced  # is given each cast that will not be handled because a later one took its place

    def put(self, item: Cast | Request) -> bool:
        """As the base says; True also when the message took over a place."""
        if not isinstance(item, tuple) or item[0].key is None:
            return super().put(item)
        key = (item[0].name, item[0].key(*item[1], **item[2]))
        waiting = self._by_key.get(key)
        if waiting is not None:
            before, waiting.cast = waiting.cast, item
            self._replaced(before)
            return True
        if self.full():
            return False
        self._by_key[key] = keyed = KeyedCast(item, key)
        self.open().append(cast("Request", keyed))
        return True

    def _let_append(self) -> None:
        pass  # a key must be looked at

    def release(self, item: Any) -> Cast:
        """See `Mailbox`."""
        del self._by_key[item.key]
        return super().release(item)


def is_live(item: Queued | Waiting) -> bool:
    """False for a tombstone."""
    return isinstance(item, tuple) or item.state <= SPILLED


def is_keyed(item: Queued | Waiting) -> bool:
    """Whether it is really a `KeyedCast`."""
    return not isinstance(item, tuple) and item.state == KEYED


def spec_of(item: Queued) -> MessageSpec | None:
    """What kind of message it is; None for a `KeyedCast`, which is never handled together with others."""
    if isinstance(item, tuple):
        return item[0]
    return None if item.state == KEYED else item.spec


def _sweep(items: deque[T]) -> int:
    """Take all tombstones out, in place. Returns how many are left: none."""
    for _ in range(len(items)):
        item = items.popleft()
        if is_live(item):
            items.append(item)
    return 0
