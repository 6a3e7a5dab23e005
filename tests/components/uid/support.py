"""What the tests of uid share: clocks, a running component, its state file."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

import creche
from creche.components import uid as u

START = 1_700_000_000_000
FOREVER = 1 << 60
QUICK = creche.Backoff(first=0.001, cap=0.001)
UNDER_FIRE = creche.Intensity(10_000, 60.0)
REPOSITORY = Path(__file__).parents[3]


class Clock:
    """A wall clock set by hand."""

    def __init__(self, ms: int = START) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms


class ShiftedClock:
    """The real one, `shift` milliseconds off. `read` is set when somebody reads it."""

    def __init__(self) -> None:
        self.shift = 0
        self.read = trio.Event()

    def __call__(self) -> int:
        self.read.set()
        return time.time_ns() // 1_000_000 + self.shift


@asynccontextmanager
async def running(
    config: u.Config, now_ms: Callable[[], int] | None = None, name: str = "test"
) -> AsyncGenerator[tuple[creche.Runtime, u.Uid]]:
    spec = u.component(config) if now_ms is None else u.component(config, now_ms=now_ms)
    async with creche.open_runtime(name, intensity=UNDER_FIRE) as runtime:
        yield runtime, await runtime.start(spec.options(backoff=QUICK))


async def kill(runtime: creche.Runtime, uid: u.Uid) -> None:
    """Kill the actor, and wait until its successor runs."""
    node = runtime.node_of(uid)
    successor = node.incarnation + 1
    assert runtime.kill(uid, "test")
    while (node.incarnation, node.state.name) != (successor, "RUNNING"):
        await node.wait_for_change()


def rows(path: str) -> list[tuple[int, str, int]]:
    """Worker id, owner and mark of each row of a state file."""
    db = sqlite3.connect(path)
    try:
        return db.execute("SELECT id, owner, mark FROM worker_ids ORDER BY id").fetchall()
    finally:
        db.close()


def sql(path: str, statement: str) -> None:
    db = sqlite3.connect(path)
    try:
        with db:
            db.execute(statement)
    finally:
        db.close()


def unix_ms(number: int) -> int:
    return round(u.parse(number).time.timestamp() * 1000)


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", script, *arguments]  # no -W error: a fork beside threads is what is tested
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
