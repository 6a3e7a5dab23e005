"""The backlog of a pool without keys and priorities, made for speed: one line, taken from by all.

To read the clock costs more than everything else that is done here with a message, and it would have to be read twice:
when it comes and when it is taken. So not every message is told when it came. Those that are, are *marks*: the first
that comes when no mark waits, each eighth after it, and all while calls are being refused. The age of the others is
taken as unknown; they lie between two that are known, and are never refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING

from ...runtime.envelope import QUEUED, Request
from ...runtime.mailbox import Queued
from .backlog import WAKES, Backlog, Seat
from .line import Entry, Line

if TYPE_CHECKING:
    from .front import Front

MARK_EVERY = 8
_pop = deque[Entry].popleft


class SharedBacklog(Backlog):
    """See above."""

    def __init__(self, front: Front, new_line: Callable[[], Line]) -> None:
        super().__init__(front, new_line)
        self._unmarked = 0  # messages since the last mark came
        self._to_mark = 0  # how many are to be taken before the last mark has been

    def append(self, item: Queued, /) -> None:
        """See `Backlog`."""
        common = self.common
        if (
            self._to_mark > 0
            and self._unmarked < MARK_EVERY
            and (common.admission is None or not common.admission.overloaded)
        ):
            self._unmarked += 1
            since = self.arrived = None
        else:
            since = self._now()
            self._unmarked = 0
            self._to_mark = len(common) + 1
        common.append((since, item, None))
        self._count += 1
        if self._idle and len(self._woken) < WAKES:
            self.pass_on()

    def take(self, seat: Seat) -> Queued:
        """See `Backlog`; in one piece for a message that nothing speaks against."""
        common = self.common
        if seat.line or seat.retired or not common or common[0][0] is not None:
            self._to_mark -= 1
            return super().take(seat)
        item = common[0][1]
        if isinstance(item, Request):
            if item.state != QUEUED:
                return super().take(seat)
            item.cell = seat.worker
        self._to_mark -= 1
        seat.hand = _pop(common)
        seat.from_common = True
        self._count -= 1
        if self._woken:
            self._woken.pop(seat, None)
        if self._idle and common:
            self.pass_on()
        if self.mailbox.spill is not None:
            self.mailbox.popped()
        return item

    def _in_order(self, lines: Iterable[Line]) -> Iterable[Entry]:
        return chain.from_iterable(lines)

    def popleft(self) -> Queued:
        """See `Backlog`: the oldest of those that are for anybody."""
        line = self.common or next(line for line in self._lines() if line)
        self._count -= 1
        return line.popleft()[1]
