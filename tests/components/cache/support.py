"""What the tests of the cache share.

The contract is tested against every backend: a `Backend` opens a cache for a test, and knows how long "a second" is
there. What only the embedded one promises is tested apart.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import trio
import trio.testing

import creche
from creche.components import cache as c
from creche.components.cache.actor import CacheLease
from creche.components.cache.store import Store
from creche.runtime.cell import Cell

MANY_RESTARTS = creche.Intensity(restarts=1_000_000, window=1.0)
AT_ONCE = creche.Backoff(first=0.0, cap=0.0, jitter=0.0)
STEADY = c.LoadPolicy(jitter=0, early=0)
"""A policy without chance."""


@dataclass
class Opened:
    """A runtime with a cache in it."""

    runtime: creche.Runtime
    cache: c.Cache


class Backend(Protocol):
    """Where a cache of these tests lives."""

    name: str
    second: float
    """How long a second of the contract's tests is: all their times are multiples of it."""
    virtual: bool
    """Whether time stands still unless it is let pass, so that times can be told exactly."""

    def clock(self) -> trio.abc.Clock | None:
        """What a test runs under; None for the real one."""
        ...

    def opened(self, **config: Any) -> Any:
        """An async context manager that gives an `Opened`, whose cache is empty."""
        ...

    async def elapse(self, seconds: float) -> None:
        """Let so many of its seconds pass, and everybody see it."""
        ...


class Embedded:
    """In process, in virtual time."""

    name = "embedded"
    second = 1.0
    virtual = True

    def clock(self) -> trio.abc.Clock:
        return trio.testing.MockClock(autojump_threshold=0)

    @asynccontextmanager
    async def opened(self, **config: Any) -> AsyncGenerator[Opened]:
        config.setdefault("loading", STEADY)
        async with creche.open_runtime("test", intensity=MANY_RESTARTS, seed=1) as runtime:
            spec = c.component(c.Config(**config), now_ms=lambda: 1_000_000)
            yield Opened(runtime, await runtime.start(spec.options(backoff=AT_ONCE)))

    async def elapse(self, seconds: float) -> None:
        await trio.sleep(seconds * self.second)
        await trio.testing.wait_all_tasks_blocked()


BACKENDS: dict[str, Backend] = {"embedded": Embedded()}


class Boom(Exception):
    """The defect of these tests."""


@dataclass
class Source:
    """Where loads come from: counts them, and does what it is told."""

    value: Any = b"value"
    error: Exception | None = None
    calls: int = 0
    ended: int = 0
    before: Callable[[], Awaitable[object]] | None = None
    seen: list[Any] = field(default_factory=list[Any])

    async def load(self, *args: Any) -> Any:
        self.calls += 1
        self.seen.append(args)
        try:
            if self.before is not None:
                await self.before()
            if self.error is not None:
                raise self.error
            return self.value
        finally:
            self.ended += 1


class Gate:
    """Holds loads until it is opened."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.opened = trio.Event()

    async def hold(self) -> None:
        self.entered.set()
        await self.opened.wait()

    def open(self) -> None:
        self.opened.set()


async def settle() -> None:
    """Let everything run that can run without time going on."""
    await trio.testing.wait_all_tasks_blocked()


# --- for the tests of the embedded backend ----------------------------------------------------------------------------


def cell_of(cache: c.Cache) -> Cell:
    return cast("Cell", cache._node)


def lease_of(cache: c.Cache) -> CacheLease:
    lease = cell_of(cache).granted
    assert isinstance(lease, CacheLease)
    return lease


def store_of(cache: c.Cache) -> Store:
    return lease_of(cache).store


class FakeClock:
    """A clock for stores without a runtime."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
