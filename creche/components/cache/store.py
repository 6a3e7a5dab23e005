"""The entries of the embedded cache: what is there, until when, and what has to go when it is full.

Theory of operation
-------------------
A `Record` is what is kept under a key: a string (bytes), a hash, a set and so on. The commands (`strings`, `hashes`,
...) are functions on a store; they find records here, change their values, and say so.

*Time.* Records expire when they are looked at, exactly. To free the memory of those that nobody looks at, a heap calls
them at the next full second. A record that was loaded may be kept beyond its logical end, as a stale one: `fresh_until`
is when it ends for everybody, `drop_at` when it goes. `find` gives only what has not ended; `peek` also what is stale.

*Tags.* To invalidate a tag is to raise its barrier: one number, whatever carries the tag. A record remembers the stamp
of the time when it was made (for one that was loaded: when its load began), and is invalid if any of its tags has a
later barrier. The clock of stamps and barriers is a counter. A barrier is kept for as long as anything carries the tag.

*Guards.* A load that is under way holds a guard on its key. It is broken when the key is written or deleted meanwhile:
what the load has read may be what was there before, so it must not be stored.

Nothing here awaits, so each command is atomic. All times are in seconds of `clock`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any, TypeVar, final

from ...runtime.deadlines import Deadlines
from .bloom import Bloom
from .errors import Kind, WrongKind
from .eviction import Randomness, Resident, TinyLfu
from .sorted_set import SortedSet

T = TypeVar("T")

NEVER = math.inf
# What a record takes in memory besides its key and its value, about; and each member of a collection.
_RECORD_BYTES = 450
MEMBER_BYTES = 120


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of a cache since its incarnation began.

    `entries` and `bytes` are there now (`bytes` is 0 unless the cache is bounded by them). `hits` and `misses` count
    reads of strings; `loads` those that were begun, `load_failures` those that failed; `stale` the answers that were
    out of date because a load was slow or had failed; `evicted` what had to go because the cache was full, `expired`
    what went when its time was up.
    """

    entries: int
    bytes: int
    hits: int
    misses: int
    loads: int
    load_failures: int
    stale: int
    evicted: int
    expired: int

    @property
    def hit_ratio(self) -> float:
        """Hits of all reads; 0 if there were none."""
        return self.hits / max(self.hits + self.misses, 1)


@dataclass(slots=True)
class Facts:
    """What is known of an entry besides its value.

    `cost` is how many seconds its load took; `retry_at` when the next load may be tried, after one that failed;
    `negative` says that there is nothing, which is known.
    """

    fresh_until: float
    tags: tuple[str, ...] = ()
    stamp: int = 0
    cost: float = 0.0
    retry_at: float = 0.0
    negative: bool = False


@final
class Record(Resident):
    """An entry."""

    __slots__ = ("_home", "alarm", "drop_at", "facts", "value")
    place = ""  # part of `Expiring`: in the heap, where it was put

    def __init__(self, key: str, weight: int, home: Store) -> None:
        super().__init__(key, weight)
        self._home: Store | None = home
        self.value: Any = b""
        self.drop_at = NEVER
        self.alarm = NEVER  # when the heap calls
        self.facts: Facts | None = None

    @property
    def fresh_until(self) -> float:
        """When it ends for everybody."""
        return self.drop_at if self.facts is None else self.facts.fresh_until

    @property
    def negative(self) -> bool:
        """Whether it says that there is nothing."""
        return self.facts is not None and self.facts.negative

    def live(self) -> bool:
        """Part of `Expiring`."""
        return self._home is not None

    def expire(self, now: float) -> None:
        """Part of `Expiring`."""
        if self._home is not None:
            self._home.called(self, now)

    def leave(self) -> None:
        """It is no entry any more."""
        self._home = None


@final
class Guard:
    """Whether a key has been left alone since a load of it began."""

    __slots__ = ("intact",)

    def __init__(self) -> None:
        self.intact = True


