"""Members in the order of their scores."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import final


@final
class SortedSet:
    """Each member once; equal scores are ordered by member, byte by byte.

    A list that is kept sorted: a change moves what is behind it, which is quick (a memmove) up to about 10^5 members.
    """

    __slots__ = ("_order", "_scores")

    def __init__(self) -> None:
        self._order: list[tuple[float, bytes]] = []
        self._scores: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._order)

    def score(self, member: bytes) -> float | None:
        """None if it is no member."""
        return self._scores.get(member)

    def add(self, member: bytes, score: float) -> bool:
        """Give a member a score. True if it is new."""
        known = self._scores.get(member)
        if known is not None:
            del self._order[bisect_left(self._order, (known, member))]
        self._scores[member] = score
        insort(self._order, (score, member))
        return known is None

    def remove(self, member: bytes) -> bool:
        """False if it was no member."""
        score = self._scores.pop(member, None)
        if score is None:
            return False
        del self._order[bisect_left(self._order, (score, member))]
        return True

    def by_rank(self, start: int, stop: int, *, reverse: bool = False) -> list[tuple[bytes, float]]:
        """From rank `start` to `stop`, both included; negative ones count from the end."""
        first, beyond = self._ranks(start, stop)
        size = len(self._order)
        chosen = self._order[size - beyond : size - first][::-1] if reverse else self._order[first:beyond]
        return [(member, score) for score, member in chosen]

    def by_score(self, minimum: float, maximum: float) -> list[tuple[bytes, float]]:
        """Those with scores from `minimum` to `maximum`, both included."""
        first, beyond = self._bounds(minimum, maximum)
        return [(member, score) for score, member in self._order[first:beyond]]

    def count(self, minimum: float, maximum: float) -> int:
        """How many `by_score` would give."""
        first, beyond = self._bounds(minimum, maximum)
        return max(beyond - first, 0)

    def _ranks(self, start: int, stop: int) -> tuple[int, int]:
        size = len(self._order)
        first = max(start + size, 0) if start < 0 else start
        last = stop + size if stop < 0 else stop
        first = min(first, size)
        return first, max(min(last + 1, size), first)

    def _bounds(self, minimum: float, maximum: float) -> tuple[int, int]:
        return bisect_left(self._order, (minimum, b"")), bisect_right(self._order, maximum, key=lambda item: item[0])
