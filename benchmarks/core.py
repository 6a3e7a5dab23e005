"""The goals of the actor core, measured: ``python -m benchmarks.core [--json] [--smoke] [--rounds N] [--only ROW]``.

See `_harness` for how, and `_rivals` for what the actors are compared with. ``--only`` takes a part of a row's name and
may be given several times.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import random
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import cast

import trio
import trio.testing

import creche
from creche.runtime import cell
from creche.supervisors.supervisor import SupervisorSpec

from . import _harness as harness
from . import _rivals as rivals
from ._harness import Probe, Row, Size, Stopwatch

LATER = (
    "call_many(100) per ask vs call (<= 0.2)",
    "tell(boom)+ask vs Erlang +S1 (<= 1.25)",
    "one_for_all of 1000 per child vs spawn (<= 2)",
    "hooks off vs hooks absent (<= 1.03; here: a hook subscribed vs none)",
)
NEVER_GIVE_UP = creche.Intensity(restarts=10**9, window=1e-3)
AT_ONCE = creche.Backoff(first=0, jitter=0)
FAMILY = 1_000  # children per supervisor
FLOOD = 256  # messages that always wait
LONG = 60.0  # seconds that never run out


class Echo(creche.Actor):
    """Answers."""

    async def echo(self, value: int) -> int:
        return value


class Tally(creche.Actor):
    """Counts in a cell that the benchmark reads without a message."""

    def __init__(self, count: list[int]) -> None:
        self.count = count

    async def add(self, value: int) -> None:
        self.count[0] += value


class Phoenix(creche.Actor):
    """Writes down when it dies, and when its successor handles the next message."""

    def __init__(self, marks: list[float]) -> None:
        self.marks = marks

    async def die(self) -> None:
        self.marks.append(time.perf_counter())
        raise RuntimeError

    async def rise(self) -> None:
        self.marks.append(time.perf_counter())


# --- calls ----------------------------------------------------------------------------------------------------

Asking = Callable[[creche.Handle[Echo], int], Awaitable[None]]


async def _ask(handle: creche.Handle[Echo], asks: int) -> None:
    for number in range(asks):
        await handle.ask.echo(number)


async def _call(handle: creche.Handle[Echo], asks: int) -> None:
    for number in range(asks):
        await handle.call(Echo.echo, number)


async def _within_call(handle: creche.Handle[Echo], asks: int) -> None:
    for number in range(asks):
        await handle.within(LONG).call(Echo.echo, number)


async def _within_ask(handle: creche.Handle[Echo], asks: int) -> None:
    for number in range(asks):
        await handle.within(LONG).ask.echo(number)


async def _fail_after_call(handle: creche.Handle[Echo], asks: int) -> None:
    for number in range(asks):
        with trio.fail_after(LONG):
            await handle.call(Echo.echo, number)


async def _our_ask(asking: Asking, hooked: bool, tasks: int, operations: int) -> float:
    async with creche.open_runtime("benchmark") as runtime:
        if hooked:
            runtime.events.subscribe(lambda _event: None)
        handle = await runtime.start(creche.child(Echo))
        return await rivals.trio_crowd(tasks, operations, partial(asking, handle))


def _ours(figure: str, asking: Asking, *crowds: int, hooked: bool = False) -> list[Probe]:
    ask = partial(_our_ask, asking, hooked)
    return _for_crowds(figure, lambda tasks, operations: trio.run(ask, tasks, operations), crowds)


def _for_crowds(figure: str, ask: Callable[[int, int], float], crowds: Sequence[int]) -> list[Probe]:
    """One probe for each number of callers."""

    def probe(tasks: int) -> Probe:
        return Probe((f"{figure}_c{tasks}",), lambda size: [ask(tasks, size.operations)])

    return [probe(tasks) for tasks in crowds]


# --- casts ----------------------------------------------------------------------------------------------------


async def _our_cast(operations: int) -> float:
    """Bursts of messages, each ended by an ask; microseconds per message."""
    bursts = max(operations // rivals.BURST, 1)
    async with creche.open_runtime("benchmark") as runtime:
        handle = await runtime.start(creche.child(Echo))
        with Stopwatch() as watch:
            for _ in range(bursts):
                for number in range(rivals.BURST):
                    handle.cast_nowait(Echo.echo, number)
                await handle.ask.echo(0)
    return watch.elapsed / (bursts * rivals.BURST)


async def _heartbeat(beats: int) -> list[float]:
    """How long one checkpoint takes beside an actor whose mailbox is never empty: median and 99th percentile."""
    gaps: list[float] = []
    count = [0]
    sent = 0
    async with creche.open_runtime("benchmark") as runtime:
        handle = await runtime.start(creche.child(Tally, count))
        for _ in range(beats):
            while sent - count[0] < FLOOD:
                handle.cast_nowait(Tally.add, 1)
                sent += 1
            began = time.perf_counter()
            await trio.lowlevel.checkpoint()
            gaps.append((time.perf_counter() - began) * 1e6)
    return [statistics.median(gaps), harness.percentile(gaps, 0.99)]


def _heartbeat_one_by_one(size: Size) -> list[float]:
    with harness.replaced(cell, "BATCH", 1):
        return trio.run(_heartbeat, size.share(10))


# --- crashes --------------------------------------------------------------------------------------------------


async def _restart(crashes: int) -> list[float]:
    """From the crash to the next handler, median and 99th percentile; and crash and ask as the caller sees it."""
    marks: list[float] = []
    gaps: list[float] = []
    seen: list[float] = []
    async with creche.open_runtime("benchmark", intensity=NEVER_GIVE_UP) as runtime:
        handle = await runtime.start(creche.child(Phoenix, marks).options(backoff=AT_ONCE))
        for _ in range(crashes):
            marks.clear()
            began = time.perf_counter()
            handle.cast_nowait(Phoenix.die)
            await handle.ask.rise()
            seen.append((time.perf_counter() - began) * 1e6)
            gaps.append((marks[1] - marks[0]) * 1e6)
    return [statistics.median(gaps), harness.percentile(gaps, 0.99), statistics.median(seen)]


# --- a crowd of actors ----------------------------------------------------------------------------------------


def _families(count: int) -> list[SupervisorSpec]:
    """So many actors, under supervisors of at most `FAMILY` children."""
    return [
        creche.supervisor(
            f"family-{first}",
            *(creche.child(Echo).options(name=f"echo-{number}") for number in range(first, min(first + FAMILY, count))),
        )
        for first in range(0, count, FAMILY)
    ]


async def _start_each(count: int) -> list[float]:
    """`runtime.start` for one actor after the other, and the stop of them all."""
    specs = [creche.child(Echo).options(name=f"echo-{number}") for number in range(count)]
    with Stopwatch() as whole:
        async with creche.open_runtime("benchmark") as runtime:
            with Stopwatch() as starting:
                for spec in specs:
                    await runtime.start(spec)
    return [starting.elapsed / count, (whole.elapsed - starting.elapsed) / count]


async def _start_families(count: int) -> list[float]:
    """Static children of supervisors, and the stop of them all."""
    families = _families(count)
    with Stopwatch() as whole:
        async with creche.open_runtime("benchmark") as runtime:
            with Stopwatch() as starting:
                for family in families:
                    await runtime.start(family)
    return [starting.elapsed / count, (whole.elapsed - starting.elapsed) / count]


# --- memory ---------------------------------------------------------------------------------------------------


class Scale:
    """Bytes that Python has allocated since it was made."""

    def __init__(self) -> None:
        gc.collect()
        self._before = tracemalloc.get_traced_memory()[0]

    def each(self, count: int) -> float:
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - self._before) / count


async def _our_memory(count: int) -> list[float]:
    """Bytes per actor: never asked, asked once, and its spec."""
    scale = Scale()
    families = _families(count)
    spec = scale.each(count)
    async with creche.open_runtime("benchmark") as runtime:
        scale = Scale()
        for family in families:
            await runtime.start(family)
        idle = scale.each(count)
        for supervisor in runtime.root.children():
            for node in supervisor.children():
                await cast("cell.Cell", node).handle().ask.echo(1)
        return [idle, scale.each(count), spec]


async def _bare_memory(count: int) -> list[float]:
    scale = Scale()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        each = scale.each(count)
        nursery.cancel_scope.cancel()
    return [each]


async def _channel_memory(count: int) -> list[float]:
    scale = Scale()
    async with trio.open_nursery() as nursery:
        actors = [rivals.ChannelActor() for _ in range(count)]
        for actor in actors:
            nursery.start_soon(actor.serve)
        for actor in actors:
            await actor.ask(1)
        each = scale.each(count)
        nursery.cancel_scope.cancel()
    return [each]


def _traced(measure: Callable[[int], Awaitable[list[float]]]) -> Callable[[Size], list[float]]:
    def run(size: Size) -> list[float]:
        tracemalloc.start()
        try:
            return trio.run(measure, size.crowd)
        finally:
            tracemalloc.stop()

    return run


# --- what is measured -----------------------------------------------------------------------------------------

PROBES = [
    *_ours("ask", _ask, 1, 100, 1000),
    *_ours("hooked_ask", _ask, 1, 100, hooked=True),
    *_ours("call", _call, 1, 100),
    *_ours("within_call", _within_call, 1, 100),
    *_ours("within_ask", _within_ask, 100),
    *_ours("fail_after_call", _fail_after_call, 100),
    *_for_crowds("floor", lambda tasks, operations: trio.run(rivals.floor_ask, tasks, operations), (1, 100, 1000)),
    *_for_crowds("channel", lambda tasks, operations: trio.run(rivals.channel_ask, tasks, operations), (1, 100)),
    *_for_crowds("asyncio", lambda tasks, operations: asyncio.run(rivals.aio_ask(tasks, operations)), (1, 100, 1000)),
    Probe(("cast",), lambda size: [trio.run(_our_cast, size.operations * 5)]),
    Probe(("channel_stream",), lambda size: [trio.run(rivals.channel_stream, size.operations)]),
    Probe(("asyncio_cast",), lambda size: [asyncio.run(rivals.aio_cast(size.operations * 5))]),
    Probe(("heartbeat", "heartbeat_p99"), lambda size: trio.run(_heartbeat, size.share(10))),
    Probe(("heartbeat_batch1", "heartbeat_batch1_p99"), _heartbeat_one_by_one),
    Probe(("restart", "restart_p99", "crash_and_ask"), lambda size: trio.run(_restart, size.share(10))),
    Probe(("start", "stop"), lambda size: trio.run(_start_each, size.share(20))),
    Probe(("bare_start", "bare_stop"), lambda size: trio.run(rivals.bare_spawn, size.share(20))),
    Probe(("start_child", "stop_crowd"), lambda size: trio.run(_start_families, size.crowd)),
    Probe(("bare_start_crowd", "bare_stop_crowd"), lambda size: trio.run(rivals.bare_spawn, size.crowd)),
    Probe(("idle_bytes", "active_bytes", "spec_bytes"), _traced(_our_memory), once=True),
    Probe(("bare_bytes",), _traced(_bare_memory), once=True),
    Probe(("channel_bytes",), _traced(_channel_memory), once=True),
]

ROWS = [
    Row("ask_floor_c1", "ask_c1", "floor_c1", 1.25, "ask vs raw rendezvous"),
    Row("ask_floor_c100", "ask_c100", "floor_c100", 1.5, "the same, 100 callers"),
    Row("ask_floor_c1000", "ask_c1000", "floor_c1000", 1.4, "the same, 1000 callers"),
    Row("ask_channel_c1", "ask_c1", "channel_c1", 0.75, "ask vs memory channel + Event"),
    Row("ask_channel_c100", "ask_c100", "channel_c100", 0.40, "the same, 100 callers"),
    Row("ask_asyncio_c1", "ask_c1", "asyncio_c1", 1.4, "ask vs bare asyncio Queue + Future"),
    Row("ask_asyncio_c100", "ask_c100", "asyncio_c100", 1.3, "the same, 100 callers"),
    Row("ask_asyncio_c1000", "ask_c1000", "asyncio_c1000", 1.3, "the same, 1000 callers"),
    Row("call_ask_c1", "call_c1", "ask_c1", None, "handle.call vs handle.ask"),
    Row("within_call_c1", "within_call_c1", "call_c1", 1.2, "within(s).call vs call"),
    Row("within_call_c100", "within_call_c100", "call_c100", 1.5, "the same, 100 callers"),
    Row("within_fail_after_c100", "within_call_c100", "fail_after_call_c100", 0.5, "within vs fail_after + call"),
    Row("within_ask_c100", "within_ask_c100", "call_c100", None, "within(s).ask vs call"),
    Row("cast_channel", "cast", "channel_stream", 0.10, "cast_nowait, served, vs memory channel stream"),
    Row("cast_asyncio", "cast", "asyncio_cast", 1.1, "the same vs asyncio put_nowait actor"),
    Row("spawn", "start", "bare_start", 2.0, "runtime.start, one by one, vs start_soon"),
    Row("spawn_child", "start_child", "bare_start_crowd", 2.0, "static child of a supervisor vs start_soon"),
    Row("memory_idle", "idle_bytes", "bare_bytes", 2.0, "actor never asked vs parked task"),
    Row("memory_active", "active_bytes", "channel_bytes", 1.2, "actor asked once vs memory channel actor"),
    Row("memory_spec", "spec_bytes", "bare_bytes", None, "a child's spec with a name vs parked task"),
    Row("restart_ask", "restart", "ask_c1", 1.2, "raise -> next handler vs one ask"),
    Row("restart_p99_ask", "restart_p99", "ask_c1", 2.0, "the same, 99th percentile"),
    Row("crash_and_ask", "crash_and_ask", "ask_c1", None, "cast a crash and ask, seen by the caller, vs one ask"),
    Row("shutdown", "stop_crowd", "bare_stop_crowd", 0.5, "stop of a crowd vs bare nursery cancel"),
    Row("shutdown_started", "stop", "bare_stop", None, "the same for children of runtime.start"),
    Row("heartbeat_p99", "heartbeat_p99", "heartbeat_batch1_p99", 10, "others' latency under flood vs BATCH = 1"),
    Row("hook_c1", "hooked_ask_c1", "ask_c1", 1.03, "ask with a hook subscribed vs none"),
    Row("hook_c100", "hooked_ask_c100", "ask_c100", 1.03, "the same, 100 callers"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.core", description="Measure the actor core's goals.")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--smoke", action="store_true", help="see that everything runs; the values mean nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured")
    parser.add_argument("--only", action="append", metavar="ROW", help="rows whose name contains this")
    options = parser.parse_args(arguments)
    size = harness.SMOKE if options.smoke else harness.FULL
    if options.rounds:
        size = dataclasses.replace(size, rounds=options.rounds)
    rows = [row for row in ROWS if not options.only or any(part in row.name for part in options.only)]
    if not rows:
        parser.error(f"no such row; there are {', '.join(row.name for row in ROWS)}")
    harness.note(harness.machine())
    figures = harness.measure(harness.needed(PROBES, rows), size, random.Random())
    results = harness.evaluate(rows, figures)
    if options.json:
        harness.print_json(results)
    else:
        harness.print_table(results, LATER)


if __name__ == "__main__":
    main()