class Store:
    """See above. `max_bytes`, if given, bounds it instead of `max_entries`."""

    def __init__(
        self, clock: Callable[[], float], random: Randomness, max_entries: int, max_bytes: int | None = None
    ) -> None:
        self.clock = clock
        self.deadlines = Deadlines()
        self.hits = self.misses = self.loads = self.load_failures = self.stale = 0
        self.records: dict[str, Record] = {}
        self._by_bytes = max_bytes is not None
        self._policy = TinyLfu(max_entries if max_bytes is None else max_bytes, random)
        self._guards: dict[str, Guard] = {}
        self._stamp = 0
        self._barriers: dict[str, int] = {}
        self._carriers: dict[str, int] = {}  # {tag: how many records and loads have it}
        self._evicted = self._expired = 0

    def __repr__(self) -> str:
        return f"<Store of {len(self.records)} entries>"

    def statistics(self) -> Statistics:
        """What has happened so far."""
        return Statistics(
            entries=len(self.records),
            bytes=self._policy.weight if self._by_bytes else 0,
            hits=self.hits,
            misses=self.misses,
            loads=self.loads,
            load_failures=self.load_failures,
            stale=self.stale,
            evicted=self._evicted,
            expired=self._expired,
        )

    # --- looking --------------------------------------------------------------------------------------------------

    def peek(self, key: str) -> Record | None:
        """What is kept under a key, stale or not, unless it has been invalidated."""
        record = self.records.get(key)
        if record is None:
            return None
        if record.drop_at != NEVER and record.drop_at <= self.clock():
            self._expired += 1
        elif record.facts is None or not record.facts.tags or self.is_valid(record.facts.tags, record.facts.stamp):
            return record
        self._drop(record)
        return None

    def find(self, key: str) -> Record | None:
        """What is there for everybody."""
        record = self.peek(key)
        if record is None or record.facts is None:
            return record
        return None if record.negative or record.fresh_until <= self.clock() else record

    def use(self, key: str, kind: type[T]) -> T | None:
        """The value of that kind under a key, which counts as a use of it. Raises `WrongKind`."""
        record = self.find(key)
        if record is None:
            return None
        self._policy.touch(record)
        return self.checked(record, kind)

    def checked(self, record: Record, kind: type[T]) -> T:
        """The record's value. Raises `WrongKind` if it is of another kind."""
        value = record.value
        if type(value) is not kind:
            raise WrongKind(record.key, _KINDS[type(value)], _KINDS[kind])
        return value

    def touch(self, record: Record) -> None:
        """It was used."""
        self._policy.touch(record)

    # --- writing --------------------------------------------------------------------------------------------------

    def put(self, key: str, value: object, drop_at: float = NEVER, facts: Facts | None = None) -> None:
        """Keep `value` under a key, in place of whatever is there."""
        self.break_guard(key)
        record = self.records.get(key)
        if record is None:
            self._insert(key, value, drop_at, facts)
            return
        self._let_go(record.facts)
        record.value, record.facts = value, facts
        self._hold(facts)
        self.keep_until(record, drop_at)
        self._policy.touch(record)
        if self._by_bytes:
            self._forget(self._policy.resize(record, self._weigh(key, value)))

    def open(self, key: str, kind: type[T]) -> T:
        """The collection of that kind under a key, made if there is nothing; tell `changed` of its change.

        Raises `WrongKind`.
        """
        record = self.find(key)
        if record is None:
            made = kind()
            self.put(key, made)
            return made
        self._policy.touch(record)
        return self.checked(record, kind)

    def changed(self, key: str, grown_by: int = 0) -> None:
        """The collection under a key has been changed in place and takes so many more bytes. An empty one goes."""
        self.break_guard(key)
        record = self.records.get(key)
        if record is None:
            return  # it was too large to be kept at all
        if isinstance(record.value, Sized) and not len(record.value):
            self._drop(record)
        elif self._by_bytes and grown_by:
            self._forget(self._policy.resize(record, record.weight + grown_by))

    def remove(self, key: str) -> bool:
        """Delete a key. False if there was nothing, as far as anybody could see."""
        self.break_guard(key)
        there = self.find(key) is not None
        record = self.records.get(key)
        if record is not None:
            self._drop(record)
        return there

    def keep_until(self, record: Record, drop_at: float) -> None:
        """Let a record go at another time."""
        record.drop_at = drop_at
        if drop_at < record.alarm:
            # Full seconds: whatever expires within one costs one wakeup.
            record.alarm = float(math.ceil(drop_at))
            self.deadlines.push(record.alarm, record)

    def called(self, record: Record, now: float) -> None:
        """The heap calls."""
        if record.drop_at <= now:
            self._expired += 1
            self._drop(record, in_heap=False)
        elif record.alarm <= now:
            record.alarm = NEVER
            self.keep_until(record, record.drop_at)

    def _insert(self, key: str, value: object, drop_at: float, facts: Facts | None) -> None:
        record = self.records[key] = Record(key, self._weigh(key, value), self)
        record.value, record.facts = value, facts
        self._hold(facts)
        self.keep_until(record, drop_at)
        self._forget(self._policy.add(record))

    def _forget(self, evicted: Iterable[Resident]) -> None:
        for resident in evicted:
            self._evicted += 1
            self._drop(self.records[resident.key])

    def _drop(self, record: Record, *, in_heap: bool = True) -> None:
        del self.records[record.key]
        record.leave()
        self._policy.remove(record)
        self._let_go(record.facts)
        if in_heap and record.alarm != NEVER:
            self.deadlines.note_dead()

    def _weigh(self, key: str, value: object) -> int:
        return _RECORD_BYTES + len(key) + size_of(value) if self._by_bytes else 1

    # --- tags and guards ------------------------------------------------------------------------------------------

    @property
    def stamp(self) -> int:
        """The time, for tags."""
        return self._stamp

    def carry(self, tags: Iterable[str]) -> None:
        """Somebody has these tags now."""
        for tag in tags:
            self._carriers[tag] = self._carriers.get(tag, 0) + 1

    def uncarry(self, tags: Iterable[str]) -> None:
        """And now no more."""
        for tag in tags:
            self._carriers[tag] -= 1
            if not self._carriers[tag]:
                del self._carriers[tag]
                self._barriers.pop(tag, None)

    def invalidate(self, tags: Iterable[str]) -> None:
        """Nothing that carries one of these tags is valid any more."""
        self._stamp += 1
        for tag in tags:
            if tag in self._carriers:
                self._barriers[tag] = self._stamp

    def guard(self, key: str) -> Guard:
        """Tells whether the key is written or deleted from now on. Broken by the caller's own `put` as well."""
        return self._guards.setdefault(key, Guard())

    def unguard(self, key: str, guard: Guard) -> None:
        """Whoever held it is done."""
        if self._guards.get(key) is guard:
            del self._guards[key]

    def break_guard(self, key: str) -> None:
        """Whatever is being loaded for this key is outdated."""
        if self._guards:
            guard = self._guards.pop(key, None)
            if guard is not None:
                guard.intact = False

    def is_valid(self, tags: Iterable[str], stamp: int) -> bool:
        """Whether none of these tags has been invalidated since."""
        barriers = self._barriers
        return not barriers or all(barriers.get(tag, 0) <= stamp for tag in tags)

    def _hold(self, facts: Facts | None) -> None:
        if facts is not None and facts.tags:
            self.carry(facts.tags)

    def _let_go(self, facts: Facts | None) -> None:
        if facts is not None and facts.tags:
            self.uncarry(facts.tags)


_KINDS: dict[type, Kind] = {bytes: "string", dict: "hash", set: "set", SortedSet: "sorted_set", Bloom: "bloom"}


def size_of(value: Any) -> int:
    """Of a string; collections begin empty and tell their growth."""
    return len(value) if isinstance(value, bytes) else 0
