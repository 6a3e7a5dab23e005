"""Virtual time: it jumps when nothing can run, and its timers keep to the order of Trio's deadlines."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from creche.runtime.virtual_time import VirtualTime, is_in_order


def run(main: Callable[[VirtualTime], Awaitable[object]], *more: trio.abc.Instrument) -> None:
    """Run `main` in a virtual time."""
    time = VirtualTime()
    trio.run(main, time, clock=time.clock, instruments=[time, *more])


quarters = st.integers(0, 12).map(lambda number: number / 4)


@given(timers=st.lists(quarters, max_size=6), sleeps=st.lists(quarters.filter(bool), max_size=6))
def test_timers_and_sleeps_come_in_the_order_of_their_times(timers: list[float], sleeps: list[float]) -> None:
    """Each at its time to the letter; timers of one moment in the order in which they were set."""
    happened: list[tuple[float, float]] = []
    order: list[int] = []

    async def sleep(seconds: float) -> None:
        await trio.sleep(seconds)
        happened.append((seconds, trio.current_time()))

    async def main(time: VirtualTime) -> None:
        def call(number: int) -> None:
            order.append(number)
            happened.append((timers[number], trio.current_time()))

        async with trio.open_nursery() as nursery:
            for number, seconds in enumerate(timers):
                time.call_later(seconds, partial(call, number))
            for seconds in sleeps:
                nursery.start_soon(sleep, seconds)
            await trio.sleep(4)

    run(main)
    expected = sorted([*timers, *sleeps])
    assert happened == [(seconds, seconds) for seconds in expected]
    assert order == sorted(range(len(timers)), key=lambda number: timers[number])


def test_a_timer_set_by_a_timer_does_not_miss_its_time() -> None:
    """Though nothing can run in between."""
    happened: list[float] = []

    async def main(time: VirtualTime) -> None:
        def again() -> None:
            happened.append(trio.current_time())
            time.call_later(0.5, again)

        again()
        await trio.sleep(1.75)

    run(main)
    assert happened == [0.0, 0.5, 1.0, 1.5]


def test_a_cancelled_timer_is_not_called_and_time_does_not_stop_there() -> None:
    """Nor is its moment one at which the clock stands."""

    async def main(time: VirtualTime) -> None:
        time.call_later(1, lambda: pytest.fail("it was cancelled")).cancel()
        time.call_later(2, lambda: times.append(trio.current_time()))
        await trio.sleep(3)

    times: list[float] = []
    run(main)
    assert times == [2.0]


def test_who_waits_until_all_are_blocked_comes_before_a_jump() -> None:
    """As under Trio's own autojump."""

    async def main(time: VirtualTime) -> None:
        time.call_later(1, called.set)
        await wait_all_tasks_blocked()
        assert trio.current_time() == 0.0
        assert not called.is_set()
        await called.wait()
        assert trio.current_time() == 1.0

    called = trio.Event()
    run(main)


def test_what_has_come_in_is_seen_before_a_jump() -> None:
    """Time does not run out on a receiver whose bytes lie there."""

    async def main(time: VirtualTime) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.send(b"x")
            time.call_later(0.5, ours.close)
            with trio.fail_after(1):
                await trio.lowlevel.wait_readable(ours)
            assert trio.current_time() == 0.0

    run(main)


def test_what_another_thread_asks_for_is_done_before_a_jump() -> None:
    """`run_sync_soon` is no I/O of a task, and wakes Trio all the same."""

    async def main(time: VirtualTime) -> None:
        trio.lowlevel.current_trio_token().run_sync_soon(lambda: times.append(trio.current_time()))
        time.call_later(1, lambda: times.append(trio.current_time()))
        await trio.sleep(2)

    times: list[float] = []
    run(main)
    assert times == [0.0, 1.0]


def test_a_timer_for_now_is_called_while_tasks_run() -> None:
    """Whoever never waits for time does not keep it away; nor one whose time is passed by a jump of another's."""

    async def main(time: VirtualTime) -> None:
        time.call_later(0, now.set)
        time.call_later(5, later.set)
        while not now.is_set():
            await trio.lowlevel.checkpoint()
        time.clock.jump(5)
        while not later.is_set():
            await trio.lowlevel.checkpoint()

    now, later = trio.Event(), trio.Event()
    run(main)


def test_a_call_that_raises_ends_the_run() -> None:
    """As what another thread runs in the loop: it is not lost, and time does not stand still."""

    async def main(time: VirtualTime) -> None:
        time.call_later(1, lambda: 1 / 0)
        await trio.sleep(2)

    with pytest.raises(trio.TrioInternalError) as raised:
        run(main)
    cause = raised.value.__cause__
    assert isinstance(cause, BaseExceptionGroup)
    assert cause.subgroup(ZeroDivisionError) is not None


def test_a_jump_takes_no_pass_of_its_own() -> None:
    """This is what it is for: ten sleeps are ten passes, and a few to begin and to end."""

    class Passes(trio.abc.Instrument):
        count = 0

        def before_io_wait(self, timeout: float) -> None:
            self.count += 1

    async def main(time: VirtualTime) -> None:
        before = passes.count
        for _ in range(10):
            await trio.sleep(1)
        assert passes.count - before == 10

    passes = Passes()
    run(main, passes)


def test_a_trio_that_does_not_say_when_it_would_jump_is_found_out() -> None:
    """By a small run, before anything relies on it."""
    assert is_in_order(VirtualTime())
    silent = VirtualTime()
    silent.clock.autojump_threshold = 0.0
    assert not is_in_order(silent)
