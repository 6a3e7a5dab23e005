"""The parts of the handle for values with members: `Cache.hashes`, `Cache.sets`, `Cache.sorted_sets`, `Cache.blooms`.

Each of their methods is atomic, and raises `WrongKind` if the key holds something else, `ValueError` for an empty key,
and the `CallFailed` errors of a cache that is down. A key that is not there is like an empty collection, and one that
becomes empty is not there any more. A collection has no end unless `Cache.expire` gives it one. Fields are text;
members and values are encoded as those of `Cache.set`, and decoded into `type`, by default bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, final, overload

from . import blooms, hashes, sets, sorted_sets
from .access import Access, checked
from .bloom import bits_for

T = TypeVar("T")
Member = str | bytes | int
M = TypeVar("M", bound=Member)


class Namespace:
    """Base of the parts."""

    def __init__(self, access: Callable[[], Access]) -> None:
        self._access = access


@final
class Hashes(Namespace):
    """Values by field."""

    @overload
    async def get(self, key: str, field: str) -> bytes | None: ...

    @overload
    async def get(self, key: str, field: str, *, type: type[T]) -> T | None: ...

    async def get(self, key: str, field: str, *, type: Any = bytes) -> Any:
        """The value of a field, or None. Raises `ValueInvalid` if it cannot be read as a `type`."""
        access = self._access()
        data = await access.run(hashes.get, access.keys.full(key), _field(field))
        return None if data is None else access.codec.decode(key, data, type)

    @overload
    async def get_many(self, key: str, fields: Iterable[str]) -> dict[str, bytes]: ...

    @overload
    async def get_many(self, key: str, fields: Iterable[str], *, type: type[T]) -> dict[str, T]: ...

    async def get_many(self, key: str, fields: Iterable[str], *, type: Any = bytes) -> Any:
        """Those of the fields that there are. Raises `ValueInvalid`."""
        access = self._access()
        found = await access.run(hashes.get_many, access.keys.full(key), list(map(_field, fields)))
        return {field: access.codec.decode(key, data, type) for field, data in found.items()}

    @overload
    async def get_all(self, key: str) -> dict[str, bytes]: ...

    @overload
    async def get_all(self, key: str, *, type: type[T]) -> dict[str, T]: ...

    async def get_all(self, key: str, *, type: Any = bytes) -> Any:
        """All fields. Raises `ValueInvalid`."""
        access = self._access()
        found = await access.run(hashes.get_all, access.keys.full(key))
        return {field: access.codec.decode(key, data, type) for field, data in found.items()}

    async def set(self, key: str, field: str, value: object) -> bool:
        """Store a field. True if it is new."""
        return bool(await self.set_many(key, {field: value}))

    async def set_many(self, key: str, fields: Mapping[str, object]) -> int:
        """Store fields. How many of them are new."""
        access = self._access()
        encoded = {_field(field): access.codec.encode(value) for field, value in fields.items()}
        return await access.run(hashes.write, access.keys.full(key), encoded)

    async def increment(self, key: str, field: str, by: int = 1) -> int:
        """Add to a whole number, which begins at 0, and return it. Raises `NotANumber`."""
        access = self._access()
        return await access.run(hashes.add, access.keys.full(key), _field(field), checked("by", by, int))

    async def delete(self, key: str, *fields: str) -> int:
        """Delete fields. How many there were."""
        access = self._access()
        return await access.run(hashes.remove, access.keys.full(key), list(map(_field, fields)))

    async def exists(self, key: str, field: str) -> bool:
        """Whether there is such a field."""
        access = self._access()
        return await access.run(hashes.contains, access.keys.full(key), _field(field))

    async def length(self, key: str) -> int:
        """How many fields there are."""
        access = self._access()
        return await access.run(hashes.length, access.keys.full(key))


@final
class Sets(Namespace):
    """Members without an order, each once."""

    async def add(self, key: str, *members: object) -> int:
        """Add members. How many of them are new."""
        access = self._access()
        return await access.run(sets.add, access.keys.full(key), list(map(access.codec.encode, members)))

    async def remove(self, key: str, *members: object) -> int:
        """Take members out. How many there were."""
        access = self._access()
        return await access.run(sets.remove, access.keys.full(key), list(map(access.codec.encode, members)))

    @overload
    async def members(self, key: str) -> set[bytes]: ...

    @overload
    async def members(self, key: str, *, type: type[T]) -> set[T]: ...

    async def members(self, key: str, *, type: Any = bytes) -> Any:
        """All members. Raises `ValueInvalid`; a `type` must be hashable."""
        access = self._access()
        found = await access.run(sets.members, access.keys.full(key))
        return {access.codec.decode(key, data, type) for data in found}

    async def contains(self, key: str, member: object) -> bool:
        """Whether it is a member."""
        access = self._access()
        return await access.run(sets.contains, access.keys.full(key), access.codec.encode(member))

    async def length(self, key: str) -> int:
        """How many members there are."""
        access = self._access()
        return await access.run(sets.length, access.keys.full(key))


@final
class SortedSets(Namespace):
    """Members in the order of their scores; those of equal score in that of their bytes. Scores are floats, not NaN."""

    async def add(self, key: str, scores: Mapping[M, float]) -> int:
        """Give members their scores: ``{member: score}``. How many of them are new.

        Raises `ValueError` for NaN, before anything was changed.
        """
        access = self._access()
        encoded = {access.codec.encode(member): _score(score) for member, score in scores.items()}
        return await access.run(sorted_sets.add, access.keys.full(key), encoded)

    async def increment(self, key: str, member: Member, by: float = 1.0) -> float:
        """Add to the score of a member, which begins at 0, and return it.

        Raises `ValueError` if `by` is NaN, and `NotANumber` if the sum would be.
        """
        access = self._access()
        return await access.run(sorted_sets.increase, access.keys.full(key), access.codec.encode(member), _score(by))

    async def remove(self, key: str, *members: Member) -> int:
        """Take members out. How many there were."""
        access = self._access()
        return await access.run(sorted_sets.remove, access.keys.full(key), list(map(access.codec.encode, members)))

    async def remove_by_rank(self, key: str, start: int, stop: int) -> int:
        """Take out those from rank `start` to `stop`, as in `range`. How many there were."""
        access = self._access()
        return await access.run(sorted_sets.remove_by_rank, access.keys.full(key), *_ranks(start, stop))

    @overload
    async def range(
        self, key: str, start: int = 0, stop: int = -1, *, reverse: bool = False
    ) -> list[tuple[bytes, float]]: ...

    @overload
    async def range(
        self, key: str, start: int = 0, stop: int = -1, *, reverse: bool = False, type: type[T]
    ) -> list[tuple[T, float]]: ...

    async def range(self, key: str, start: int = 0, stop: int = -1, *, reverse: bool = False, type: Any = bytes) -> Any:
        """``(member, score)`` from rank `start` to `stop`, *both included*; -1 is the last one.

        `reverse` counts ranks from the highest score. Raises `ValueInvalid`.
        """
        access = self._access()
        found = await access.run(sorted_sets.by_rank, access.keys.full(key), *_ranks(start, stop), reverse)
        return [(access.codec.decode(key, member, type), score) for member, score in found]

    @overload
    async def range_by_score(
        self,
        key: str,
        minimum: float = -math.inf,
        maximum: float = math.inf,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[tuple[bytes, float]]: ...

    @overload
    async def range_by_score(
        self,
        key: str,
        minimum: float = -math.inf,
        maximum: float = math.inf,
        *,
        reverse: bool = False,
        limit: int | None = None,
        type: type[T],
    ) -> list[tuple[T, float]]: ...

    async def range_by_score(
        self,
        key: str,
        minimum: float = -math.inf,
        maximum: float = math.inf,
        *,
        reverse: bool = False,
        limit: int | None = None,
        type: Any = bytes,
    ) -> Any:
        """``(member, score)`` with scores from `minimum` to `maximum`, both included, at most `limit` of them.

        `reverse` begins with the highest score. Raises `ValueInvalid`.
        """
        access = self._access()
        bounds = (_score(minimum), _score(maximum))
        if limit is not None and checked("limit", limit, int) < 0:
            raise ValueError(f"limit = {limit}: 0 or more, or None")
        found = await access.run(sorted_sets.by_score, access.keys.full(key), *bounds, reverse, limit)
        return [(access.codec.decode(key, member, type), score) for member, score in found]

    async def length(self, key: str) -> int:
        """How many members there are."""
        access = self._access()
        return await access.run(sorted_sets.length, access.keys.full(key))

    async def count(self, key: str, minimum: float = -math.inf, maximum: float = math.inf) -> int:
        """How many members have scores from `minimum` to `maximum`, both included."""
        access = self._access()
        return await access.run(sorted_sets.count, access.keys.full(key), _score(minimum), _score(maximum))

    async def score(self, key: str, member: Member) -> float | None:
        """The score of a member; None if it is none."""
        access = self._access()
        return await access.run(sorted_sets.score, access.keys.full(key), access.codec.encode(member))


@final
class Blooms(Namespace):
    """Bloom filters: whether something *may* have been added, in a fraction of its memory. It is never a wrong no.

    A filter that has gone, because it was evicted or the cache has crashed, says no to everything.
    """

    async def reserve(self, key: str, *, error_rate: float, capacity: int) -> bool:
        """Make a filter that says a wrong yes with a probability of `error_rate`, with room for `capacity` items.

        One that gets more items grows and keeps the rate. False if there is a filter already, which is left as it is.
        Raises `ValueError` for a rate that is not between 0 and 1, for no room, and for more than fits into 512 MiB.
        """
        if not 0 < error_rate < 1:
            raise ValueError(f"error_rate = {error_rate!r}: more than 0 and less than 1")
        if checked("capacity", capacity, int) < 1:
            raise ValueError(f"capacity = {capacity!r}: 1 or more")
        if bits_for(error_rate, capacity) > _MOST_BITS:
            raise ValueError(f"capacity = {capacity!r} at a rate of {error_rate!r} takes more than 512 MiB")
        access = self._access()
        return await access.run(blooms.reserve, access.keys.full(key), error_rate, capacity)

    async def add(self, key: str, *items: object) -> int:
        """Add items. How many seem to be new. Without `reserve`, the filter is one for 100 items at a rate of 0.01."""
        access = self._access()
        return await access.run(blooms.add, access.keys.full(key), list(map(access.codec.encode, items)))

    async def contains(self, key: str, item: object) -> bool:
        """Whether it may have been added."""
        (answer,) = await self.contains_many(key, [item])
        return answer

    async def contains_many(self, key: str, items: Iterable[object]) -> list[bool]:
        """Whether each may have been added, in the order of the items."""
        access = self._access()
        return await access.run(blooms.contains, access.keys.full(key), list(map(access.codec.encode, items)))


_MOST_BITS = 2**32  # the longest string of Redis


def _field(field: str) -> str:
    return checked("field", field, str)


def _ranks(start: int, stop: int) -> tuple[int, int]:
    return checked("start", start, int), checked("stop", stop, int)


def _score(score: float) -> float:
    score = float(score)
    if math.isnan(score):
        raise ValueError("a score must be a number, not NaN")
    return score
