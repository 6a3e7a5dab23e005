"""Backlogs that assign messages to workers before these are free: by a policy, and by key.

Theory of operation
-------------------
A message that has been assigned waits in the line of its worker; when that retires, crashes or is stuck, what waits
there goes to others, if the routing allows it.

A key is *bound* to a worker while that worker has it in hand or in its line; then all messages of that key go there.
That alone keeps their order, whatever the policy says meanwhile: when the pool is resized a key moves only when it is
bound no more. A key whose worker retires with it in hand is held until that worker has come back.

What had a worker once and is for whoever is free first now goes to the head of the common line (`_place_again`): it is
older than whatever waits there of its key.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ...runtime.actor import MessageSpec
from ...runtime.envelope import Request
from ...runtime.mailbox import Queued
from .backlog import NO_KEY, Backlog, Seat
from .line import Entry, Line
from .routing import Policy

if TYPE_CHECKING:
    from .front import Front

KeyOf = Callable[[Queued], Hashable]


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
        candidates = self._candidates()
        return self._policy.choose(key, candidates) if candidates else None

    def _candidates(self) -> Sequence[Seat]:
        """Those that do not refuse; all, if all do: then the message is refused for the reason that they have."""
        taking = [seat for seat in self.seats if seat.worker.refusal is None and not seat.retired]
        return taking or [seat for seat in self.seats if not seat.retired]

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

    def yields(self, seat: Seat) -> None:
        """See `Backlog`."""
        super().yields(seat)
        if any(other.up for other in self.seats if other is not seat):
            self._reroute(seat)

    def came_up(self, seat: Seat) -> None:
        """See `Backlog`."""
        for other in self.seats:
            if other.line and not other.up:
                self._reroute(other)

    def _reroute(self, seat: Seat) -> None:
        moving = self._move_out(seat)
        for entry in moving:
            self._place(entry)

    def _move_out(self, seat: Seat) -> list[Entry]:
        return seat.line.sift(lambda entry: entry[2] is NO_KEY)


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

    def for_anybody(self) -> int:
        """See `Backlog`. What is held will be."""
        return len(self.common) + sum(map(len, self._held.values()))

    def _candidates(self) -> Sequence[Seat]:
        """All: a key is not to move because its worker is down for a while."""
        return [seat for seat in self.seats if not seat.retired]

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
        self._one_unbound_more(entry[2])
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
            if key in self._held:
                self._place_again(self._held.pop(key))
                self._front.holds_less()

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
        if seat.batch:
            keys, seat.batch = seat.batch, []
            for key in keys:
                self._release(key)
        if entry is not None and entry[2] is not NO_KEY:
            self._release(entry[2])

    def take_more(self, seat: Seat, spec: MessageSpec | None = None) -> Queued:
        """See `Backlog`."""
        before = seat.hand
        item = super().take_more(seat, spec)
        if before is not None and before is not seat.hand:
            seat.batch.append(before[2])
        return item

    def _in_hand(self, seat: Seat) -> list[Hashable]:
        return seat.batch if seat.hand is None else [*seat.batch, seat.hand[2]]

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
            self._one_unbound_more(entry[2])

    def _one_unbound_more(self, key: Hashable) -> None:
        self._unbound[key] = self._unbound.get(key, 0) + 1

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

    def yields(self, seat: Seat) -> None:
        """See `Backlog`."""
        if self._waits_for_its_worker:
            self.left(seat)
        else:
            super().yields(seat)

    def came_up(self, seat: Seat) -> None:
        """See `Backlog`."""
        if not self._waits_for_its_worker:
            super().came_up(seat)

    def _move_out(self, seat: Seat) -> list[Entry]:
        """What is of a key in its hand stays behind that, unless the worker takes nothing more."""
        stays = [NO_KEY] if seat.retired else [NO_KEY, *self._in_hand(seat)]
        return seat.line.sift(lambda entry: entry[2] in stays)

    def _reroute(self, seat: Seat) -> None:
        """See `RoutedBacklog`."""
        moving = self._move_out(seat)
        for entry in moving:
            self._release(entry[2])
        self._place_again(moving)

    def _place_again(self, entries: Iterable[Entry]) -> None:
        """They had a worker, so they are older than what waits of their keys in the common line."""
        first: list[Entry] = []
        for entry in entries:
            bound = self._bound.get(entry[2])
            if bound is not None:
                self._give(bound.seat, entry)
            elif self._waits_for_its_worker and entry[2] not in self._unbound and self._candidates():
                self._place(entry)
            else:
                first.append(entry)
        for entry in reversed(first):
            self._one_unbound_more(entry[2])
            self.common.put_first(entry)
        self.pass_on()
