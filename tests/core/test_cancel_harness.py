"""The harness of the tests that cancel everything: it strikes at each checkpoint, and finds what has been left."""

from __future__ import annotations

import os
import re
import threading
import traceback
from collections.abc import Awaitable, Callable

import pytest
import trio

import creche
from tests.cancelling import Strike, everywhere, moments, prove_idle
from tests.core.support import Gate, Probe, asking


async def three_checkpoints(log: list[int]) -> str:
    for step in range(3):
        await trio.lowlevel.checkpoint()
        log.append(step)
    return "done"


STORY = [
    ("before step 1 of the operation", "cancelled", []),
    ("after step 1 of the operation", "cancelled", []),
    ("before step 2 of the operation", "cancelled", []),
    ("after step 2 of the operation", "cancelled", [0]),
    ("before step 3 of the operation", "cancelled", [0]),
    ("after step 3 of the operation", "cancelled", [0, 1]),
    ("before step 4 of the operation", "cancelled", [0, 1]),
    ("not struck", "value", [0, 1, 2]),
]


def test_each_checkpoint_is_struck() -> None:
    """An operation with three checkpoints is cancelled before it begins, at each of them, and after each of them."""
    seen: list[tuple[str, str, list[int]]] = []

    async def scenario(strike: Strike) -> None:
        log: list[int] = []
        end = await strike.cancel(three_checkpoints, log)
        seen.append((strike.where, end.what, log))

    assert everywhere(scenario) == {"cancelled": 7, "value": 1}
    assert seen == STORY


async def test_moments_in_the_run_of_an_async_test() -> None:
    """The same in a Trio run that is there already."""
    for strike, (where, what, log) in zip(moments(), STORY, strict=True):
        seen: list[int] = []
        end = await strike.cancel(three_checkpoints, seen)
        assert (strike.where, end.what, seen) == (where, what, log)


def test_the_world_around_a_parked_operation_moves_on() -> None:
    """While a caller is parked, its actor's steps are moments too: a request is struck queued, running and settled."""
    seen: list[tuple[str, ...]] = []

    async def scenario(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime:
            probe = await runtime.start(creche.child(Probe, log := list[str]()))
            await strike.cancel(probe.ask.run, two_words, look=lambda: seen.append(tuple(log)))
            await prove_idle(runtime)

    everywhere(scenario)
    assert sorted(set(seen)) == [(), ("one",), ("one", "two")]


async def two_words(probe: Probe) -> None:
    probe.log.append("one")
    await trio.lowlevel.checkpoint()
    probe.log.append("two")


def test_each_run_is_the_same_up_to_its_strike() -> None:
    """Tasks run in one order in all runs, so that a failure comes back; `orders` tries others."""

    def stories(orders: int) -> list[tuple[str, ...]]:
        seen: list[tuple[str, ...]] = []

        async def scenario(strike: Strike) -> None:
            log: list[str] = []
            async with trio.open_nursery() as nursery:
                for word in ("a", "b", "c", "d", "e", "f"):
                    nursery.start_soon(say, log, word)
                await strike.cancel(trio.lowlevel.checkpoint)
            seen.append(tuple(log))

        everywhere(scenario, orders=orders)
        return seen

    assert len(set(stories(1))) == 1
    assert stories(2) == stories(2)
    assert len(set(stories(8))) > 1


async def say(log: list[str], word: str) -> None:
    await trio.lowlevel.checkpoint()
    log.append(word)


def test_a_look_that_fails_is_no_silence() -> None:
    """What goes wrong between two steps of the scheduler comes out of the run, with a note that tells the moment."""

    async def scenario(strike: Strike) -> None:
        await strike.cancel(three_checkpoints, [], look=lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError) as caught:
        everywhere(scenario)
    assert caught.value.__notes__ == ["struck at moment 1, before step 1 of the operation (order 0)"]


# --- what has been left is found --------------------------------------------------------------------------------------

Leak = Callable[[creche.Runtime, trio.Nursery, list[object]], Awaitable[object]]


async def leave_a_file(_runtime: creche.Runtime, _nursery: trio.Nursery, left: list[object]) -> None:
    read, write = os.pipe()
    left.extend([read, write])


async def leave_a_thread(_runtime: creche.Runtime, _nursery: trio.Nursery, left: list[object]) -> None:
    stop = threading.Event()
    threading.Thread(target=stop.wait, name="left").start()
    left.append(stop)


async def leave_a_coroutine(_runtime: creche.Runtime, _nursery: trio.Nursery, _left: list[object]) -> None:
    _never_awaited = three_checkpoints([])


async def leave_a_reference(runtime: creche.Runtime, _nursery: trio.Nursery, left: list[object]) -> None:
    left.append(runtime)


async def leave_a_call(runtime: creche.Runtime, nursery: trio.Nursery, _left: list[object]) -> None:
    probe = await runtime.start(creche.child(Probe))
    asking(nursery, probe.ask.hold, gate := Gate())
    await gate.entered.wait()


async def leave_background_work(runtime: creche.Runtime, _nursery: trio.Nursery, _left: list[object]) -> None:
    probe = await runtime.start(creche.child(Probe))

    async def spawn(probe: Probe) -> None:
        probe.context.spawn(trio.sleep_forever)

    await probe.ask.run(spawn)


async def leave_a_timer(runtime: creche.Runtime, _nursery: trio.Nursery, _left: list[object]) -> None:
    probe = await runtime.start(creche.child(Probe))

    async def set_timer(probe: Probe) -> None:
        probe.context.after(60, trio.lowlevel.checkpoint)

    await probe.ask.run(set_timer)


async def leave_it_down(runtime: creche.Runtime, nursery: trio.Nursery, _left: list[object]) -> None:
    probe = await runtime.start(creche.child(Probe).options(backoff=creche.Backoff(first=60, cap=60, free=0)))
    await asking(nursery, probe.ask.crash).settled()


@pytest.mark.parametrize(
    ("leak", "finding"),
    [
        (leave_a_file, "file descriptors or threads are left"),
        (leave_a_thread, "file descriptors or threads are left"),
        (leave_a_coroutine, "unraisable errors.*never awaited"),
        (leave_a_reference, "still alive, among them"),
        (leave_a_call, "in hand of root/probe"),
        (leave_background_work, "background work"),
        (leave_a_timer, "live deadlines"),
        (leave_it_down, "DOWN"),
    ],
)
def test_what_is_left_is_found(leak: Leak, finding: str) -> None:
    """Whatever is left fails the test that left it."""
    left: list[object] = []

    async def scenario(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
            await strike.cancel(leak, runtime, nursery, left)
            try:
                await prove_idle(runtime)
            finally:
                nursery.cancel_scope.cancel()

    try:
        with pytest.raises((AssertionError, ExceptionGroup)) as caught:
            everywhere(scenario)
    finally:
        give_back(left)
    assert re.search(finding, "".join(traceback.format_exception(caught.value))), caught.value


def give_back(left: list[object]) -> None:
    for thing in left:
        if isinstance(thing, int):
            os.close(thing)
        elif isinstance(thing, threading.Event):
            thing.set()
