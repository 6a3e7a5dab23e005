"""The commands on Bloom filters; see `strings`."""

from __future__ import annotations

from collections.abc import Iterable

from .bloom import Bloom
from .store import Store

# Of a filter that nobody has reserved: RedisBloom's.
ERROR_RATE = 0.01
CAPACITY = 100


def reserve(store: Store, key: str, error_rate: float, capacity: int) -> bool:
    """Make a filter unless there is one."""
    if store.use(key, Bloom) is not None:
        return False
    made = Bloom(error_rate, capacity)
    store.put(key, made)
    store.changed(key, made.memory)
    return True


def add(store: Store, key: str, items: Iterable[bytes]) -> int:
    """Add items, to a small filter if there is none. How many seem to be new."""
    reserve(store, key, ERROR_RATE, CAPACITY)
    there = store.open(key, Bloom)
    before = there.memory
    new = sum([there.add(item) for item in items])
    store.changed(key, there.memory - before)
    return new


def contains(store: Store, key: str, items: Iterable[bytes]) -> list[bool]:
    """Whether each may have been added."""
    there = store.use(key, Bloom)
    return [there is not None and item in there for item in items]
