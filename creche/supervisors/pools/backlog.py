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
others are idle.

Keys (`KeyedBacklog`): a key is *bound* to a worker while that worker has it in hand or in its line; then all messages
of that key go there. That alone keeps their order, whatever the policy says meanwhile: when the pool is resized a key
moves only when it is bound no more. A key whose worker retires with it in hand is held until that worker has come back.
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
from .routing import Policy

if TYPE_CHECKING:
    from .admission import Admitting
    from .front import Front
    from .worker import WorkerCell

WAKES = 2
NO_KEY = object()  # of what was sent to one worker: it is for nobody else
KeyOf = Callable[[Queued], Hashable]


class Seat:
    """A worker's place in the backlog."""

    __slots__ = ("aimed", "from_common", "hand", "line", "name", "retired", "worker")

    def __init__(self, worker: WorkerCell, line: Line) -> None:
        self.worker = worker
        self.name = worker.name
        self.line = line
        self.hand: Entry | None = None  # taken, and the worker has not come back for the next
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
        self._idle.pop(seat, None)
        if not seat.retired:
            self._idle[seat] = None

    def left(self, seat: Seat) -> None:
        """The worker will not come for the next message, or not soon: somebody else must."""
        self._idle.pop(seat, None)
        self._woken.pop(seat, None)
        self.pass_on()

    def crashed(self, seat: Seat) -> None:
        """Its incarnation has ended, and with it what was in its hand."""
        self.came_back(seat)
        self.left(seat)

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
        (self.common if seat.from_common else seat.line).put_first(entry)
        self.pass_on()

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
        entry = line.drop()
        self._count -= 1
        self._forget(entry, line)
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
            dropped += [(entry, line) for entry in line if not keep(entry[1])]
            line.refill([entry for entry in line if keep(entry[1])])
        self._count -= len(dropped)
        for entry, line in dropped:
            if not is_live(entry[1]):
                self.mailbox.skipped(entry[1])
            self._forget(entry, line)


class Bound:
    """A key that has a worker: how much of it that worker has in hand and in its line."""

    __slots__ = ("count", "seat")

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.count = 0


class RoutedBacklog(Backlog):
    """A backlog whose messages are assigned by a policy."""

    def __init__(self, front: Front, new_line: Callable[[], Line], policy: Policy[Seat]) -> None:
        super().__init__(front, new_line)
        self._policy = policy

    def target(self, item: Queued) -> Seat | None:
        """See `Backlog`."""
        return self._chosen(None)

    def append(self, item: Queued, /) -> None:
        """See `Backlog`."""
        self._count += 1
        seat = self._front.seat_of(item)
        self._place((self._now(), item, None), seat)

    def _chosen(self, key: Hashable) -> Seat | None:
        open_seats = [seat for seat in self.seats if not seat.retired]
        return self._policy.choose(key, open_seats) if open_seats else None

    def _place(self, entry: Entry, seat: Seat | None = None) -> None:
        if seat is None or seat.retired:
            seat = self._chosen(entry[2])
        if seat is None:
            self._append_common(entry)
        else:
            self._assign(seat, entry)

    def _assign(self, seat: Seat, entry: Entry) -> None:
        seat.line.append(entry)
        item = entry[1]
        if isinstance(item, Request):
            item.cell = seat.worker
        if seat in self._idle and seat.worker.wake_if_hungry():
            del self._idle[seat]

    def _put_first(self, seat: Seat, entry: Entry) -> None:
        """See `Backlog`. Into its own line: from there it goes to others together with what waits for this worker."""
        if isinstance(entry[1], Request):
            entry[1].cell = seat.worker
        seat.line.put_first(entry)
        if seat.retired:
            self._reroute(seat)

    def retire(self, seat: Seat) -> None:
        """See `Backlog`."""
        super().retire(seat)
        self._reroute(seat)

    def crashed(self, seat: Seat) -> None:
        """See `Backlog`: what was assigned to it goes to others, if there are any."""
        super().crashed(seat)
        if any(other.up for other in self.seats):
            self._reroute(seat)

    def _reroute(self, seat: Seat) -> None:
        moving = self._move_out(seat)
        for entry in moving:
            self._place(entry)

    def _move_out(self, seat: Seat) -> list[Entry]:
        entries = list(seat.line)
        seat.line.refill(entry for entry in entries if entry[2] is NO_KEY)
        return [entry for entry in entries if entry[2] is not NO_KEY]


