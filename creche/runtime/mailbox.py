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

How long the oldest message has waited (`oldest_wait`) must cost nothing where nothing waits for long, and to read the
clock for each message would be felt. So messages carry no time. What has come while the actor waited for mail is taken
in the next step, or, if it is more than one message, the actor reads the clock once when it wakes (`woken`). Only in
front of what comes while the actor is busy or down stands a `Mark` with the time, at most one in `RESOLUTION`; to the
counts it is no message. `since` is the time of the last mark that was taken out. Whatever stands behind a mark has come
at that time or later, and before the next mark's, so the figure is never too low by more than a pass of the event loop,
nor too high by more than `RESOLUTION` and a pass. `appends_below` says which of both is the case: `at_rest` while the
actor waits for mail, 0 while it does not. The cell's loop sets it, and `since`, by itself, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import trio

from .envelope import KEYED, NEVER, QUEUED, SETTLED, SPILLED, Cast, KeyedCast, Request, Waiting, WaitingCast

if TYPE_CHECKING:
    from .actor import MessageSpec

# And, in place of a Request, a `Mark` or, in a `LatestMailbox`, a `KeyedCast`: the loop asks for its state only.
Queued = Cast | Request

RESOLUTION = 0.001  # seconds: what comes closer together is taken to be of one age


