"""What the tests of clog share: a runtime that logs to a file, and its lines read back."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

import creche
from creche.components import clog
from creche.runtime.events import Event, Ready

PATIENT = 30.0  # seconds after which a test that waits has failed
MANY = creche.Intensity(restarts=100_000, window=1.0)
AT_ONCE = creche.Backoff(first=0.0, cap=0.0)

Entry = dict[str, Any]


@dataclass
class Log:
    """A running clog and what it has written so far."""

    runtime: creche.Runtime
    handle: clog.Clog
    path: Path

    async def entries(self) -> list[Entry]:
        """All lines, after a flush."""
        await self.handle.flush()
        return read(self.path)

    async def entry(self) -> Entry:
        """The only line."""
        (only,) = await self.entries()
        return only

    async def kill(self) -> None:
        """Kill the clog actor and wait until its next incarnation is ready."""
        ready = trio.Event()

        def on_event(event: Event) -> None:
            if isinstance(event, Ready) and event.path == self.handle.path:
                ready.set()

        unsubscribe = self.runtime.events.subscribe(on_event)
        assert self.runtime.kill(self.handle, "test")
        await ready.wait()
        unsubscribe()


def read(path: Path) -> list[Entry]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


class Clock:
    """A wall clock that a test sets, in seconds since the epoch."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def log_to(path: Path, clock: Callable[[], float] = time.time, **config: Any) -> AsyncGenerator[Log]:
    """A runtime named ``svc`` with clog, in JSON from `info` up unless `config` says otherwise."""
    spec = clog.component(clog.Config(**{"output": str(path), **config}), clock=clock)
    with trio.fail_after(PATIENT):
        async with creche.open_runtime("svc", intensity=MANY) as runtime:
            handle = await runtime.start(spec.options(backoff=AT_ONCE, drain=1.0, shutdown=1.0))
            yield Log(runtime, handle, path)
