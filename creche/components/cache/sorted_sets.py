"""The commands on sorted sets; see `strings`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from .errors import NotANumber
from .sorted_set import SortedSet
from .store import MEMBER_BYTES, Store

Scored = list[tuple[bytes, float]]


def add(store: Store, key: str, scores: Mapping[bytes, float]) -> int:
    """Give members their scores. How many are new."""
    if not scores:
        return 0
    there = store.open(key, SortedSet)
    new = [member for member, score in scores.items() if there.add(member, score)]
    store.changed(key, _size(new))
    return len(new)


def increase(store: Store, key: str, member: bytes, by: float) -> float:
    """Add to the score of a member, which begins at 0."""
    total = (_found(store, key).score(member) or 0.0) + by
    if math.isnan(total):
        raise NotANumber(key, "two infinities of opposite signs have no sum")
    add(store, key, {member: total})
    return total


def remove(store: Store, key: str, members: Iterable[bytes]) -> int:
    """Take members out. How many there were."""
    there = _found(store, key)
    gone = [member for member in members if there.remove(member)]
    if gone:
        store.changed(key, -_size(gone))
    return len(gone)


def remove_by_rank(store: Store, key: str, start: int, stop: int) -> int:
    """Take out those from rank `start` to `stop`. How many there were."""
    return remove(store, key, [member for member, _ in _found(store, key).by_rank(start, stop)])


def by_rank(store: Store, key: str, start: int, stop: int, reverse: bool) -> Scored:
    """Those from rank `start` to `stop`."""
    return _found(store, key).by_rank(start, stop, reverse=reverse)


def by_score(store: Store, key: str, minimum: float, maximum: float, reverse: bool, limit: int | None) -> Scored:
    """The first `limit` of those with scores from `minimum` to `maximum`."""
    found = _found(store, key).by_score(minimum, maximum)
    return (found[::-1] if reverse else found)[:limit]


def count(store: Store, key: str, minimum: float, maximum: float) -> int:
    """How many have scores from `minimum` to `maximum`."""
    return _found(store, key).count(minimum, maximum)


def score(store: Store, key: str, member: bytes) -> float | None:
    """None if it is no member."""
    return _found(store, key).score(member)


def length(store: Store, key: str) -> int:
    """How many members there are."""
    return len(_found(store, key))


def _found(store: Store, key: str) -> SortedSet:
    found = store.use(key, SortedSet)
    return SortedSet() if found is None else found


def _size(members: Iterable[bytes]) -> int:
    return sum(2 * MEMBER_BYTES + len(member) for member in members)
