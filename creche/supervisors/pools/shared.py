"""The backlog of a pool without keys and priorities, made for speed: one line, taken from by all.

Theory of operation
-------------------
To read the clock costs more than everything else that is done here with a message, and it would have to be read twice:
when it comes and when it is taken. So most messages are not told when they came; they came together with the one before
them, as far as anybody has to know. It is as in a mailbox:

* What comes while a worker is idle is taken in the next passes, or, if the workers do not suffice for it, the first of
  them that comes for a message reads the clock, once for all that wait (`since`).
* What comes while none is idle is told the time, but for what comes within `RESOLUTION` of the last one that was.

`since` is also the time of the last one of these that has been taken. Of whatever has no time itself nobody is refused:
under overload all have one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

import trio

from ...runtime.envelope import QUEUED, Request
from ...runtime.mailbox import RESOLUTION, Queued
from .backlog import WAKES, Backlog, Seat
from .line import Entry, Line

if TYPE_CHECKING:
    from .front import Front

_pop = deque[Entry].popleft


class SharedLine(Line):
    """A line in which most messages have no time of their own."""

    since = inf  # of those at the head that have none; infinity: they have just come

    def oldest(self) -> float:
        """See `Line`."""
        return self.since if self[0][0] is None else self[0][0]

    def popleft(self) -> Entry:
        """See `deque`."""
        entry = super().popleft()
        if entry[0] is not None:
            self.since = entry[0]
        return entry

    def sift(self, keep: Callable[[Entry], bool]) -> list[Entry]:
        """See `Line`. The time of one that goes is that of those behind it."""
        entries, since = list(self), None
        self.clear()
        for own, item, key in entries:
            since = since if own is None else own
            self.append((since, item, key))
        return super().sift(keep)


class SharedBacklog(Backlog):
    """See above."""

    common: SharedLine

    def __init__(self, front: Front, new_line: Callable[[], Line]) -> None:
        super().__init__(front, new_line)
        self.common = SharedLine(self.common.admission)
        self._marked = -inf  # when the last one came that has a time

    def append(self, item: Queued, /) -> None:
        """See `Backlog`."""
        at_rest = self._idle and self.arrived is None
        self.common.append((None if at_rest else self._mark(), item, None))
        self._count += 1
        if self._idle and len(self._woken) < WAKES:
            self.pass_on()

    def _mark(self) -> float | None:
        """The time of a message that is about to be appended, if it needs one."""
        now, admission = self._now(), self.common.admission
        if not self.common:
            if admission is not None:
                admission.emptied()
        elif now - self._marked < RESOLUTION and (admission is None or not admission.overloaded):
            return None
        self._marked = now
        return now

    def rests(self, seat: Seat) -> None:
        """See `Backlog`."""
        super().rests(seat)
        if not self.common:
            self.common.since = inf
            if self.common.admission is not None:
                self.common.admission.emptied()

    def left(self, seat: Seat) -> None:
        """See `Backlog`. Perhaps it was the last one that was to come soon."""
        super().left(seat)
        self._read_the_clock()

    def _read_the_clock(self) -> None:
        if self.common and self.common.since == inf:
            self.common.since = trio.current_time()

    def take(self, seat: Seat) -> Queued:
        """See `Backlog`; in one piece for a message that nothing speaks against."""
        common = self.common
        if seat.line or seat.retired or self._blocked or not common or common[0][0] is not None:
            self._read_the_clock()
            return super().take(seat)
        item = common[0][1]
        if isinstance(item, Request):
            if item.state != QUEUED:
                return super().take(seat)
            item.cell = seat.worker
        seat.hand = _pop(common)
        seat.from_common = True
        self._count -= 1
        if self._woken:
            self._woken.pop(seat, None)
        if common:
            if self._idle:
                self.pass_on()
            if common.since == inf:
                self._read_the_clock()
        if self.mailbox.spill is not None:
            self.mailbox.popped()
        return item

    def _in_order(self, lines: Iterable[Line]) -> Iterable[Entry]:
        return chain.from_iterable(lines)

    def popleft(self) -> Queued:
        """See `Backlog`: the oldest of those that are for anybody."""
        return self._drop(self.common or next(line for line in self._lines() if line))
