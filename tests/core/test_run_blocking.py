"""Blocking code: in a worker thread in production, inline in a deterministic run, under one contract."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio
from outcome import Outcome, Value
from trio.testing import assert_checkpoints

import creche
from creche import testing
from creche.runtime.context import baggage, carrying
from tests.core.support import Boom

R = TypeVar("R")


def in_a_runtime(fn: Callable[[creche.Runtime], Awaitable[R]]) -> R:
    """`fn` in a deterministic run in which blocking code takes 2 seconds."""

    async def main() -> R:
        async with creche.open_runtime("blocking") as runtime:
            return await fn(runtime)

    return testing.run(main, blocking=lambda _: 2.0)


def test_blocking_code_runs_inline_and_takes_its_time() -> None:
    """In a deterministic run there is no thread; the call takes the time that is drawn, the code comes within it."""

    async def blocks(runtime: creche.Runtime) -> tuple[int, float, float]:
        ran_at = -1.0

        def fn(number: int) -> int:
            nonlocal ran_at
            ran_at = trio.current_time()
            return threading.get_ident() * number

        thread = await runtime.run_blocking(fn, 1)
        return thread, ran_at, trio.current_time()

    thread, ran_at, ended_at = in_a_runtime(blocks)
    assert thread == threading.get_ident()
    assert 0 < ran_at < ended_at == 2


def test_blocking_time_is_drawn_from_the_seed() -> None:
    """By default up to 10 ms, others for each call, the same for each run of the seed."""

    async def times() -> list[float]:
        async with creche.open_runtime("blocking") as runtime:
            took: list[float] = []
            for _ in range(5):
                before = trio.current_time()
                await runtime.run_blocking(int)
                took.append(trio.current_time() - before)
            return took

    first, again = testing.run(times, seed=5), testing.run(times, seed=5)
    assert first == again
    assert len(set(first)) == 5
    assert 0 <= min(first) <= max(first) <= 0.01


def test_blocking_code_cancelled_before_it_begins_never_runs() -> None:
    """A cancel during the first part of the simulated delay is obeyed at once."""

    async def blocks(runtime: creche.Runtime) -> tuple[bool, float, list[str]]:
        ran: list[str] = []
        with trio.move_on_after(1e-6) as scope:
            await runtime.run_blocking(ran.append, "ran")
        left_at = trio.current_time()
        await trio.sleep(10)
        return scope.cancelled_caught, left_at, ran

    assert in_a_runtime(blocks) == (True, 1e-6, [])


def test_blocking_code_that_has_begun_is_waited_for() -> None:
    """A cancel after it has begun waits for the rest of the delay; value and error come out all the same."""

    async def blocks(runtime: creche.Runtime) -> list[object]:
        async def cancelled_when_it_runs(fn: Callable[[], object]) -> object:
            with trio.CancelScope() as scope:
                try:
                    return await runtime.run_blocking(lambda: (scope.cancel(), fn())[1])
                except Boom as error:
                    return repr(error)
            return "cancelled"

        def fails() -> None:
            raise Boom

        return [await cancelled_when_it_runs(lambda: "value"), await cancelled_when_it_runs(fails), trio.current_time()]

    assert in_a_runtime(blocks) == ["value", "Boom()", 4.0]


async def most_at_once(runtime: creche.Runtime, limit: int, tasks: int) -> int:
    """How many tokens are out at most while `tasks` tasks run blocking code."""
    limiter = trio.CapacityLimiter(limit)
    seen: list[int] = []
    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(
                lambda: runtime.run_blocking(lambda: seen.append(limiter.borrowed_tokens), limiter=limiter)
            )
    assert len(seen) == tasks
    assert limiter.borrowed_tokens == 0
    return max(seen)


def test_run_blocking_honours_its_limiter() -> None:
    """In both modes: no more at once than it allows, and every token comes back."""

    async def limited() -> list[int]:
        async with creche.open_runtime("limits") as runtime:
            return [await most_at_once(runtime, limit, 6) for limit in (1, 3)]

    assert testing.run(limited) == [1, 3]
    assert trio.run(limited)[0] == 1


def test_run_blocking_is_always_a_checkpoint() -> None:
    """In both modes, and however short it takes."""

    async def checkpoints() -> None:
        async with creche.open_runtime("checkpoints") as runtime:
            with assert_checkpoints():
                await runtime.run_blocking(int)
            with trio.CancelScope() as scope:
                scope.cancel()
                await runtime.run_blocking(pytest.fail, "a cancelled call ran")
            assert scope.cancelled_caught

    trio.run(checkpoints)
    testing.run(checkpoints, blocking=lambda _: 0.0)


def test_run_blocking_refuses_async_functions() -> None:
    """In both modes, with a TypeError that says so."""

    async def misuses() -> None:
        async with creche.open_runtime("misuse") as runtime:
            with pytest.raises(TypeError, match="sync function"):
                await runtime.run_blocking(trio.sleep, 1)  # type: ignore[unused-coroutine]

    trio.run(misuses)
    testing.run(misuses)


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_an_impossible_blocking_time_is_refused(seconds: float) -> None:
    """It must be a finite number of seconds, and the error says which it was."""

    async def blocks() -> None:
        async with creche.open_runtime("blocking") as runtime:
            await runtime.run_blocking(pytest.fail, "it ran")

    with pytest.raises(creche.SpecInvalid, match=f"blocking = {seconds}"):
        testing.run(blocks, blocking=lambda _: seconds)


def delivered(runtime: creche.Runtime, fn: Callable[[], object]) -> trio.abc.ReceiveChannel[Outcome[object]]:
    """What `start_blocking` delivers."""
    send, receive = trio.open_memory_channel[Outcome[object]](1)
    runtime.start_blocking(fn, send.send_nowait)
    return receive


async def test_started_blocking_code_runs_in_a_thread_and_its_outcome_is_delivered() -> None:
    """Value or error, in the runtime's thread, without a task that waits; with the context of who started it."""
    seen: list[object] = []

    def fn() -> int:
        seen.extend((threading.get_ident() != here, baggage()["trace_id"]))
        return 1

    here = threading.get_ident()
    async with creche.open_runtime("blocking") as runtime:
        with carrying(trace_id="t"):
            first = delivered(runtime, fn)
        assert await first.receive() == Value(1)
        with pytest.raises(ZeroDivisionError):
            (await delivered(runtime, lambda: 1 // 0).receive()).unwrap()
    assert seen == [True, "t"]


def test_started_blocking_code_is_inline_in_a_deterministic_run() -> None:
    """It takes its time there, and no cancel reaches it: not even the end of the whole tree."""

    async def main() -> tuple[object, float]:
        async with creche.open_runtime("blocking") as runtime:
            outcome = delivered(runtime, threading.get_ident)
        assert trio.current_time() == 0.0
        return await outcome.receive(), trio.current_time()

    outcome, delivered_at = testing.run(main, blocking=lambda _: 2.0)
    assert outcome == Value(threading.get_ident())
    assert delivered_at == 2.0
