"""What the runtimes of one deterministic run share: where their randomness comes from, and time for blocking code.

A runtime that is opened inside of `creche.testing.run` finds its simulation here; one that is opened elsewhere finds
None and works with threads and the system's entropy. Nothing else in the package knows the difference.

Blocking code, simulated
------------------------
Trio's virtual clock takes a task that waits for a thread for one that waits for time, and jumps ahead. So blocking code
runs inline, called by a timer between two steps of tasks, at one moment of a span of virtual time that is drawn for it.
Up to that moment it is as if no thread were free yet: a cancel is obeyed and the code never runs. After it, it is as if
the thread had still to finish: a cancel waits, and the result comes back at the end of the span all the same. Other
tasks run before and after; they see what a thread would let them see, except that no two pieces of blocking code run at
the same time.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from outcome import Outcome, capture

from .errors import SpecInvalid
from .virtual_time import VirtualTime, VirtualTimer

if TYPE_CHECKING:
    from .runtime import Runtime

R = TypeVar("R")

OPENED_AT = 1_767_225_600.0  # 2026-01-01 00:00 UTC: what the wall clock of a deterministic run says at its beginning

# Seconds of virtual time that one piece of blocking code takes, drawn from the Random.
BlockingTime = Callable[[random.Random], float]


def up_to_ten_milliseconds(dice: random.Random) -> float:
    """The default: evenly from 0 to 0.01 s, as a small transaction on a local disk."""
    return dice.uniform(0.0, 0.01)


class Simulation:
    """One deterministic run, as its runtimes see it. `adopt` is called with each of them before its tree starts."""

    def __init__(self, seed: str, blocking: BlockingTime, adopt: Callable[[Runtime], object]) -> None:
        self._seed = seed
        self._blocking = blocking
        self._dice = random.Random(f"{seed}:blocking")
        self._bits = random.Random(f"{seed}:bits")
        self._runtimes = 0
        self.time = VirtualTime()
        self.adopt = adopt

    def run(self, async_fn: Callable[[], Awaitable[R]], *more: trio.abc.Instrument) -> R:
        """A `trio.run` in which the simulation is found, in its time."""
        context = copy_context()
        context.run(SIMULATION.set, self)
        return context.run(partial(trio.run, async_fn, clock=self.time.clock, instruments=[self.time, *more]))

    def next_random(self, seed: int | None) -> random.Random:
        """The randomness of the next runtime, which may have a `seed` of its own: else another stream for each."""
        self._runtimes += 1
        return random.Random(f"{self._seed}:runtime {self._runtimes}" if seed is None else seed)

    def wall_clock(self) -> float:
        """See `Ambient`."""
        return OPENED_AT + trio.current_time()

    def stopwatch(self) -> float:
        """See `Ambient`. Code takes no time."""
        return trio.current_time()

    def randbits(self, k: int) -> int:
        """See `Ambient`."""
        return self._bits.getrandbits(k)

    async def run_blocking(
        self, fn: Callable[..., R], args: tuple[Any, ...], limiter: trio.CapacityLimiter | None
    ) -> R:
        """See `Runtime.run_blocking`."""
        if limiter is None:
            limiter = trio.to_thread.current_default_thread_limiter()
        borrower = object()  # not the task, which may hold a token already: as in `trio.to_thread.run_sync`
        await _acquire(limiter, borrower)
        try:
            return await self._result_of(partial(_call, copy_context(), fn, args))
        finally:
            limiter.release_on_behalf_of(borrower)

    async def _result_of(self, work: Callable[[], R]) -> R:
        task = trio.lowlevel.current_task()
        begun = False

        def begin() -> R:
            nonlocal begun
            begun = True
            return work()

        def abort(_: object) -> trio.lowlevel.Abort:
            if begun:
                return trio.lowlevel.Abort.FAILED
            beginning.cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        beginning = self.start_blocking(begin, partial(trio.lowlevel.reschedule, task))
        result: R = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def start_blocking(self, fn: Callable[[], R], deliver: Callable[[Outcome[R]], object]) -> VirtualTimer:
        """See `Runtime.start_blocking`. Returns the timer that it begins by."""
        whole = self._draw()
        until_run = whole * self._dice.random()

        def run() -> None:
            outcome = capture(fn)
            self.time.call_later(whole - until_run, partial(deliver, outcome))

        return self.time.call_later(until_run, run)

    def _draw(self) -> float:
        seconds = self._blocking(self._dice)
        if not 0 <= seconds < float("inf"):
            raise SpecInvalid("blocking", seconds, "a function that draws seconds from a Random, at least 0 and finite")
        return seconds


async def _acquire(limiter: trio.CapacityLimiter, borrower: object) -> None:
    """Without a checkpoint if nobody has to wait: what follows is one."""
    try:
        limiter.acquire_on_behalf_of_nowait(borrower)
    except trio.WouldBlock:
        await limiter.acquire_on_behalf_of(borrower)


def _call(context: Context, fn: Callable[..., R], args: tuple[Any, ...]) -> R:
    """As in a worker thread: in a copy of the context, and no async functions."""
    value = context.run(fn, *args)
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError(f"run_blocking needs a sync function, and {fn!r} is asynchronous")
    return value


SIMULATION: ContextVar[Simulation | None] = ContextVar("creche.simulation", default=None)