class KeyedBacklog(RoutedBacklog):
    """A backlog in which messages of one key are handled one after the other, in order."""

    def __init__(
        self,
        front: Front,
        new_line: Callable[[], Line],
        policy: Policy[Seat],
        key_of: KeyOf,
        *,
        waits_for_its_worker: bool,
    ) -> None:
        super().__init__(front, new_line, policy)
        self._key_of = key_of
        self._waits_for_its_worker = waits_for_its_worker  # also while it is down
        self._bound: dict[Hashable, Bound] = {}
        self._unbound: dict[Hashable, int] = {}  # how many wait in the common line
        self._held: dict[Hashable, Line] = {}  # until the retired worker that has the key in hand has come back

    def _lines(self) -> Iterator[Line]:
        yield from super()._lines()
        yield from self._held.values()

    def target(self, item: Queued) -> Seat | None:
        """See `RoutedBacklog`. Raises whatever the key function does."""
        key = self._key_of(item)
        bound = self._bound.get(key)
        return self._chosen(key) if bound is None else bound.seat

    def append(self, item: Queued, /) -> None:
        """See `Backlog`. Its key has been looked at before: see `target`."""
        self._count += 1
        self._place((self._now(), item, self._key_of(item)))

    def _place(self, entry: Entry, seat: Seat | None = None) -> None:
        key = entry[2]
        bound = self._bound.get(key)
        if key in self._unbound:
            self._append_common(entry)  # behind those of its key that wait there
        elif bound is None:
            super()._place(entry)
        else:
            self._give(bound.seat, entry)

    def _give(self, seat: Seat, entry: Entry) -> None:
        if seat.retired:
            self._held.setdefault(entry[2], Line()).append(entry)
        else:
            self._assign(seat, entry)

    def _assign(self, seat: Seat, entry: Entry) -> None:
        self._bind(entry[2], seat)
        super()._assign(seat, entry)

    def _append_common(self, entry: Entry) -> None:
        self._unbound[entry[2]] = self._unbound.get(entry[2], 0) + 1
        super()._append_common(entry)

    def _bind(self, key: Hashable, seat: Seat) -> None:
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = Bound(seat)
        bound.count += 1

    def _release(self, key: Hashable) -> None:
        """One message less that binds a key. What was held for it may go on when there is none left."""
        bound = self._bound.get(key)
        if bound is None:
            return
        bound.count -= 1
        if not bound.count:
            del self._bound[key]
            for entry in self._held.pop(key, ()):
                self._place(entry)

    def _put_first(self, seat: Seat, entry: Entry) -> None:
        """See `RoutedBacklog`. It binds its key to this worker as it did in its hand."""
        if seat.retired and entry[2] is not NO_KEY:
            self._held.setdefault(entry[2], Line()).put_first(entry)
            self._release(entry[2])
        else:
            super()._put_first(seat, entry)

    def came_back(self, seat: Seat) -> None:
        """See `Backlog`."""
        entry, seat.hand = seat.hand, None
        if entry is not None and entry[2] is not NO_KEY:
            self._release(entry[2])

    def take_more(self, seat: Seat, spec: MessageSpec | None = None) -> Queued:
        """See `Backlog`. Of several that are taken together the last one stands for all."""
        before = seat.hand
        item = super().take_more(seat, spec)
        if before is not None and before is not seat.hand and before[2] is not NO_KEY:
            self._release(before[2])
        return item

    def _claim(self, seat: Seat, entry: Entry) -> bool:
        """See `Backlog`."""
        self._one_unbound_less(entry[2])
        bound = self._bound.get(entry[2])
        if bound is None or bound.seat is seat:
            self._bind(entry[2], seat)
            return True
        self._give(bound.seat, entry)
        return False

    def _unclaim(self, seat: Seat, entry: Entry) -> None:
        """See `Backlog`."""
        if seat.from_common:
            self._release(entry[2])
            self._unbound[entry[2]] = self._unbound.get(entry[2], 0) + 1

    def _one_unbound_less(self, key: Hashable) -> None:
        left = self._unbound.get(key, 0) - 1
        if left > 0:
            self._unbound[key] = left
        else:
            self._unbound.pop(key, None)

    def _forget(self, entry: Entry, line: Line) -> None:
        """See `Backlog`."""
        if line is self.common:
            self._one_unbound_less(entry[2])
        elif entry[2] is not NO_KEY and line is not self._held.get(entry[2]):
            self._release(entry[2])

    def crashed(self, seat: Seat) -> None:
        """See `Backlog`."""
        if self._waits_for_its_worker:
            Backlog.crashed(self, seat)
        else:
            super().crashed(seat)

    def _reroute(self, seat: Seat) -> None:
        """See `RoutedBacklog`. To the head of the common line go those that anybody may take."""
        moving = self._move_out(seat)
        for entry in moving:
            self._release(entry[2])
        if self._waits_for_its_worker:
            for entry in moving:
                self._place(entry)
            return
        for entry in reversed(moving):
            if entry[2] in self._bound:  # in the hand of one that retires
                self._held.setdefault(entry[2], Line()).appendleft(entry)
            else:
                self._unbound[entry[2]] = self._unbound.get(entry[2], 0) + 1
                self.common.put_first(entry)
        self.pass_on()


# Stands for a message where none is left that anybody wants: the loop skips what waits no more.
_SETTLED = KeyedCast((MessageSpec("(nothing)"), (), {}, NO_BAGGAGE, NEVER), None)
_SETTLED.state = SETTLED
NOTHING = cast("Request", _SETTLED)
