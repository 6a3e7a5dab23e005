"""How the benchmarks measure.

Theory of operation
-------------------
A machine's speed drifts with whatever else it does, so nothing here is judged by its own time. A *probe* measures
one or several *figures* (microseconds or bytes); a *row* is the ratio of two figures. Each round runs every probe
once, in an order shuffled anew, and a row takes the ratio of the two figures of the same round. Its value is the
median over all rounds.

Loops are timed with the thread's CPU clock: everything that is measured keeps its one thread busy from beginning to
end, and the time that the machine gave to other processes in between is not ours. Single latencies are too short for
that clock and use the wall clock.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

Figures = dict[str, list[float]]  # {figure: one value for each round}


@dataclass(frozen=True, slots=True)
class Size:
    """How much work one round does."""

    rounds: int
    operations: int  # of the cheap kinds, such as calls
    crowd: int  # actors that live at the same time

    def share(self, divisor: int) -> int:
        """The number of operations for a probe whose operations are dearer."""
        return max(self.operations // divisor, 20)


FULL = Size(rounds=7, operations=20_000, crowd=10_000)
SMOKE = Size(rounds=1, operations=400, crowd=100)


@dataclass(frozen=True, slots=True)
class Probe:
    """`run` gives one value for each of `figures`: microseconds per operation, or bytes per actor."""

    figures: tuple[str, ...]
    run: Callable[[Size], Sequence[float]]
    once: bool = False  # deterministic and slow: the first round's value stands for all


@dataclass(frozen=True, slots=True)
class Row:
    """The ratio of two figures, and the goal that it should not exceed; without a goal it is for information."""

    name: str
    over: str
    under: str
    goal: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a row came to."""

    row: Row
    value: float
    spread: tuple[float, float]  # the smallest and the largest ratio of a round
    over: float  # medians of the two figures
    under: float

    @property
    def met(self) -> bool | None:
        return None if self.row.goal is None else self.value <= self.row.goal

    def as_json(self) -> dict[str, object]:
        return {
            "value": round(self.value, 3),
            "goal": self.row.goal,
            "met": self.met,
            "spread": [round(end, 3) for end in self.spread],
            self.row.over: round(self.over, 3),
            self.row.under: round(self.under, 3),
        }


class Stopwatch:
    """CPU microseconds of this thread inside the ``with`` block."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def __enter__(self) -> Stopwatch:
        self._began = time.thread_time()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.elapsed = (time.thread_time() - self._began) * 1e6


def percentile(samples: Sequence[float], fraction: float) -> float:
    """The sample below which `fraction` of all lie."""
    ordered = sorted(samples)
    return ordered[min(int(len(ordered) * fraction), len(ordered) - 1)]


@contextmanager
def replaced(module: object, name: str, value: object) -> Iterator[None]:
    """Give a module's constant another value for the length of the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def measure(probes: Sequence[Probe], size: Size, rng: random.Random) -> Figures:
    """Run all probes for all rounds."""
    figures: Figures = {name: [] for probe in probes for name in probe.figures}
    for number in range(size.rounds):
        for probe in rng.sample(probes, len(probes)):
            _run(probe, size, figures, first=number == 0)
    return figures


def _run(probe: Probe, size: Size, figures: Figures, *, first: bool) -> None:
    if probe.once and not first:
        values: Sequence[float] = [figures[name][0] for name in probe.figures]
    else:
        gc.collect()
        values = probe.run(size)
    for name, value in zip(probe.figures, values, strict=True):
        figures[name].append(value)


def evaluate(rows: Sequence[Row], figures: Mapping[str, Sequence[float]]) -> list[Result]:
    """The rows' values."""
    results: list[Result] = []
    for row in rows:
        ratios = [a / b for a, b in zip(figures[row.over], figures[row.under], strict=True)]
        spread = (min(ratios), max(ratios))
        over, under = (statistics.median(figures[name]) for name in (row.over, row.under))
        results.append(Result(row, statistics.median(ratios), spread, over, under))
    return results


def needed(probes: Sequence[Probe], rows: Sequence[Row]) -> list[Probe]:
    """The probes that the rows draw on."""
    wanted = {name for row in rows for name in (row.over, row.under)}
    return [probe for probe in probes if not wanted.isdisjoint(probe.figures)]


# --- output ---------------------------------------------------------------------------------------------------


def machine() -> str:
    """One line about where the figures come from."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return f"Python {platform.python_version()}, trio {trio.__version__}, {os.cpu_count()} cores, load {load}"


def print_json(results: Sequence[Result]) -> None:
    """``{row: {"value", "goal", "met", "spread", and the two figures}}``."""
    print(json.dumps({result.row.name: result.as_json() for result in results}, indent=2))


def print_table(results: Sequence[Result], later: Sequence[str]) -> None:
    """For people."""
    print(f"{'row':<24} {'value':>7} {'goal':>6} {'met':<4} {'rounds':<13} {'over':>9} {'under':>9}  what")
    for result in results:
        print(_line(result))
    print("\nvalue: median ratio; rounds: smallest and largest; over, under: median us (memory: bytes)")
    print(f"later: {'; '.join(later)}")


def _line(result: Result) -> str:
    row = result.row
    goal = "" if row.goal is None else f"{row.goal:g}"
    met = {None: "", True: "yes", False: "NO"}[result.met]
    spread = "-".join(f"{end:.2f}" for end in result.spread)
    return (
        f"{row.name:<24} {result.value:>7.2f} {goal:>6} {met:<4} {spread:<13} "
        f"{result.over:>9.2f} {result.under:>9.2f}  {row.text}"
    )


def note(text: str) -> None:
    """A remark that is no result."""
    print(text, file=sys.stderr)