class Queue(Protocol):
    """What a mailbox needs of its queue: a deque, or something else that takes its place."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Queued]: ...
    def __getitem__(self, index: int, /) -> Queued: ...
    def append(self, item: Queued, /) -> None: ...
    def appendleft(self, item: Queued, /) -> None: ...
    def extend(self, items: Iterable[Queued], /) -> None: ...
    def popleft(self) -> Queued: ...
    def clear(self) -> None: ...


_SWEEP_ABOVE = 32
_NOTHING_YET: Queue = deque[Queued](maxlen=0)  # stands in for a queue that has not been made; never filled


class Mark:
    """Stands in a queue in front of what has come at a time or later. To everybody else it is a tombstone."""

    __slots__ = ("at",)
    state: Final = SETTLED

    def __init__(self, at: float) -> None:
        self.at = at


class Mailbox:
    """See the theory of operation above. All methods are synchronous and O(1) amortised.

    `clock` gives seconds.
    """

    __slots__ = (
        "_clock",
        "_dead",
        "_dead_spilled",
        "_marked",
        "_marks",
        "_sweep_above",
        "appends_below",
        "at_rest",
        "capacity",
        "queue",
        "since",
        "spill",
    )

    def __init__(self, capacity: int, clock: Callable[[], float] = trio.current_time) -> None:
        self.capacity = capacity
        # While the queue is shorter than this, to send is to append to it: senders do it themselves, which saves them a
        # call. 0: only `put` knows.
        self.appends_below = 0
        self.at_rest = 0  # what that is to be while the actor waits for mail
        self.queue: Queue = _NOTHING_YET
        self._dead = 0  # tombstones in the queue
        self.spill: deque[tuple[float, Waiting]] | None = None  # with the time at which each has come
        self._dead_spilled = 0
        self._sweep_above = min(_SWEEP_ABOVE, capacity // 2)
        self._clock = clock
        self._marks = 0  # in the queue
        self.since = NEVER  # the last mark that was taken out; NEVER: nothing waits that is not marked
        self._marked = -NEVER  # the last one that was made

    def __len__(self) -> int:
        """Live messages, those whose senders still wait for room included."""
        return self._in_queue() + self._waiting()

    def _in_queue(self) -> int:
        return len(self.queue) - self._dead - self._marks

    def _waiting(self) -> int:
        return 0 if self.spill is None else len(self.spill) - self._dead_spilled

    def full(self) -> bool:
        """Whether the next message has to wait for room."""
        return self._in_queue() >= self.capacity or self._waiting() > 0

    def put(self, item: Cast | Request) -> bool:
        """Append if there is room."""
        if self.full():
            return False
        self.put_anyway(item)
        return True

    def put_anyway(self, item: Cast | Request) -> None:
        """Append, whatever the capacity."""
        if not self.appends_below:
            self.mark(self._clock())
        self.open().append(item)

    def put_first(self, items: Sequence[Cast | Request]) -> None:
        """Put what has been taken before back at the head, in order. There may be more than the capacity then."""
        queue = self.open()
        for item in reversed(items):
            queue.appendleft(item)

    def open(self) -> Queue:
        """The queue, made now if nothing has needed it so far: an idle actor is a quarter larger with one."""
        if self.queue is _NOTHING_YET:
            made: deque[Queued] = deque()
            self.queue = made
            self._let_append()
        return self.queue

    def _let_append(self) -> None:
        self.at_rest = self.capacity

    def put_waiting(self, item: Waiting) -> None:
        """Append to those that wait for room."""
        item.state = SPILLED
        if self.spill is None:
            self.spill = deque()
            self.appends_below = self.at_rest = 0
        self.spill.append((self._clock(), item))

    # --- how long messages wait -------------------------------------------------------------------

    def oldest_wait(self, now: float) -> float:
        """How long the oldest live message has waited by `now`, in seconds, to a millisecond. 0: none waits."""
        since = self.since
        for item in self.queue:  # nearly always the first or the second one
            mark = as_mark(item)
            if mark is not None:
                since = mark.at
            elif is_live(item):
                return max(0.0, now - since)
        waiting = (came for came, item in self.spill or () if is_live(item))
        return max(0.0, now - next(waiting, now))

    def mark(self, now: float) -> None:
        """What is appended from now on has come at `now` or later."""
        if now - self._marked < RESOLUTION and (self._marks or self.since != NEVER):
            return
        self._marked = now
        queue = self.queue
        last = as_mark(queue[-1]) if queue else None
        if not queue:
            self.since = now
        elif last is not None:
            last.at = now
        else:
            queue.append(cast("Request", Mark(now)))
            self._marks += 1

    def woken(self, now: float) -> None:
        """The actor was waiting for mail, and finds what has come by now."""
        self.since = self._marked = now

    def take(self) -> Cast | Request | None:
        """The next live message, or None."""
        while self.queue:
            item = self.queue.popleft()
            if is_live(item):
                self.popped()
                return self.release(item) if is_keyed(item) else item
            self.skipped(item)
        return None

    def take_another(self, spec: MessageSpec) -> Cast | Request | None:
        """The next live message if it is of this kind."""
        while self.queue and not is_live(self.queue[0]):
            self.skipped(self.queue.popleft())
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

    def skipped(self, item: object) -> None:
        """A tombstone or a mark has been taken out of `queue`."""
        mark = as_mark(item)
        if mark is not None:
            self.since = mark.at
            self._marks -= 1
        else:
            self._dead -= 1

    def bury(self, was: int) -> None:
        """A message that was in state `was`, QUEUED or SPILLED, has become a tombstone.

        Whoever waits for its room is let in by `refill`.
        """
        if was == QUEUED:
            self._dead += 1
            if self._dead > self._sweep_above and self._dead * 2 > len(self.queue) - self._marks:
                self._sweep()
        elif self.spill is not None:
            self._dead_spilled += 1
            if self._dead_spilled > _SWEEP_ABOVE and self._dead_spilled * 2 > len(self.spill):
                self._sweep_spilled(self.spill)

    def _sweep(self) -> None:
        """Take all tombstones out, in place, and of marks with nothing between them all but the last."""
        queue, self._dead, self._marks = cast("deque[Queued]", self.queue), 0, 0
        for _ in range(len(queue)):
            item = queue.popleft()
            if as_mark(item):
                if self._marks and as_mark(queue[-1]):
                    queue.pop()
                else:
                    self._marks += 1
                queue.append(item)
            elif is_live(item):
                queue.append(item)

    def _sweep_spilled(self, spill: deque[tuple[float, Waiting]]) -> None:
        live = [entry for entry in spill if is_live(entry[1])]
        spill.clear()
        spill.extend(live)
        self._dead_spilled = 0

    def take_all(self) -> Iterator[Cast | Waiting]:
        """Empty the mailbox: whoever calls this answers for every message."""
        if not self.queue and not self.spill:
            return iter(())
        items = [*self.queue, *(item for _, item in self.spill or ())]
        self.queue.clear()
        self._nobody_waits()
        self._dead = self._dead_spilled = self._marks = 0
        self.since = self._marked
        return (self.release(item) if is_keyed(item) else item for item in items if is_live(item))

    def take_waiting(self) -> Iterator[Waiting]:
        """Take all whose senders wait, be it for an answer or for room; the casts that were accepted stay."""
        queue, accepted = self.queue, deque[Queued]()
        taken: list[Waiting] = []
        for item in queue:
            if isinstance(item, tuple) or as_mark(item) or is_keyed(item):
                accepted.append(item)
            elif is_live(item):
                taken.append(item)
        taken += [item for _, item in self.spill or () if is_live(item)]
        self._nobody_waits()
        self._dead = self._dead_spilled = 0
        if accepted or queue:
            queue.clear()
            queue.extend(accepted)
        return iter(taken)

    def refill(self) -> None:
        """Let those that wait for room move up into what is free."""
        while self.spill is not None and self._in_queue() < self.capacity:
            if not self.spill:
                self._nobody_waits()
                return
            came, item = self.spill.popleft()
            if not is_live(item):
                self._dead_spilled -= 1
                continue
            self.mark(came)
            if isinstance(item, WaitingCast):
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

    def __init__(
        self, capacity: int, replaced: Callable[[Cast], None], clock: Callable[[], float] = trio.current_time
    ) -> None:
        super().__init__(capacity, clock)
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
        self.mark(self._clock())
        self.open().append(cast("Request", keyed))
        return True

    def _let_append(self) -> None:
        pass  # a key must be looked at

    def release(self, item: Any) -> Cast:
        """See `Mailbox`."""
        del self._by_key[item.key]
        return super().release(item)


def as_mark(item: object) -> Mark | None:
    """The item, if it is really a `Mark`."""
    return item if isinstance(item, Mark) else None


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
