"""The cache against a plain model of it: random histories in virtual time must look the same.

On every backend whose time is virtual, for the model's is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from creche.components import cache as c

from .support import BACKENDS, Backend, Boom

STALE_FOR, RETRY_AFTER = 4.0, 2.0
POLICY = c.LoadPolicy(jitter=0, early=0, stale_for=STALE_FOR, retry_after=RETRY_AFTER)
KINDS: dict[type, Any] = {str: "string", dict: "hash", set: "set", tuple: "sorted_set"}


@dataclass
class Entry:
    value: Any  # text, a dict, a set, or ({member: score},)
    end: float = math.inf
    tags: frozenset[str] = frozenset()
    drop: float = math.inf
    retry_at: float = 0.0
    negative: bool = False


@dataclass
class Model:
    """What a cache is: a dictionary, and a clock that the test moves on."""

    now: float = 0.0
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])

    def entry(self, key: str, kind: type | None = None) -> Entry | None:
        entry = self.entries.get(key)
        if entry is None or entry.end <= self.now or entry.negative:
            return None
        if kind is not None and type(entry.value) is not kind:
            raise c.WrongKind(key, KINDS[type(entry.value)], KINDS[kind])
        return entry

    def value(self, key: str, kind: type) -> Any:
        entry = self.entry(key, kind)
        return kind() if entry is None else entry.value

    def collection(self, key: str, kind: type, empty: Any) -> Any:
        if self.entry(key, kind) is None:
            self.entries[key] = Entry(empty)
        return self.entries[key].value

    def tidy(self, key: str) -> None:
        value = self.entries[key].value
        if not value or value == ({},):
            del self.entries[key]

    def put(self, key: str, value: Any, ttl: float, tags: frozenset[str] = frozenset()) -> None:
        self.entries[key] = Entry(value, self.now + ttl, tags, self.now + ttl)

    # --- strings

    def get(self, key: str) -> str | None:
        entry = self.entry(key, str)
        return None if entry is None else entry.value

    def set(self, key: str, value: str, ttl: float, tags: frozenset[str]) -> None:
        self.put(key, value, ttl, tags)

    def set_if_absent(self, key: str, value: str, ttl: float) -> bool:
        if self.entry(key) is not None:
            return False
        self.put(key, value, ttl)
        return True

    def get_and_set(self, key: str, value: str, ttl: float) -> str | None:
        before = self.get(key)
        self.put(key, value, ttl)
        return before

    def increment(self, key: str, by: int) -> int:
        entry = self.entry(key, str)
        if entry is None:
            self.put(key, str(by), math.inf)
            return by
        try:
            total = int(entry.value) + by
        except ValueError:
            raise c.NotANumber(key, "") from None
        self.entries[key] = Entry(str(total), entry.end, entry.tags, entry.end)
        return total

    def delete(self, key: str) -> int:
        there = self.entry(key) is not None
        self.entries.pop(key, None)
        return there

    def exists(self, key: str) -> int:
        return self.entry(key) is not None

    def expire(self, key: str, ttl: float) -> bool:
        entry = self.entry(key)
        if entry is None:
            return False
        entry.drop = self.now + ttl + (0 if entry.drop == math.inf else entry.drop - entry.end)
        entry.end = self.now + ttl
        return True

    def ttl(self, key: str) -> float | None:
        entry = self.entry(key)
        return None if entry is None else entry.end - self.now

    def keys(self) -> list[str]:
        return sorted(key for key in self.entries if self.entry(key) is not None)

    def invalidate(self, tag: str) -> None:
        self.entries = {key: entry for key, entry in self.entries.items() if tag not in entry.tags}

    # --- loads

    def get_or_load(self, key: str, answer: str | None, fails: bool, ttl: float, tags: frozenset[str]) -> str | None:
        entry = self.entries.get(key)
        if entry is not None and entry.drop <= self.now:
            entry = None
        if entry is not None and type(entry.value) is not str:
            raise c.WrongKind(key, KINDS[type(entry.value)], "string")
        if entry is not None and (self.now < entry.end or self.now < entry.retry_at):
            return None if entry.negative else entry.value
        if fails and entry is not None:
            entry.retry_at = self.now + RETRY_AFTER
            return str(entry.value)
        if fails:
            raise Boom
        if answer is None:
            self.entries[key] = Entry("", self.now + ttl, tags, self.now + ttl, negative=True)
        else:
            self.entries[key] = Entry(answer, self.now + ttl, tags, self.now + ttl + STALE_FOR)
        return answer

    # --- collections

    def hash_set(self, key: str, name: str, value: str) -> bool:
        fields = self.collection(key, dict, {})
        new = name not in fields
        fields[name] = value
        return new

    def hash_delete(self, key: str, name: str) -> int:
        fields = self.value(key, dict)
        if name not in fields:
            return 0
        del fields[name]
        self.tidy(key)
        return 1

    def hash_get_all(self, key: str) -> dict[str, str]:
        return dict(self.value(key, dict))

    def set_add(self, key: str, member: str) -> int:
        members = self.collection(key, set, set())
        new = member not in members
        members.add(member)
        return int(new)

    def set_remove(self, key: str, member: str) -> int:
        members = self.value(key, set)
        if member not in members:
            return 0
        members.remove(member)
        self.tidy(key)
        return 1

    def set_members(self, key: str) -> Any:
        return set(self.value(key, set))

    def sorted_add(self, key: str, member: str, score: float) -> int:
        (scores,) = self.collection(key, tuple, ({},))
        new = member not in scores
        scores[member] = score
        return int(new)

    def sorted_remove(self, key: str, member: str) -> int:
        scores: dict[str, float] = (self.value(key, tuple) or ({},))[0]
        if member not in scores:
            return 0
        del scores[member]
        self.tidy(key)
        return 1

    def sorted_range(self, key: str, start: int, stop: int, reverse: bool) -> list[tuple[str, float]]:
        scores: dict[str, float] = (self.value(key, tuple) or ({},))[0]
        order = sorted(scores.items(), key=lambda item: (item[1], item[0]), reverse=reverse)
        size = len(order)
        first = max(start + size, 0) if start < 0 else start
        last = stop + size if stop < 0 else stop
        return order[first : last + 1] if last >= first else []


async def get_or_load(
    cache: c.Cache, key: str, answer: str | None, fails: bool, ttl: float, tags: frozenset[str]
) -> str | None:
    async def load() -> str | None:
        if fails:
            raise Boom
        return answer

    return await cache.get_or_load(key, load, type=str, ttl=ttl, negative_ttl=ttl, tags=tags, policy=POLICY)


async def keys(cache: c.Cache) -> list[str]:
    return sorted(await cache.keys())


# {the model's method: the same of a cache}
METHODS: dict[str, Callable[..., Any]] = {
    "get": lambda cache, key: cache.get(key, type=str),
    "set": lambda cache, key, value, ttl, tags: cache.set(key, value, ttl=ttl, tags=tags),
    "set_if_absent": lambda cache, key, value, ttl: cache.set_if_absent(key, value, ttl=ttl),
    "get_and_set": lambda cache, key, value, ttl: cache.get_and_set(key, value, ttl=ttl, type=str),
    "increment": lambda cache, key, by: cache.increment(key, by),
    "delete": lambda cache, key: cache.delete(key),
    "exists": lambda cache, key: cache.exists(key),
    "expire": lambda cache, key, ttl: cache.persist(key) if ttl == math.inf else cache.expire(key, ttl=ttl),
    "ttl": lambda cache, key: cache.ttl(key),
    "keys": keys,
    "invalidate": lambda cache, tag: cache.invalidate_tags(tag),
    "get_or_load": get_or_load,
    "hash_set": lambda cache, key, name, value: cache.hashes.set(key, name, value),
    "hash_delete": lambda cache, key, name: cache.hashes.delete(key, name),
    "hash_get_all": lambda cache, key: cache.hashes.get_all(key, type=str),
    "set_add": lambda cache, key, member: cache.sets.add(key, member),
    "set_remove": lambda cache, key, member: cache.sets.remove(key, member),
    "set_members": lambda cache, key: cache.sets.members(key, type=str),
    "sorted_add": lambda cache, key, member, score: cache.sorted_sets.add(key, {member: score}),
    "sorted_remove": lambda cache, key, member: cache.sorted_sets.remove(key, member),
    "sorted_range": lambda cache, key, start, stop, reverse: cache.sorted_sets.range(
        key, start, stop, reverse=reverse, type=str
    ),
}

KEY = st.sampled_from(["a", "a", "b"])
TEXT = st.sampled_from(["1", "-5", "x", ""])
NAME = st.sampled_from(["f", "g", "h"])
TTL = st.sampled_from([0.5, 1.0, 2.5, 8.0, math.inf])
TAGS = st.frozensets(st.sampled_from(["t", "u"]))
RANK = st.integers(-4, 4)
SCORE = st.sampled_from([-1.0, 0.0, 0.5, math.inf])
ARGUMENTS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "get": (KEY,),
    "set": (KEY, TEXT, TTL, TAGS),
    "set_if_absent": (KEY, TEXT, TTL),
    "get_and_set": (KEY, TEXT, TTL),
    "increment": (KEY, st.integers(-3, 3)),
    "delete": (KEY,),
    "exists": (KEY,),
    "expire": (KEY, TTL),
    "ttl": (KEY,),
    "keys": (),
    "invalidate": (st.sampled_from(["t", "u"]),),
    "get_or_load": (KEY, st.none() | TEXT, st.booleans(), TTL, TAGS),
    "hash_set": (KEY, NAME, TEXT),
    "hash_delete": (KEY, NAME),
    "hash_get_all": (KEY,),
    "set_add": (KEY, NAME),
    "set_remove": (KEY, NAME),
    "set_members": (KEY,),
    "sorted_add": (KEY, NAME, SCORE),
    "sorted_remove": (KEY, NAME),
    "sorted_range": (KEY, RANK, RANK, st.booleans()),
}
OFTEN = ["expire", "ttl", "get", "set", "get_or_load"]  # what depends on what came before it in many ways
CALL = st.sampled_from(sorted(ARGUMENTS) + 2 * OFTEN).flatmap(
    lambda name: st.tuples(st.just(name), st.tuples(*ARGUMENTS[name]))
)
PAUSE = st.tuples(st.just("pause"), st.tuples(st.sampled_from([0.5, 1.0, 3.0])))


@pytest.mark.parametrize("backend", [backend for backend in BACKENDS.values() if backend.virtual])
@settings(max_examples=150, deadline=None)
@given(history=st.lists(CALL | CALL | CALL | PAUSE, min_size=40, max_size=80))
def test_every_history_is_one_of_the_model(backend: Backend, history: list[tuple[str, tuple[Any, ...]]]) -> None:
    """Each call gives the model's value, or raises the model's error."""

    async def live() -> None:
        model = Model()
        async with backend.opened() as opened:
            for name, arguments in history:
                if name == "pause":
                    model.now += arguments[0]
                    await backend.elapse(arguments[0])
                    continue
                expected = outcome(lambda: getattr(model, name)(*arguments))  # noqa: B023  # called at once
                assert await outcome_of(METHODS[name], opened.cache, *arguments) == expected, (name, arguments)

    trio.run(live, clock=backend.clock())


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "value", call()
    except (Boom, c.WrongKind, c.NotANumber) as error:
        return type(error).__name__, getattr(error, "found", None)


async def outcome_of(call: Callable[..., Any], *args: Any) -> tuple[str, Any]:
    try:
        return "value", await call(*args)
    except (Boom, c.WrongKind, c.NotANumber) as error:
        return type(error).__name__, getattr(error, "found", None)
