"""All messages that wait in a pool, in the lines that workers take from, and who of the workers is idle.

Theory of operation
-------------------
There is one line that all workers take from (`common`), and one of each worker (its `Seat`) for what only that worker
is to handle: what a routing has assigned to it, and what was sent to that very worker. A worker takes from its own line
first. To the mailbox in front of it a backlog looks like the deque that mailboxes have, so that capacity, waiting for
room, revocation and overflow are those of every mailbox, once for the pool as a whole.

Waking: a worker that finds nothing (`rests`) is idle, and parks in the same step. While messages wait and workers are
idle, at most `WAKES` have been woken and not come yet; whoever comes for a message wakes the next one if more wait. So
a burst of quick messages wakes two workers for nothing, where one wake for each message would wake them all, and one of
slow messages gets all workers to work a few passes of the scheduler later. A worker that was woken and does not come,
because it crashed or was stopped in that very step, passes the wake on (`left`), else the message would wait although
others are idle. A worker that puts back what it has taken, because as many of that kind as may run are running there,
is *blocked* until that changes, or until somebody else takes that message: it may handle what comes behind it.

All of it happens in one thread, and nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from heapq import merge
from math import inf
from typing import TYPE_CHECKING, cast

import trio

from ...runtime.actor import MessageSpec
from ...runtime.context import NO_BAGGAGE
from ...runtime.envelope import NEVER, SETTLED, KeyedCast, Request
from ...runtime.mailbox import Mailbox, Queued, is_live, spec_of
from .line import Entry, Line

if TYPE_CHECKING:
    from .admission import Admitting
    from .front import Front
    from .worker import WorkerCell

WAKES = 2
NO_KEY = object()  # of what was sent to one worker: it is for nobody else


class Seat:
    """A worker's place in the backlog."""

    __slots__ = ("aimed", "batch", "from_common", "hand", "line", "name", "retired", "worker")

    def __init__(self, worker: WorkerCell, line: Line) -> None:
        self.worker = worker
        self.name = worker.name
        self.line = line
        self.hand: Entry | None = None  # taken, and the worker has not come back for the next
        self.batch: list[Hashable] = []  # the keys of those that it has taken together with that, before it
        self.from_common = False
        self.aimed = 0  # messages that are about to be sent together, and will be assigned to it
        self.retired = False  # it takes nothing new

    @property
    def up(self) -> bool:
        """See `Candidate`."""
        return not self.retired and self.worker.takes

    @property
    def busy(self) -> bool:
        """Whether anything is in its hand or in flight."""
        return self.hand is not None or self.worker.in_flight > 0

    @property
    def load(self) -> int:
        """See `Candidate`."""
        return len(self.line) + (self.hand is not None) + self.worker.in_flight + self.aimed


