"""The commands on strings, and those on keys of every kind: functions on a `Store`, which the handle runs.

A backend that is a server has the same commands under the same names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .counting import increased
from .store import NEVER, Facts, Store


def read(store: Store, key: str) -> bytes | None:
    """The string under a key."""
    value = store.use(key, bytes)
    if value is None:
        store.misses += 1
    else:
        store.hits += 1
    return value


def read_many(store: Store, keys: Iterable[str]) -> list[bytes | None]:
    """The strings under several keys."""
    return [read(store, key) for key in keys]


def write(store: Store, key: str, value: bytes, ttl: float, tags: tuple[str, ...] = ()) -> None:
    """Store a string for `ttl` seconds, in place of anything else."""
    drop_at = NEVER if ttl == NEVER else store.clock() + ttl
    store.put(key, value, drop_at, Facts(drop_at, tags, store.stamp) if tags else None)


def write_many(store: Store, values: Mapping[str, bytes], ttl: float, tags: tuple[str, ...] = ()) -> None:
    """Store several strings."""
    for key, value in values.items():
        write(store, key, value, ttl, tags)


def write_if_absent(store: Store, key: str, value: bytes, ttl: float) -> bool:
    """Store a string unless there is anything under the key."""
    if store.find(key) is not None:
        return False
    write(store, key, value, ttl)
    return True


def swap(store: Store, key: str, value: bytes, ttl: float) -> bytes | None:
    """Store a string and return the one before it."""
    record = store.find(key)
    before = None if record is None else store.checked(record, bytes)
    write(store, key, value, ttl)
    return before


def add(store: Store, key: str, by: int) -> int:
    """Add to a decimal number, which begins at 0. Its end stays as it is."""
    record = store.find(key)
    total = increased(key, b"0" if record is None else store.checked(record, bytes), by)
    if record is None:
        store.put(key, b"%d" % total)
    else:
        # As a whole: a value that was loaded is no longer what its load gave, so it is not refreshed early.
        until, facts = record.fresh_until, record.facts
        tags = () if facts is None else facts.tags
        store.put(key, b"%d" % total, until, Facts(until, tags, facts.stamp) if facts is not None and tags else None)
    return total


def remove(store: Store, keys: Iterable[str]) -> int:
    """Delete keys. How many there were."""
    return sum([store.remove(key) for key in keys])


def count_existing(store: Store, keys: Iterable[str]) -> int:
    """How many of the keys there are; one named twice counts twice."""
    return sum(store.find(key) is not None for key in keys)


def expire(store: Store, key: str, ttl: float) -> bool:
    """Let a key end in `ttl` seconds. False if there is no such key."""
    record = store.find(key)
    if record is None:
        return False
    until = NEVER if ttl == NEVER else store.clock() + ttl
    if record.facts is None:
        store.keep_until(record, until)
    else:
        stale_for = record.drop_at - record.facts.fresh_until if record.drop_at != NEVER else 0.0
        record.facts.fresh_until = until
        store.keep_until(record, until + stale_for)
    return True


def time_left(store: Store, key: str) -> float | None:
    """Seconds until a key ends; infinity if it does not. None if there is no such key."""
    record = store.find(key)
    if record is None:
        return None
    until = record.fresh_until
    return NEVER if until == NEVER else max(until - store.clock(), 0.0)


def all_keys(store: Store) -> list[str]:
    """All keys at this moment, some of which may have ended."""
    return list(store.records)


def still_there(store: Store, keys: Iterable[str]) -> list[str]:
    """Those of the keys that there are."""
    return [key for key in keys if store.find(key) is not None]


def invalidate(store: Store, tags: Iterable[str]) -> None:
    """Let whatever carries one of these tags end."""
    store.invalidate(tags)
