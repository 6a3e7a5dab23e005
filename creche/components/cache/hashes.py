"""The commands on hashes; see `strings`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from .counting import increased
from .store import MEMBER_BYTES, Store

Hash = dict[str, bytes]


def get(store: Store, key: str, field: str) -> bytes | None:
    """The value of a field."""
    return _found(store, key).get(field)


def get_many(store: Store, key: str, fields: Iterable[str]) -> Hash:
    """Those of the fields that there are."""
    found = _found(store, key)
    return {field: found[field] for field in fields if field in found}


def get_all(store: Store, key: str) -> Hash:
    """All fields."""
    return dict(_found(store, key))


def write(store: Store, key: str, fields: Mapping[str, bytes]) -> int:
    """Store fields. How many are new."""
    if not fields:
        return 0
    there = cast("Hash", store.open(key, dict))
    before = len(there)
    grown = sum(_size(field, value) - _size(field, there.get(field)) for field, value in fields.items())
    there.update(fields)
    store.changed(key, grown)
    return len(there) - before


def add(store: Store, key: str, field: str, by: int) -> int:
    """Add to a decimal number, which begins at 0."""
    total = increased(f"{key}[{field}]", _found(store, key).get(field, b"0"), by)
    write(store, key, {field: b"%d" % total})
    return total


def remove(store: Store, key: str, fields: Iterable[str]) -> int:
    """Delete fields. How many there were."""
    there = _found(store, key)
    gone = [(field, value) for field in fields if (value := there.pop(field, None)) is not None]
    if gone:
        store.changed(key, -sum(_size(field, value) for field, value in gone))
    return len(gone)


def length(store: Store, key: str) -> int:
    """How many fields there are."""
    return len(_found(store, key))


def contains(store: Store, key: str, field: str) -> bool:
    """Whether there is such a field."""
    return field in _found(store, key)


def _found(store: Store, key: str) -> Hash:
    return cast("Hash | None", store.use(key, dict)) or {}


def _size(field: str, value: bytes | None) -> int:
    return 0 if value is None else MEMBER_BYTES + len(field) + len(value)