class Backlog:
    """See above. This one has no keys, and no assignments but to workers that were meant themselves."""

    def __init__(self, front: Front, new_line: Callable[[], Line]) -> None:
        self._front = front
        self._new_line = new_line
        self.common = new_line()
        self.mailbox: Mailbox = Mailbox(0)  # that of the front, which knows of room and of tombstones
        self.seats: list[Seat] = []
        self._idle: dict[Seat, None] = {}  # the one that became so last is woken first: its caches are warm
        self._woken: dict[Seat, None] = {}  # for the common line, and has not come yet
        self._blocked: dict[Seat, Queued] = {}  # what it has put back into the common line
        self._count: int = 0
        self.arrived: float | None = None  # when the one that is appended next has come, if not now

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Queued]:
        """All messages, the oldest first."""
        return (entry[1] for entry in self._in_order(self._lines()))

    def __getitem__(self, index: int) -> Queued:
        return list(self)[index]

    def oldest(self) -> float:
        """Since when the oldest message waits, as far as that is known; infinity if none does."""
        return min((line.oldest() for line in self._lines() if line), default=inf)

    def _in_order(self, lines: Iterable[Line]) -> Iterable[Entry]:
        return merge(*lines, key=lambda entry: entry[0] or 0.0)

    def for_anybody(self) -> int:
        """How many messages wait for no worker that is known."""
        return len(self.common)

    def _lines(self) -> Iterator[Line]:
        yield self.common
        for seat in self.seats:
            yield seat.line

    # --- messages come ----------------------------------------------------------------------------

    def target(self, item: Queued) -> Seat | None:
        """The worker that must handle a message which is about to be sent; None: whoever is free first."""
        return None

    def append(self, item: Queued, /) -> None:
        """A message has been accepted."""
        self._count += 1
        self._append_common((self._now(), item, None))

    def appendleft(self, item: Queued, /) -> None:
        """A message goes to the head."""
        self._count += 1
        self.common.put_first((trio.current_time(), item, None))

    def _now(self) -> float:
        arrived, self.arrived = self.arrived, None
        return trio.current_time() if arrived is None else arrived

    def extend(self, items: Iterable[Queued]) -> None:
        """Several have."""
        for item in items:
            self.append(item)

    def append_for(self, seat: Seat, item: Queued) -> None:
        """A message has been sent to one worker, which is woken by whoever sent it."""
        self._count += 1
        seat.line.append((trio.current_time(), item, NO_KEY))

    def _append_common(self, entry: Entry) -> None:
        self.common.append(entry)
        if self._idle:
            self.pass_on()

    # --- workers come and go ----------------------------------------------------------------------

    def new_seat(self, worker: WorkerCell) -> Seat:
        """One more worker."""
        seat = Seat(worker, self._new_line())
        self.seats.append(seat)
        return seat

    def retire(self, seat: Seat) -> None:
        """The worker takes nothing new: what waits for it goes to others, unless it was meant itself."""
        seat.retired = True
        self.left(seat)

    def gone(self, seat: Seat) -> None:
        """The worker has ended for good."""
        self.retire(seat)
        self.came_back(seat)
        self.seats.remove(seat)

    def rests(self, seat: Seat) -> None:
        """The worker has found nothing and is about to park."""
        self.came_back(seat)
        self._woken.pop(seat, None)
        self._blocked.pop(seat, None)
        self._idle.pop(seat, None)
        if not seat.retired:
            self._idle[seat] = None

    def left(self, seat: Seat) -> None:
        """The worker will not come for the next message, or not soon: somebody else must."""
        self._idle.pop(seat, None)
        self._woken.pop(seat, None)
        self._blocked.pop(seat, None)
        self.pass_on()

    def yields(self, seat: Seat) -> None:
        """The same, and it may be long: what waits for it goes to others, if there are any that may handle it."""
        self.left(seat)

    def came_up(self, seat: Seat) -> None:
        """The worker has started, and will come by itself: it may handle what waits for those that are down."""

    def tries_again(self, seat: Seat) -> None:
        """What the worker has put back it may perhaps handle now."""
        self._blocked.pop(seat, None)

    def crashed(self, seat: Seat) -> None:
        """Its incarnation has ended, and with it what was in its hand."""
        self.came_back(seat)
        self.yields(seat)

    def pass_on(self) -> None:
        """Let idle workers come for what waits."""
        while self._idle and len(self._woken) < min(WAKES, len(self.common)):
            self._wake_one()

    def _wake_one(self) -> None:
        while self._idle:
            seat, _ = self._idle.popitem()
            if seat.worker.wake_if_hungry():
                self._woken[seat] = None
                return

    # --- messages are taken -----------------------------------------------------------------------

    def take(self, seat: Seat) -> Queued:
        """The next message for a worker that has come for one; `NOTHING` if there is none but dead or late ones."""
        self.came_back(seat)
        return self.take_more(seat)

    def take_more(self, seat: Seat, spec: MessageSpec | None = None) -> Queued:
        """As `take`, for a worker that takes several together, of one kind: what it has in hand stays there."""
        if self._woken:
            self._woken.pop(seat, None)
        while seat.line or (self.common and not seat.retired):
            line = seat.line or self.common
            if spec is not None and is_live(line.head()[1]) and spec_of(line.head()[1]) is not spec:
                break
            entry = line.popleft()
            item = entry[1]
            if self._blocked and line is self.common:
                self._moves_on(item, seat)
            if not self._still_wanted(seat, line, entry):
                continue
            self._count -= 1
            seat.hand = entry
            seat.from_common = line is self.common
            if isinstance(item, Request):
                item.cell = seat.worker
            if self._idle:
                self.pass_on()
            self._make_room()
            return item
        return NOTHING

    def _still_wanted(self, seat: Seat, line: Line, entry: Entry) -> bool:
        item = entry[1]
        if not is_live(item):
            self._count -= 1
            self.mailbox.skipped(entry[1])
            self._forget(entry, line)
        elif line.admission is not None and self._too_late(line.admission, line, entry):
            self._count -= 1
            self._forget(entry, line)
            self._make_room()
        else:
            return line is not self.common or self._claim(seat, entry)
        return False

    def _make_room(self) -> None:
        if self.mailbox.spill is not None:
            self.mailbox.popped()

    def _too_late(self, admission: Admitting, line: Line, entry: Entry) -> bool:
        if not line:
            admission.emptied()  # nobody waits behind it: no standing queue
            return False
        if entry[0] is None:
            return False
        now = trio.current_time()
        waited = now - entry[0]
        if not admission.too_old(waited, now) or type(entry[1]) is not Request:
            return False  # accepted casts are never shed, nor parts of a batch, whose size is its caller's choice
        self._front.shed(entry[1], waited)
        return True

    def put_back(self, seat: Seat) -> None:
        """The worker cannot handle now what it has just taken: others may."""
        entry, seat.hand = seat.hand, None
        assert entry is not None
        self._count += 1
        self._unclaim(seat, entry)
        if seat.from_common:
            self._blocked[seat] = entry[1]
        Backlog._put_first(self, seat, entry)

    def _moves_on(self, item: Queued, taker: Seat | None = None) -> None:
        """A message has left the common line: let those look again that had put it back.

        If they find it there once more, put back by `taker`, they put it back too, and do not let others look again:
        else they would go on for ever.
        """
        if taker is None or self._blocked.pop(taker, None) is not item:
            for seat in [seat for seat, put_back in self._blocked.items() if put_back is item]:
                seat.worker.look_again()

    def hand_back(self, seat: Seat, item: Queued) -> None:
        """The worker has died with a message in hand that is to be handled once more: first, by whoever it is for.

        Called before `crashed`, which lets others have what waits for this worker.
        """
        entry, seat.hand = seat.hand, None
        assert entry is not None
        self._count += 1
        self._put_first(seat, (entry[0], item, entry[2]))

    def _put_first(self, seat: Seat, entry: Entry) -> None:
        line = self.common if seat.from_common else seat.line
        if isinstance(entry[1], Request):
            entry[1].cell = self._front if seat.from_common else seat.worker
        line.put_first(entry)
        self.pass_on()

    def came_back(self, seat: Seat) -> None:
        """What the worker had in hand has been handled, or is lost."""
        seat.hand = None

    # --- for those who have keys ------------------------------------------------------------------

    def _claim(self, seat: Seat, entry: Entry) -> bool:
        """Whether this worker may take an entry of the common line; if not it has been given to who may."""
        return True

    def _unclaim(self, seat: Seat, entry: Entry) -> None:
        """It goes back to where it was."""

    def _forget(self, entry: Entry, line: Line) -> None:
        """An entry has been taken out of a line and will not be handled."""

    # --- messages are taken away ------------------------------------------------------------------

    def popleft(self) -> Queued:
        """Take out, for whoever makes room by dropping the oldest."""
        line = min((line for line in self._lines() if line), key=lambda line: line.oldest())
        return self._drop(line)

    def _drop(self, line: Line) -> Queued:
        entry = line.drop()
        self._count -= 1
        self._forget(entry, line)
        self._moves_on(entry[1])
        return entry[1]

    def clear(self) -> None:
        """Take out everything."""
        self._filter(lambda item: False)

    def sweep(self) -> None:
        """Take out the tombstones."""
        self._filter(is_live)

    def extract(self, seat: Seat | None = None, *, casts: bool = False) -> Sequence[Queued]:
        """Take out all live calls, of one worker's line or of all, and casts if asked; the oldest first."""
        lines = list(self._lines()) if seat is None else [seat.line]
        entries = self._in_order(lines)
        wanted = [entry[1] for entry in entries if is_live(entry[1]) and (casts or not isinstance(entry[1], tuple))]
        self._filter(lambda item: isinstance(item, tuple) and not casts, lines)
        return wanted

    def _filter(self, keep: Callable[[Queued], bool], lines: Iterable[Line] | None = None) -> None:
        dropped: list[tuple[Entry, Line]] = []
        for line in list(self._lines()) if lines is None else lines:
            dropped += [(entry, line) for entry in line.sift(lambda entry: keep(entry[1]))]
        self._count -= len(dropped)
        for entry, line in dropped:
            if not is_live(entry[1]):
                self.mailbox.skipped(entry[1])
            self._forget(entry, line)


# Stands for a message where none is left that anybody wants: the loop skips what waits no more.
_SETTLED = KeyedCast((MessageSpec("(nothing)"), (), {}, NO_BAGGAGE, NEVER), None)
_SETTLED.state = SETTLED
NOTHING = cast("Request", _SETTLED)
