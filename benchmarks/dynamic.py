"""Many children that come and go: ``python -m benchmarks.dynamic``.

A dynamic supervisor with 20 000 children against what one does without one: a nursery, with a cancel scope for each
task so that it can be stopped alone. Costs at the beginning are compared with those among the 20 000: they must not
grow with the crowd. `measure_crowd` gives all figures of one run.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import trio
import trio.testing

import creche

from . import _harness as harness
from . import _rivals as rivals
from ._harness import Probe, Row, Size, Stopwatch

CROWD = 20_000
SAMPLE = 1_000  # children that are started, stopped or crash one by one


class Session(creche.Actor):
    """One of the crowd."""

    async def get(self) -> int:
        return self.context.incarnation

    async def die(self) -> None:
        raise RuntimeError


class Costs(NamedTuple):
    """Microseconds each. `few` is without the crowd, `many` beside it; `all` is the stop of the whole crowd, each."""

    start_few: float
    stop_few: float
    crash_few: float
    start_many: float
    stop_many: float
    crash_many: float
    stop_all: float


async def measure_crowd(crowd: int = CROWD, sample: int = SAMPLE) -> Costs:
    """Start, stop and crash `sample` children one after the other, without and beside a crowd of others."""
    sessions_spec = creche.dynamic_supervisor("sessions", intensity=creche.Intensity(10 * sample, 1))
    spec = creche.child(Session).options(backoff=creche.Backoff(free=sample))
    async with creche.open_runtime("benchmark") as runtime:
        sessions = await runtime.start(sessions_spec)
        few = await _one_by_one(sessions, spec, sample)
        for _ in range(crowd):
            await sessions.start(spec)
        many = await _one_by_one(sessions, spec, sample)
        with Stopwatch() as stopping:
            await runtime.stop(sessions)
    return Costs(*few, *many, stopping.elapsed / crowd)


async def _one_by_one(
    sessions: creche.DynamicSupervisor, spec: creche.Spec[creche.Handle[Session]], sample: int
) -> tuple[float, float, float]:
    with Stopwatch() as starting:
        children = [await sessions.start(spec) for _ in range(sample)]
    with Stopwatch() as crashing:
        for child in children:
            try:
                await child.ask.die()
            except creche.OutcomeUnknown:
                await child.ask.get()
    with Stopwatch() as stopping:
        for child in children:
            await sessions.stop(child)
    return starting.elapsed / sample, stopping.elapsed / sample, crashing.elapsed / sample


async def memory_of_crowd(count: int) -> list[float]:
    """Bytes of each child with its handle, never asked."""
    spec = creche.child(Session)
    async with creche.open_runtime("benchmark") as runtime:
        sessions = await runtime.start(creche.dynamic_supervisor("sessions"))
        scale = rivals.Scale()
        handles = [await sessions.start(spec) for _ in range(count)]
        each = scale.each(count)
        assert len(handles) == count
    return [each]


class Scoped:
    """What one writes by hand: a task that can be stopped alone, and says when it is ready and when it has ended."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            task_status.started()
            await trio.sleep_forever()
        self.ended.set()

    async def stop(self) -> None:
        self.scope.cancel()
        await self.ended.wait()


async def by_hand(crowd: int, sample: int) -> list[float]:
    """`nursery.start` and the stop of each of a sample, beside a crowd; then the cancel of all, each."""
    async with trio.open_nursery() as nursery:
        for _ in range(crowd):
            nursery.start_soon(Scoped().run)
        await trio.testing.wait_all_tasks_blocked()
        sampled = [Scoped() for _ in range(sample)]
        with Stopwatch() as starting:
            for one in sampled:
                await nursery.start(one.run)
        with Stopwatch() as stopping:
            for one in sampled:
                await one.stop()
        begun = time.thread_time()
        nursery.cancel_scope.cancel()
    stopping_all = (time.thread_time() - begun) * 1e6
    return [starting.elapsed / sample, stopping.elapsed / sample, stopping_all / crowd]


async def memory_by_hand(count: int) -> list[float]:
    """Bytes of each such task."""
    scale = rivals.Scale()
    async with trio.open_nursery() as nursery:
        tasks = [Scoped() for _ in range(count)]
        for one in tasks:
            await nursery.start(one.run)
        each = scale.each(count)
        nursery.cancel_scope.cancel()
    return [each]


def crowd_of(size: Size) -> int:
    return size.crowd * 2


def sample_of(size: Size) -> int:
    return min(SAMPLE, size.crowd)


def traced(size: Size, *, by_us: bool) -> list[float]:
    """With `tracemalloc` on, which everything else must not be slowed by."""
    tracemalloc.start()
    try:
        return trio.run(memory_of_crowd if by_us else memory_by_hand, crowd_of(size))
    finally:
        tracemalloc.stop()


PROBES = [
    Probe(Costs._fields, lambda size: trio.run(measure_crowd, crowd_of(size), sample_of(size))),
    Probe(
        ("hand_start", "hand_stop", "hand_stop_all"), lambda size: trio.run(by_hand, crowd_of(size), sample_of(size))
    ),
    Probe(("bytes",), lambda size: traced(size, by_us=True), once=True),
    Probe(("hand_bytes",), lambda size: traced(size, by_us=False), once=True),
]
ROWS = [
    Row("dynamic_start", "start_many", "hand_start", None, "sessions.start beside the crowd vs nursery.start"),
    Row("dynamic_stop", "stop_many", "hand_stop", None, "sessions.stop, awaited, vs cancel and wait for the task"),
    Row("dynamic_stop_all", "stop_all", "hand_stop_all", None, "the end of the whole crowd, each, vs cancel of it"),
    Row("dynamic_bytes", "bytes", "hand_bytes", None, "child never asked, with its handle, vs task in a scope"),
    Row("dynamic_start_growth", "start_many", "start_few", 1.3, "sessions.start beside the crowd vs without it"),
    Row("dynamic_stop_growth", "stop_many", "stop_few", 1.3, "sessions.stop: the same"),
    Row("dynamic_crash_growth", "crash_many", "crash_few", 1.3, "crash, restart and the next answer: the same"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    harness.command("dynamic", "dynamic children", ROWS, partial(harness.evaluate, PROBES), arguments)


if __name__ == "__main__":
    main()
