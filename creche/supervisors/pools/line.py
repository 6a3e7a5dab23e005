"""One line of waiting messages: first come, first served; or by priority, with bounded starvation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from math import inf
from typing import Any

from ...runtime.mailbox import Queued
from .admission import Admitting

Entry = tuple[float | None, Queued, Hashable]  # since when it waits, the message, its key. See `shared` for None
Rank = Callable[[Queued], int]

FAIR_TURN = 8  # one of so many messages that are taken is the oldest, whatever its class


class Line(deque[Entry]):
    """First come, first served. `admission` judges what is taken from it; None: nothing is too old."""

    def __init__(self, admission: Admitting | None = None, entries: Iterable[Entry] = ()) -> None:
        super().__init__(entries)
        self.admission = admission

    def head(self) -> Entry:
        """What `popleft` would take."""
        return self[0]

    def oldest(self) -> float:
        """Since when the one that has waited longest waits; infinity if that is not known."""
        return inf if self[0][0] is None else self[0][0]

    def drop(self) -> Entry:
        """Take out what can be missed best: the oldest."""
        return self.popleft()

    def sift(self, keep: Callable[[Entry], bool]) -> list[Entry]:
        """Take out all but those that are to be kept, and return them, in order."""
        entries = list(self)
        self.clear()
        self.extend(entry for entry in entries if keep(entry))
        return [entry for entry in entries if not keep(entry)]

    def put_first(self, entry: Entry) -> None:
        """Return what has just been taken, or what had its turn elsewhere."""
        self.appendleft(entry)


class PriorityLine(Line):
    """Classes, each first come, first served; the most urgent one first.

    Of each `FAIR_TURN` messages that are taken one is the oldest of all classes: a message that `n` older ones wait
    before is taken after `FAIR_TURN * (n + 1)` others at most.
    """

    def __init__(self, rank: Rank, classes: int, admission: Admitting | None = None) -> None:
        super().__init__(admission)
        self._rank = rank
        self._classes = [deque[Entry]() for _ in range(classes)]
        self._taken = 0

    def __len__(self) -> int:
        return sum(map(len, self._classes))

    def __bool__(self) -> bool:
        return any(self._classes)

    def __iter__(self) -> Iterator[Entry]:
        for entries in self._classes:
            yield from entries

    def append(self, x: Entry, /) -> None:
        """See `deque`."""
        self._classes[self._rank(x[1])].append(x)

    def put_first(self, entry: Entry) -> None:
        """See `Line`."""
        self._classes[self._rank(entry[1])].appendleft(entry)

    def head(self) -> Entry:
        """See `Line`."""
        return self._next()[0]

    def oldest(self) -> float:
        """See `Line`."""
        return _since(self._eldest())

    def popleft(self) -> Entry:
        """See `deque`."""
        entries = self._next()
        self._taken += 1
        return entries.popleft()

    def drop(self) -> Entry:
        """See `Line`: the oldest of the least urgent class that waits."""
        return next(entries for entries in reversed(self._classes) if entries).popleft()

    def clear(self) -> None:
        """See `deque`."""
        for entries in self._classes:
            entries.clear()

    def extend(self, iterable: Iterable[Entry], /) -> None:
        """See `deque`."""
        for entry in iterable:
            self.append(entry)

    def _next(self) -> deque[Entry]:
        if self._taken % FAIR_TURN == FAIR_TURN - 1:
            return self._eldest()
        return next(entries for entries in self._classes if entries)

    def _eldest(self) -> deque[Entry]:
        return min((entries for entries in reversed(self._classes) if entries), key=_since)


def _since(entries: deque[Entry]) -> float:
    return entries[0][0] or 0.0


def arguments_of(item: Queued) -> tuple[tuple[Any, ...], Any]:
    """What the functions of a pool, its keys and priorities, are given."""
    return (item[1], item[2]) if isinstance(item, tuple) else (item.args, item.kwargs)
