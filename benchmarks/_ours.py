"""What is measured of creche itself.

`_variants` makes this module anew on changed copies of the package: it reaches the package through the one line
``import creche`` and nothing else.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio

import creche
from benchmarks import _harness as harness
from benchmarks import _rivals as rivals
from benchmarks._harness import Stopwatch

NEVER_GIVE_UP = creche.Intensity(restarts=10**9, window=1e-3)
AT_ONCE = creche.Backoff(first=0, jitter=0)
FAMILY = 1_000  # children per supervisor
FLOOD = 256  # messages that always wait
LONG = 60.0  # seconds that never run out
MANY = 100  # calls at once


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


class Born:
    """Counts constructions up to `expected`."""

    def __init__(self, expected: int) -> None:
        self._left = expected
        self.all = trio.Event()

    def one(self) -> None:
        self._left -= 1
        if not self._left:
            self.all.set()


class Member(creche.Actor):
    """One of a group that restarts together."""

    def __init__(self, births: list[Born]) -> None:
        births[-1].one()

    async def die(self) -> None:
        raise RuntimeError


# --- calls ----------------------------------------------------------------------------------------------------

Asking = Callable[[creche.Handle[Echo], int], Awaitable[None]]


async def by_ask(handle: creche.Handle[Echo], asks: int) -> None:
    for number in range(asks):
        await handle.ask.echo(number)


async def by_call(handle: creche.Handle[Echo], asks: int) -> None:
    for number in range(asks):
        await handle.call(Echo.echo, number)


async def by_call_many(handle: creche.Handle[Echo], asks: int) -> None:
    for first in range(0, asks, MANY):
        await handle.call_many(Echo.echo, [(number,) for number in range(first, first + MANY)])


async def by_within_call(handle: creche.Handle[Echo], asks: int) -> None:
    for number in range(asks):
        await handle.within(LONG).call(Echo.echo, number)


async def by_within_ask(handle: creche.Handle[Echo], asks: int) -> None:
    for number in range(asks):
        await handle.within(LONG).ask.echo(number)


async def by_fail_after_call(handle: creche.Handle[Echo], asks: int) -> None:
    for number in range(asks):
        with trio.fail_after(LONG):
            await handle.call(Echo.echo, number)


def ask(asking: Asking, callers: int, each: int, *, hooked: bool = False) -> float:
    """So many tasks ask so many times each; microseconds per ask."""
    return trio.run(_ask, asking, callers, each, hooked)


async def _ask(asking: Asking, callers: int, each: int, hooked: bool) -> float:
    async with creche.open_runtime("benchmark") as runtime:
        if hooked:
            runtime.events.subscribe(lambda _event: None)
        handle = await runtime.start(creche.child(Echo))
        return await rivals.trio_crowd(callers, each, partial(asking, handle))


# --- casts ----------------------------------------------------------------------------------------------------

Casting = Callable[[creche.Handle[Echo]], None]


def by_cast_nowait(handle: creche.Handle[Echo]) -> None:
    for number in range(rivals.BURST):
        handle.cast_nowait(Echo.echo, number)


def by_sender(handle: creche.Handle[Echo]) -> None:
    sender = handle.sender(Echo.echo)
    for number in range(rivals.BURST):
        sender.send_nowait(number)


def cast(casting: Casting, operations: int) -> float:
    """Bursts of messages, each ended by an ask; microseconds per message."""
    return trio.run(_cast, casting, max(operations // rivals.BURST, 1))


async def _cast(casting: Casting, bursts: int) -> float:
    async with creche.open_runtime("benchmark") as runtime:
        handle = await runtime.start(creche.child(Echo))
        with Stopwatch() as watch:
            for _ in range(bursts):
                casting(handle)
                await handle.ask.echo(0)
    return watch.elapsed / (bursts * rivals.BURST)


def heartbeat(beats: int) -> list[float]:
    """How long one checkpoint takes beside an actor whose mailbox is never empty: median and 99th percentile."""
    gaps = trio.run(_heartbeat, beats)
    return [statistics.median(gaps), harness.percentile(gaps, 0.99)]


async def _heartbeat(beats: int) -> list[float]:
    gaps: list[float] = []
    count = [0]
    sent = 0
    async with creche.open_runtime("benchmark") as runtime:
        handle = await runtime.start(creche.child(Tally, count))
        while len(gaps) < beats:
            while sent - count[0] < FLOOD:
                handle.cast_nowait(Tally.add, 1)
                sent += 1
            before = harness.preemptions()
            began = time.perf_counter()
            await trio.lowlevel.checkpoint()
            gap = (time.perf_counter() - began) * 1e6
            if harness.preemptions() == before:
                gaps.append(gap)
    return gaps


# --- crashes --------------------------------------------------------------------------------------------------


def restart(crashes: int, callers: int = 0) -> list[float]:
    """From the crash to the next handler, median and 99th percentile; crash and ask as the caller sees it; one ask.

    The ask is timed in the same loop and with the same clock, so that the two are comparable: the other rows' asks are
    means of a CPU clock. So many `callers` meanwhile ask other actors without a pause, four of them each.
    """
    return trio.run(_restart, crashes, callers)


async def _restart(crashes: int, callers: int) -> list[float]:
    marks: list[float] = []
    gaps: list[float] = []
    seen: list[float] = []
    asks: list[float] = []
    async with creche.open_runtime("benchmark", intensity=NEVER_GIVE_UP) as runtime, trio.open_nursery() as nursery:
        handle = await runtime.start(creche.child(Phoenix, marks).options(backoff=AT_ONCE))
        for _ in range(0, callers, 4):
            other = await runtime.start(creche.child(Echo))
            for _ in range(4):
                nursery.start_soon(by_ask, other, sys.maxsize)
        while len(gaps) < crashes:
            marks.clear()
            before = harness.preemptions()
            began = time.perf_counter()
            handle.cast_nowait(Phoenix.die)
            await handle.ask.rise()
            risen = time.perf_counter()
            await handle.ask.rise()  # the second message of this incarnation is like all the later ones
            ready = time.perf_counter()
            await handle.ask.rise()
            answered = time.perf_counter()
            if harness.preemptions() == before:
                gaps.append((marks[1] - marks[0]) * 1e6)
                seen.append((risen - began) * 1e6)
                asks.append((answered - ready) * 1e6)
        nursery.cancel_scope.cancel()
    return [statistics.median(gaps), harness.percentile(gaps, 0.99), statistics.median(seen), statistics.median(asks)]


def group_restart(count: int) -> list[float]:
    """The first of so many children crashes, all restart: microseconds per child."""
    return [trio.run(_group_restart, count)]


async def _group_restart(count: int) -> float:
    births = [Born(count)]
    members = [
        creche.child(Member, births).options(name=f"member-{number}", backoff=AT_ONCE) for number in range(count)
    ]
    family = creche.supervisor("family", *members, strategy="one_for_all", intensity=NEVER_GIVE_UP)
    async with creche.open_runtime("benchmark") as runtime:
        await runtime.start(family)
        births.append(Born(count))
        first = runtime.handle("root/family/member-0", Member)
        with Stopwatch() as watch:
            first.cast_nowait(Member.die)
            await births[-1].all.wait()
    return watch.elapsed / count


# --- a crowd of actors ----------------------------------------------------------------------------------------


def start_each(count: int) -> list[float]:
    """`runtime.start` for one actor after the other, and the stop of them all; microseconds for each."""
    return trio.run(_start_each, count)


async def _start_each(count: int) -> list[float]:
    specs = [creche.child(Echo).options(name=f"echo-{number}") for number in range(count)]
    with Stopwatch() as whole:
        async with creche.open_runtime("benchmark") as runtime:
            with Stopwatch() as starting:
                for spec in specs:
                    await runtime.start(spec)
    return [starting.elapsed / count, (whole.elapsed - starting.elapsed) / count]


def start_families(count: int) -> list[float]:
    """Static children of supervisors, and the stop of them all; microseconds for each."""
    return trio.run(_start_families, count)


async def _start_families(count: int) -> list[float]:
    specs = families(count)
    with Stopwatch() as whole:
        async with creche.open_runtime("benchmark") as runtime:
            with Stopwatch() as starting:
                for family in specs:
                    await runtime.start(family)
    return [starting.elapsed / count, (whole.elapsed - starting.elapsed) / count]


def families(count: int) -> Sequence[Any]:
    """So many actors, under supervisors of at most `FAMILY` children."""
    return [
        creche.supervisor(
            f"family-{first}",
            *(creche.child(Echo).options(name=f"echo-{number}") for number in range(first, min(first + FAMILY, count))),
        )
        for first in range(0, count, FAMILY)
    ]


def make_specs(count: int) -> list[float]:
    """`child` with a name, nothing started; microseconds for each."""
    with Stopwatch() as watch:
        for number in range(count):
            creche.child(Echo).options(name=f"echo-{number}")
    return [watch.elapsed / count]


# --- memory ---------------------------------------------------------------------------------------------------


async def memory_of_started(count: int) -> list[float]:
    """Bytes of each actor started at run time, all from one spec, with its handle: never asked, asked once."""
    spec = creche.child(Echo)
    async with creche.open_runtime("benchmark") as runtime:
        scale = rivals.Scale()
        handles = [await runtime.start(spec) for _ in range(count)]
        idle = scale.each(count)
        for handle in handles:
            await handle.ask.echo(1)
        return [idle, scale.each(count)]


async def memory_of_static(count: int) -> list[float]:
    """Bytes of each static child of a supervisor, never asked: without its spec, and with it."""
    scale = rivals.Scale()
    specs = families(count)
    spec = scale.each(count)
    async with creche.open_runtime("benchmark") as runtime:
        scale = rivals.Scale()
        for family in specs:
            await runtime.start(family)
        idle = scale.each(count)
    return [idle, idle + spec]
