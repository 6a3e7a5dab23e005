"""The rate of ids, against other packages and against the format's ceiling: ``python -m benchmarks.uid``.

A Snowflake with 12 bits of sequence has a ceiling: 4096 in a millisecond, 244 ns each. The row `take/ceiling` is the
time that passes for each id, waits included, over those 244 ns: below 1 there would be duplicates. The other rows are
processor time. The packages uuid6 and uuid7 are needed for this benchmark only: pip install uuid6 uuid7.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import trio

import creche
from creche.components import uid as u

from . import _harness as harness
from ._harness import Missing, Probe, Row, Size, Stopwatch

CEILING = 1000 / 4096  # microseconds for each id

Body = Callable[[u.Uid, int], Awaitable[float]]


async def one_by_one(uid: u.Uid, count: int) -> float:
    with Stopwatch() as watch:
        for _ in range(count):
            await uid.snowflake()
    return watch.elapsed / count


async def without_waiting(uid: u.Uid, count: int) -> float:
    """With a pause for each hundred, lest it come to the ceiling."""
    elapsed = 0.0
    for _ in range(count // 100 or 1):
        await trio.sleep(0.001)
        with Stopwatch() as watch:
            for _ in range(100):
                uid.snowflake_nowait()
        elapsed += watch.elapsed
    return elapsed / (count // 100 or 1) / 100


async def in_bulk(uid: u.Uid, count: int) -> float:
    with Stopwatch() as watch:
        await uid.take(count)
    return watch.elapsed / count


async def at_the_ceiling(uid: u.Uid, count: int) -> float:
    """Time that passes; every id is looked at, so that a rate that is too good to be true shows."""
    count *= 10
    began = time.perf_counter()
    ids = await uid.take(count)
    elapsed = time.perf_counter() - began
    assert len(set(ids)) == count
    return elapsed * 1e6 / count


def of_ours(figure: str, body: Body) -> Probe:
    async def main(count: int) -> float:
        async with creche.open_runtime("benchmark") as runtime:
            ids = await runtime.start(u.component())
            await ids.snowflake()
            return await body(ids, count)

    return Probe((figure,), lambda size: [trio.run(main, size.operations)])


class LockedSnowflake:
    """The usual class: a mutex, a sequence, and a loop that spins at the ceiling."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ms = self._sequence = 0

    def next(self) -> int:
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now == self._ms:
                self._sequence = self._sequence + 1 & 4095
                while not self._sequence and now <= self._ms:
                    now = time.time_ns() // 1_000_000
            else:
                self._sequence = 0
            self._ms = now
            return (now - 1_609_459_200_000) << 22 | 1 << 12 | self._sequence


def calling(figure: str, find: Callable[[], Callable[[], object]]) -> Probe:
    """So many calls of a function of somebody's."""

    def run(size: Size) -> list[float]:
        make = find()
        with Stopwatch() as watch:
            for _ in range(size.operations):
                make()
        return [watch.elapsed / size.operations]

    return Probe((figure,), run)


def function_of(package: str, module: str) -> Callable[[], Any]:
    def find() -> Any:
        try:
            return import_module(module).uuid7
        except ImportError:
            raise Missing(f"{package} is not installed: pip install {package}") from None

    return find


def in_bulk_uuid7(size: Size) -> list[float]:
    ids = u.component().new_handle()
    with Stopwatch() as watch:
        for _ in range(size.share(100)):
            ids.take_uuid7(100)
    return [watch.elapsed / size.share(100) / 100]


PROBES = [
    of_ours("snowflake", one_by_one),
    of_ours("snowflake_nowait", without_waiting),
    of_ours("take", in_bulk),
    of_ours("take_elapsed", at_the_ceiling),
    calling("locked_snowflake", lambda: LockedSnowflake().next),
    calling("uuid7", lambda: u.uuid7),
    Probe(("take_uuid7",), in_bulk_uuid7),
    calling("uuid6_uuid7", function_of("uuid6", "uuid6")),
    calling("uuid7_uuid7", function_of("uuid7", "uuid_extensions")),
    calling("uuid4", lambda: uuid.uuid4),
    Probe(("ceiling",), lambda size: [CEILING]),
]
ROWS = [
    Row("take/ceiling", "take_elapsed", "ceiling", None, "time for each id in bulk, over the format's ceiling"),
    Row("take/locked", "take", "locked_snowflake", None, "take(n), each, vs a class with a mutex"),
    Row("nowait/locked", "snowflake_nowait", "locked_snowflake", None, "snowflake_nowait() vs the same"),
    Row("snowflake/locked", "snowflake", "locked_snowflake", None, "await snowflake() vs the same"),
    Row("snowflake/uuid4", "snowflake", "uuid4", None, "the same vs uuid.uuid4()"),
    Row("uuid7/uuid6", "uuid7", "uuid6_uuid7", None, "uuid7() vs the package uuid6"),
    Row("uuid7/uuid7", "uuid7", "uuid7_uuid7", None, "uuid7() vs the package uuid7"),
    Row("uuid7/uuid4", "uuid7", "uuid4", None, "uuid7() vs uuid.uuid4()"),
    Row("take_uuid7/uuid7", "take_uuid7", "uuid7", None, "take_uuid7(100), each, vs uuid7()"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    harness.command("uid", "ids", ROWS, partial(harness.evaluate, PROBES), arguments)


if __name__ == "__main__":
    main()
