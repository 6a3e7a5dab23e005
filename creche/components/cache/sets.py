"""The commands on sets; see `strings`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from .store import MEMBER_BYTES, Store


def add(store: Store, key: str, members: Iterable[bytes]) -> int:
    """Add members. How many are new."""
    added = set(members)
    if not added:
        return 0
    there = cast("set[bytes]", store.open(key, set))
    new = added - there
    there |= new
    store.changed(key, _size(new))
    return len(new)


def remove(store: Store, key: str, members: Iterable[bytes]) -> int:
    """Take members out. How many there were."""
    there = _found(store, key)
    gone = there.intersection(members)
    if gone:
        there -= gone
        store.changed(key, -_size(gone))
    return len(gone)


def members(store: Store, key: str) -> set[bytes]:
    """All members."""
    return set(_found(store, key))


def contains(store: Store, key: str, member: bytes) -> bool:
    """Whether it is a member."""
    return member in _found(store, key)


def length(store: Store, key: str) -> int:
    """How many members there are."""
    return len(_found(store, key))


def _found(store: Store, key: str) -> set[bytes]:
    return cast("set[bytes] | None", store.use(key, set)) or set()


def _size(members: Iterable[bytes]) -> int:
    return sum(MEMBER_BYTES + len(member) for member in members)
