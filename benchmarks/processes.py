"""What actors in processes cost, measured: ``python -m benchmarks.processes``.

Wall clock, since several processes work at once; so the ratios mean something on an idle machine only, but for those
against a control that does the same work in the same round: plain Python processes that are told to begin and say when
they are done, and `concurrent.futures.ProcessPoolExecutor` with its "spawn" method, which forks as little as we do.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import trio

import creche

from . import _harness as harness
from ._crunch import crunch
from ._harness import Probe, Row, Size

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
ROUNDS = 200_000  # of one task that computes
LARGE = bytes(1_000_000)

Call = tuple[Callable[[Any], object], Any]
Measure = Callable[[list[Call]], float]


def computing(size: Size) -> int:
    """How many tasks for each process."""
    return max(size.operations // 1000, 2)


async def in_pool(workers: int, calls: list[Call]) -> float:
    """Microseconds for all calls, sent at once to a pool of processes that has been warmed up."""
    async with creche.open_runtime("benchmark") as runtime:
        pool = await runtime.start(creche.pool("workers", creche.process_child(creche.ProcessWorker), size=workers))
        await pool.broadcast(creche.ProcessWorker.run, os.getpid)
        await pool.call_many(creche.ProcessWorker.run, calls[:workers])
        began = time.perf_counter()
        for outcome in await pool.call_many(creche.ProcessWorker.run, calls):
            outcome.unwrap()
        return (time.perf_counter() - began) * 1e6


async def one_by_one(calls: list[Call]) -> float:
    """The same with one process, each call when the one before it has been answered."""
    async with creche.open_runtime("benchmark") as runtime:
        worker = await runtime.start(creche.process_child(creche.ProcessWorker))
        await worker.call_many(creche.ProcessWorker.run, calls[:1])
        began = time.perf_counter()
        for fn, argument in calls:
            await worker.ask.run(fn, argument)
        return (time.perf_counter() - began) * 1e6


async def start() -> float:
    """Until the first answer of a new process."""
    async with creche.open_runtime("benchmark") as runtime:
        began = time.perf_counter()
        worker = await runtime.start(creche.process_child(creche.ProcessWorker))
        await worker.ask.run(abs, 1)
        return (time.perf_counter() - began) * 1e6


def in_executor(workers: int, calls: list[Call], *, in_turn: bool = False) -> float:
    """What the standard library needs for the same."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as executor:
        for warm in [executor.submit(crunch, ROUNDS) for _ in range(workers)]:
            warm.result()
        began = time.perf_counter()
        if in_turn:
            for fn, argument in calls:
                executor.submit(fn, argument).result()
        else:
            for future in [executor.submit(fn, argument) for fn, argument in calls]:
                future.result()
        return (time.perf_counter() - began) * 1e6


def start_executor() -> float:
    began = time.perf_counter()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        executor.submit(abs, 1).result()
        return (time.perf_counter() - began) * 1e6


def in_plain_processes(workers: int, tasks: int) -> float:
    """The control: nothing between the work and the machine."""
    command = [sys.executable, "-m", "benchmarks._crunch", str(tasks), str(ROUNDS)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(workers)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    began = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    elapsed = (time.perf_counter() - began) * 1e6
    for process in processes:
        process.communicate()
    return elapsed


# --- figures: microseconds per task ---------------------------------------------------------------


def compute(size: Size) -> list[float]:
    """One process, all cores, and both controls, as close together as can be."""
    tasks = computing(size)
    few: list[Call] = [(crunch, ROUNDS)] * tasks
    many = few * CORES
    return [
        trio.run(in_pool, 1, few) / len(few),
        in_plain_processes(1, tasks) / len(few),
        trio.run(in_pool, CORES, many) / len(many),
        in_plain_processes(CORES, tasks) / len(many),
        in_executor(CORES, many) / len(many),
    ]


def tiny(size: Size) -> list[Call]:
    return [(abs, -1)] * size.share(10)


def large(size: Size) -> list[Call]:
    return [(len, LARGE)] * size.share(100)


def per_task(measure: Measure, calls: Callable[[Size], list[Call]], size: Size) -> list[float]:
    made = calls(size)
    return [measure(made) / len(made)]


def ours(calls: list[Call]) -> float:
    return trio.run(in_pool, CORES, calls)


def ours_in_turn(calls: list[Call]) -> float:
    return trio.run(one_by_one, calls)


def probes() -> list[Probe]:
    """All of this page."""
    figures: list[tuple[str, Measure, Callable[[Size], list[Call]]]] = [
        ("tiny", ours, tiny),
        ("tiny_executor", partial(in_executor, CORES), tiny),
        ("tiny_in_turn", ours_in_turn, tiny),
        ("tiny_in_turn_executor", partial(in_executor, 1, in_turn=True), tiny),
        ("large", ours, large),
        ("large_executor", partial(in_executor, CORES), large),
        ("large_in_turn", ours_in_turn, large),
        ("large_in_turn_executor", partial(in_executor, 1, in_turn=True), large),
    ]
    return [
        Probe(("one", "one_plain", "all", "all_plain", "all_executor"), compute),
        *(Probe((name,), partial(per_task, measure, calls)) for name, measure, calls in figures),
        Probe(("start",), lambda _: [trio.run(start)]),
        Probe(("start_executor",), lambda _: [start_executor()]),
    ]


ROWS = [
    Row("cores", "all", "one", round(1 / (0.9 * CORES), 3), f"computing: {CORES} processes vs one, time per task"),
    Row("cores_control", "all_plain", "one_plain", None, "the same without creche: what this machine has to give now"),
    Row("cores_plain", "all", "all_plain", 1.1, f"computing: a pool of {CORES} vs as many plain processes"),
    Row("cores_executor", "all", "all_executor", 1.05, "computing: the pool vs ProcessPoolExecutor"),
    Row("tiny", "tiny", "tiny_executor", None, "tasks that do nothing, sent at once: vs ProcessPoolExecutor"),
    Row("tiny_in_turn", "tiny_in_turn", "tiny_in_turn_executor", None, "tasks that do nothing, one after the other"),
    Row("large", "large", "large_executor", 1.0, "arguments of 1 MB, sent at once"),
    Row("large_in_turn", "large_in_turn", "large_in_turn_executor", 1.0, "arguments of 1 MB, one after the other"),
    Row("start", "start", "start_executor", None, "from nothing to the first answer"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    logging.getLogger("creche").disabled = True
    harness.command("processes", "processes", ROWS, partial(harness.evaluate, probes()), arguments)


if __name__ == "__main__":
    main()
