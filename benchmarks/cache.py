"""The cache, measured: ``python -m benchmarks.cache``.

Two tables. The first compares what an operation costs: through the handle, that is on the lease, against a message to
an actor for each, and against the bare work. The second tells hit ratios on traces of the published kinds: of this
cache's policy, of LRU, and of the optimum that knows the future (Belady). The traces are made from a seed, so the
second table is the same on every machine; `loop`, `scan` and `multi` are shaped after those of LIRS and ARC.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import trio

import creche
from creche.components import cache as c
from creche.components.cache.eviction import Resident, TinyLfu

from . import _harness as harness
from ._harness import Probe, Row, Size, Stopwatch

# --- hit ratios -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """Keys in the order in which they are asked for."""

    name: str
    keys: Sequence[str]


def traces(length: int, seed: int = 7) -> list[Trace]:
    """About 20 000 different keys in each; meant for caches of some hundreds to some thousands."""
    rng = random.Random(seed)
    skewed = zipf(length, 0.9, rng)
    recent = [f"r{int(number / 20 - rng.expovariate(1 / 400))}" for number in range(length)]
    loop = [f"l{number % 2000}" for number in range(length)]
    third = length // 3
    return [
        Trace("zipf 0.9", skewed),
        Trace("zipf 0.7", zipf(length, 0.7, rng)),
        Trace("zipf and scans", list(with_scans(zipf(length, 0.9, rng)))),
        Trace("loop", loop),
        Trace("shifting", [key for phase in range(6) for key in zipf(length // 6, 1.0, rng, 7000 * phase)]),
        Trace("recency", recent),
        Trace("mixed", skewed[:third] + loop[:third] + recent[:third]),
        Trace("multi", [f"s{n // 2 % 300}" if n % 2 else f"g{n // 2 % 9000}" for n in range(length)]),
    ]


def zipf(length: int, exponent: float, rng: random.Random, first: int = 0) -> list[str]:
    """20 000 keys, the n-th asked for in proportion to ``n ** -exponent``."""
    weights = list(itertools.accumulate((rank + 1) ** -exponent for rank in range(20_000)))
    return [f"k{first + bisect.bisect(weights, rng.random() * weights[-1])}" for _ in range(length)]


def with_scans(keys: Sequence[str]) -> Iterable[str]:
    """Every other 3000 requests are for what is never asked for again."""
    fresh = itertools.count()
    for begin in range(0, len(keys), 6000):
        yield from keys[begin : begin + 3000]
        yield from (f"scan{next(fresh)}" for _ in range(3000))


def lru(keys: Sequence[str], capacity: int) -> float:
    """The hit ratio of plain LRU."""
    kept: OrderedDict[str, None] = OrderedDict()
    hits = 0
    for key in keys:
        if key in kept:
            kept.move_to_end(key)
            hits += 1
        else:
            kept[key] = None
            if len(kept) > capacity:
                kept.popitem(last=False)
    return hits / len(keys)


def ours(keys: Sequence[str], capacity: int, *, adaptive: bool = True) -> float:
    """The hit ratio of the cache's policy."""
    policy = TinyLfu(capacity, random.Random(1), adaptive=adaptive)
    kept: dict[str, Resident] = {}
    hits = 0
    for key in keys:
        found = kept.get(key)
        if found is not None:
            policy.touch(found)
            hits += 1
        else:
            kept[key] = Resident(key, 1)
            for loser in policy.add(kept[key]):
                del kept[loser.key]
    return hits / len(keys)


def optimum(keys: Sequence[str], capacity: int) -> float:
    """The hit ratio of dropping what is asked for last of all (Belady, 1966)."""
    following = [0] * len(keys)
    seen: dict[str, int] = {}
    for place in range(len(keys) - 1, -1, -1):
        following[place] = seen.get(keys[place], len(keys) + place)
        seen[keys[place]] = place
    kept: dict[str, int] = {}  # {key: when it is asked for next}
    furthest: list[tuple[int, str]] = []
    hits = 0
    for place, key in enumerate(keys):
        hits += key in kept
        if key not in kept and len(kept) >= capacity:
            while True:
                when, loser = heapq.heappop(furthest)
                if kept.get(loser) == -when:
                    del kept[loser]
                    break
        kept[key] = following[place]
        heapq.heappush(furthest, (-following[place], key))
    return hits / len(keys)


