"""How the benchmarks measure, and the command line that they share.

Theory of operation
-------------------
A machine's speed drifts with whatever else it does, so nothing here is judged by its own time. A *probe* measures
one or several *figures* (microseconds or bytes); a *row* is the ratio of two figures. Each round runs every probe
once, in an order shuffled anew, and a row takes the ratio of the two figures of the same round. Its value is the
median over all rounds, its spread the range of the middle half of them.

Loops are timed with the thread's CPU clock: everything that is measured keeps its one thread busy from beginning to
end, and the time that the machine gave to other processes in between is not ours. Single latencies are too short for
that clock and use the wall clock; so do other programs. Samples during which the system gave the processor to somebody
else are not counted.

A probe that cannot run here, because a program is not installed, raises `Missing`. Its rows are printed with the
reason instead of a value.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

_WHOSE = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)  # only Linux counts for each thread


class Missing(Exception):
    """A probe cannot run here; the text says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much work one round does."""

    rounds: int
    operations: int  # of the cheap kinds, such as calls
    crowd: int  # actors that live at the same time
    asks_each: int  # at least so many for each caller, so that starting the callers does not count

    def share(self, divisor: int) -> int:
        """The number of operations for a probe whose operations are dearer."""
        return max(self.operations // divisor, 20)


FULL = Size(rounds=7, operations=20_000, crowd=10_000, asks_each=200)
SMOKE = Size(rounds=1, operations=400, crowd=100, asks_each=5)


@dataclass(frozen=True, slots=True)
class Probe:
    """`run` gives one value for each of `figures`: microseconds per operation, or bytes per actor.

    It may raise `Missing`.
    """

    figures: tuple[str, ...]
    run: Callable[[Size], Sequence[float]]
    once: bool = False  # deterministic and slow: the first round's value stands for all

    def of(self, part: str) -> Probe:
        """The same, its figures named after a part: those of two parts may have the same names."""
        return replace(self, figures=tuple(f"{part}.{figure}" for figure in self.figures))


@dataclass(frozen=True, slots=True)
class Row:
    """The ratio of two figures, and the goal that it should not exceed; without a goal it is for information."""

    name: str
    over: str
    under: str
    goal: float | None
    text: str

    def of(self, part: str) -> Row:
        """The same of such figures."""
        return Row(f"{part}.{self.name}", f"{part}.{self.over}", f"{part}.{self.under}", self.goal, self.text)


@dataclass(slots=True)
class Figures:
    """One value for each round, by figure; and why others have none."""

    values: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    missing: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Result:
    """What a row came to."""

    row: Row
    value: float
    spread: tuple[float, float]  # the quartiles of the rounds' ratios
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
            "iqr": [round(end, 3) for end in self.spread],
            "figures": {self.row.over: round(self.over, 3), self.row.under: round(self.under, 3)},
            "text": self.row.text,
        }

    def as_line(self) -> str:
        goal = "" if self.row.goal is None else f"{self.row.goal:g}"
        met = {None: "", True: "yes", False: "NO"}[self.met]
        spread = "-".join(f"{end:.2f}" for end in self.spread)
        return (
            f"{self.row.name:<26} {self.value:>6.2f} {goal:>5} {met:<3} {spread:<11} "
            f"{self.over:>9.2f} {self.under:>9.2f}  {self.row.text}"
        )


@dataclass(frozen=True, slots=True)
class Blank:
    """A row that could not be measured here."""

    row: Row
    reason: str

    def as_json(self) -> dict[str, object]:
        return {"value": None, "goal": self.row.goal, "met": None, "missing": self.reason, "text": self.row.text}

    def as_line(self) -> str:
        goal = "" if self.row.goal is None else f"{self.row.goal:g}"
        return f"{self.row.name:<26} {'-':>6} {goal:>5} {'':<3} {'not measured':<31}  {self.row.text}"


# --- measuring ------------------------------------------------------------------------------------------------


class Stopwatch:
    """CPU microseconds of this thread inside the ``with`` block."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def __enter__(self) -> Stopwatch:
        self._began = time.thread_time()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.elapsed = (time.thread_time() - self._began) * 1e6


def preemptions() -> int:
    """How often the system has taken the processor away from us so far."""
    return resource.getrusage(_WHOSE).ru_nivcsw


def percentile(samples: Sequence[float], fraction: float) -> float:
    """The sample below which `fraction` of all lie."""
    ordered = sorted(samples)
    return ordered[min(int(len(ordered) * fraction), len(ordered) - 1)]


def measure(probes: Sequence[Probe], size: Size, rng: random.Random) -> Figures:
    """Run all probes for all rounds."""
    figures = Figures()
    for _ in range(size.rounds):
        for probe in rng.sample(probes, len(probes)):
            if probe.figures[0] not in figures.missing:
                _run(probe, size, figures)
    return figures


