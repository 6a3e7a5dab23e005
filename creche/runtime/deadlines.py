"""One heap of deadlines for a whole runtime.

Theory of operation
-------------------
A `trio.fail_after` around each call costs twice the call. A call with a stamped deadline costs one `heappush` here
instead, and one task sleeps until the earliest entry. An entry that is settled early is not searched for: it stays in
the heap as a dead one and is counted, and the heap is rebuilt when more than half of it is dead, so memory stays within
twice the live entries at amortised O(1).

The sleeping task is moved to an earlier deadline by assigning its cancel scope's deadline, which needs no task switch.
That is why a push may come from anywhere in the run, handlers included.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Protocol

import trio

_REBUILD_ABOVE = 64  # dead entries: below that a rebuild costs more than it frees


class Expiring(Protocol):
    """Something that waits for a point in time."""

    def live(self) -> bool:
        """Whether expiry still matters. False makes the entry a dead one."""
        ...

    @property
    def place(self) -> str:
        """Sorts entries of one time."""
        ...

    def expire(self, now: float) -> None:
        """The time has come. Must not raise or block."""


def _by_time_and_place(item: tuple[float, int, Expiring]) -> tuple[float, str, int]:
    # Trio cancels the callers of one moment in no particular order, and in that order the graces of their handlers are
    # pushed. What happens at their end must not depend on it.
    deadline, order, entry = item
    return deadline, entry.place, order


class Deadlines:
    """Entries ordered by time, expired by the task that runs `run`."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Expiring]] = []
        self._order = itertools.count()
        self._dead = 0
        self._scope: trio.CancelScope | None = None
        self._sleeps_until = float("inf")  # the scope's deadline; to ask the scope costs more than the push

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, deadline: float, entry: Expiring) -> None:
        """Call `entry.expire` at `deadline` (seconds of `trio.current_time()`) unless it is no longer live by then."""
        heapq.heappush(self._heap, (deadline, next(self._order), entry))
        if deadline < self._sleeps_until and self._scope is not None:
            self._sleeps_until = self._scope.deadline = deadline

    def note_dead(self) -> None:
        """One pushed entry has stopped being live."""
        self._dead += 1
        if self._dead > _REBUILD_ABOVE and self._dead * 2 > len(self._heap):
            self._heap = [item for item in self._heap if item[2].live()]
            heapq.heapify(self._heap)
            self._dead = 0

    def expire_due(self, now: float) -> None:
        """Expire all that is due at `now`."""
        due: list[tuple[float, int, Expiring]] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap))
        if len(due) > 1:
            due.sort(key=_by_time_and_place)
        for _, _, entry in due:
            if entry.live():
                entry.expire(now)
            else:
                self._dead = max(0, self._dead - 1)

    async def run(self) -> None:
        """Sleep and expire, until cancelled."""
        while True:
            self.expire_due(trio.current_time())
            self._sleeps_until = self._heap[0][0] if self._heap else float("inf")
            with trio.CancelScope(deadline=self._sleeps_until) as self._scope:
                await trio.sleep_forever()


class Timer:
    """One synchronous callback at one point in time."""

    __slots__ = ("_callback", "_deadlines")
    place = ""

    def __init__(self, deadlines: Deadlines, when: float, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback
        self._deadlines = deadlines
        deadlines.push(when, self)

    def live(self) -> bool:
        """Part of `Expiring`."""
        return self._callback is not None

    def expire(self, now: float) -> None:
        """Part of `Expiring`."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def cancel(self) -> None:
        """Never call back. Idempotent."""
        if self._callback is not None:
            self._callback = None
            self._deadlines.note_dead()