def ratios(trace: Trace, capacity: int) -> dict[str, object]:
    mine, theirs, best = (policy(trace.keys, capacity) for policy in (ours, lru, optimum))
    found = {"ours": mine, "lru": theirs, "optimum": best, "ours/optimum": mine / best if best else 1.0}
    return {"trace": trace.name, "keys_kept": capacity, **{name: round(ratio, 3) for name, ratio in found.items()}}


def hit_ratios(size: Size) -> dict[str, harness.Records]:
    """Of every trace; those of a smoke run are too short to mean anything."""
    length = max(size.operations * 5, 6_000)
    return {"hit_ratios": [ratios(trace, capacity) for trace in traces(length) for capacity in (200, 1000)]}


# --- speed ----------------------------------------------------------------------------------------------------


class Shelf(creche.Actor):
    """What a cache would be that takes a message for everything."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    @creche.message(on_caller_gone="cancel")
    async def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    async def set(self, key: str, value: bytes) -> None:
        self._values[key] = value


Body = Callable[[creche.Runtime, int], Awaitable[float]]


async def messages(runtime: creche.Runtime, operations: int, *, writes: bool) -> float:
    shelf = await runtime.start(creche.child(Shelf))
    await shelf.ask.set("key", b"value")
    with Stopwatch() as watch:
        for _ in range(operations):
            if writes:
                await shelf.ask.set("key", b"value")
            else:
                await shelf.ask.get("key")
    return watch.elapsed / operations


async def handle(runtime: creche.Runtime, operations: int, *, writes: bool) -> float:
    cache = await runtime.start(c.component())
    await cache.set("key", b"value")
    with Stopwatch() as watch:
        for _ in range(operations):
            if writes:
                await cache.set("key", b"value")
            else:
                await cache.get("key")
    return watch.elapsed / operations


async def new_keys(runtime: creche.Runtime, operations: int) -> float:
    """Into a cache that is full: each displaces another."""
    cache = await runtime.start(c.component(c.Config(max_entries=1000)))
    for number in range(1000):
        await cache.set(f"old{number}", b"value")
    with Stopwatch() as watch:
        for number in range(operations):
            await cache.set(f"key{number}", b"value", ttl=60)
    return watch.elapsed / operations


async def loads(runtime: creche.Runtime, operations: int) -> float:
    """Hits of `get_or_load`, with a value to decode."""
    cache = await runtime.start(c.component())

    async def load() -> dict[str, int]:
        return {"a": 1}

    with Stopwatch() as watch:
        for _ in range(operations):
            await cache.get_or_load("key", load, type=dict[str, int])
    return watch.elapsed / operations


async def locks(runtime: creche.Runtime, operations: int) -> float:
    cache = await runtime.start(c.component())
    with Stopwatch() as watch:
        for _ in range(operations):
            async with cache.lock("lock"):
                pass
    return watch.elapsed / operations


async def bare(runtime: creche.Runtime, operations: int) -> float:
    """A dictionary behind an async function that looks for cancels."""
    values = {"key": b"value"}

    async def get(key: str) -> bytes | None:
        await trio.lowlevel.checkpoint_if_cancelled()
        return values.get(key)

    with Stopwatch() as watch:
        for _ in range(operations):
            await get("key")
    return watch.elapsed / operations


def probe(figure: str, body: Body, divisor: int = 1) -> Probe:
    async def main(operations: int) -> float:
        async with creche.open_runtime("benchmark") as runtime:
            return await body(runtime, operations)

    return Probe((figure,), lambda size: [trio.run(main, size.share(divisor))])


PROBES = [
    probe("bare", bare),
    probe("get", partial(handle, writes=False)),
    probe("set", partial(handle, writes=True)),
    probe("get_message", partial(messages, writes=False)),
    probe("set_message", partial(messages, writes=True)),
    probe("set_new", new_keys, 2),
    probe("load_hit", loads),
    probe("lock", locks, 4),
]
ROWS = [
    Row("get/message", "get", "get_message", None, "a read through the handle, in messages"),
    Row("set/message", "set", "set_message", None, "a write through the handle, in messages"),
    Row("get/bare", "get", "bare", None, "a read, in dictionary reads behind an async function"),
    Row("get_or_load/get", "load_hit", "get", None, "a hit of get_or_load that decodes JSON, in reads"),
    Row("set_new/set", "set_new", "set", None, "a new key into a full cache, in overwrites"),
    Row("lock/message", "lock", "get_message", None, "to take and give back a free lock, in messages"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    harness.command("cache", "the cache", ROWS, partial(harness.evaluate, PROBES), arguments, hit_ratios)


if __name__ == "__main__":
    main()