def _run(probe: Probe, size: Size, figures: Figures) -> None:
    known = figures.values.get(probe.figures[0])
    if probe.once and known:
        values: Sequence[float] = [figures.values[name][0] for name in probe.figures]
    else:
        gc.collect()
        try:
            values = probe.run(size)
        except Missing as reason:
            figures.missing.update(dict.fromkeys(probe.figures, str(reason)))
            return
    for name, value in zip(probe.figures, values, strict=True):
        figures.values.setdefault(name, []).append(value)


def evaluate(probes: Sequence[Probe], rows: Sequence[Row], size: Size, seed: int | None = None) -> list[Result | Blank]:
    """What the rows came to; only the probes that they draw on are run, in an order that comes from the seed."""
    figures = measure(needed(probes, rows), size, random.Random(seed))
    return [_result(row, figures) for row in rows]


def _result(row: Row, figures: Figures) -> Result | Blank:
    for name in (row.over, row.under):
        if name in figures.missing:
            return Blank(row, figures.missing[name])
    over, under = figures.values[row.over], figures.values[row.under]
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return Result(row, statistics.median(ratios), _quartiles(ratios), statistics.median(over), statistics.median(under))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def needed(probes: Sequence[Probe], rows: Sequence[Row]) -> list[Probe]:
    """The probes that the rows draw on."""
    wanted = {name for row in rows for name in (row.over, row.under)}
    return [probe for probe in probes if not wanted.isdisjoint(probe.figures)]


# --- output ---------------------------------------------------------------------------------------------------


Records = Sequence[Mapping[str, object]]  # all with the same keys


def machine() -> dict[str, object]:
    """Where the figures come from; the load is that of this moment."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "trio": trio.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def _processor() -> str:
    """What Linux calls it, else what Python does."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def print_json(results: Sequence[Result | Blank], size: Size, facts: Mapping[str, object], **more: Records) -> None:
    """``{"machine": {...}, "rounds": N, "rows": {row: {"value", "goal", "met", "iqr", "figures", "text"}}}``.

    `more` is what a program has to tell besides rows.
    """
    rows = {result.row.name: result.as_json() for result in results}
    print(json.dumps({"machine": facts, "rounds": size.rounds, "rows": rows, **more}, indent=2))


def print_table(results: Sequence[Result | Blank]) -> None:
    """For people."""
    print(f"{'row':<26} {'value':>6} {'goal':>5} {'met':<3} {'iqr':<11} {'over':>9} {'under':>9}  what")
    for result in results:
        print(result.as_line())
    print("\nvalue: median of the rounds' ratios; iqr: their quartiles; over, under: median us (memory: bytes)")
    for reason in dict.fromkeys(result.reason for result in results if isinstance(result, Blank)):
        print(f"not measured: {reason}")


def print_records(name: str, records: Records) -> None:
    """For people, too; nothing where there are none."""
    if not records:
        return
    lines = [list(map(str, line)) for line in (records[0], *(record.values() for record in records))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{name}:")
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def note(facts: Mapping[str, object]) -> None:
    """A remark that is no result."""
    print(", ".join(f"{name} {value}" for name, value in facts.items()), file=sys.stderr)


# --- the command ----------------------------------------------------------------------------------------------


def command(
    name: str,
    what: str,
    rows: Sequence[Row],
    run: Callable[[Sequence[Row], Size], Sequence[Result | Blank]],
    arguments: Sequence[str] | None = None,
    more: Callable[[Size], Mapping[str, Records]] = lambda _: {},
) -> None:
    """``python -m benchmarks.NAME``: `run` measures those of the rows that are asked for, and they are printed.

    `more` is called afterwards, for what there is to tell besides rows.
    """
    parser = _parser(name, what)
    options = parser.parse_args(arguments)
    size = SMOKE if options.smoke else FULL
    size = replace(size, rounds=options.rounds or size.rounds)
    wanted = [row for row in rows if not options.only or any(part in row.name for part in options.only)]
    if not wanted:
        parser.error(f"no such row; there are {', '.join(row.name for row in rows)}")
    facts = machine()  # the load before: afterwards it is our own
    note(facts)
    results, besides = run(wanted, size), more(size)
    if options.json:
        print_json(results, size, facts, **besides)
        return
    print_table(results)
    for title, records in besides.items():
        print_records(title, records)


def _parser(name: str, what: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=f"Measure {what}.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--smoke", action="store_true", help="see that everything runs; the values mean nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured")
    parser.add_argument("--only", action="append", metavar="ROW", help="rows whose name contains this; repeatable")
    return parser
