"""Virtual time: a clock that jumps ahead whenever all tasks wait, and timers that cost less than Trio's.

Theory of operation
-------------------
Before Trio waits for I/O it decides for how long: not at all if a task can run, nor if one is in
`wait_all_tasks_blocked`; else, under a `MockClock`, for the clock's autojump threshold. It tells instruments that
number, and here the threshold is minus zero, which as a time to wait is nothing as well. So an instrument that is told
minus zero knows that nothing could run, and that nobody waits for just that; and after the wait, if no I/O has come in
either, it is time to jump. We jump in this pass; Trio would in the next one, with an empty pass in between.

A timer is a call at a time, and keeps to the order of Trio's deadlines: whatever is due first comes first. It is called
by the event loop, between two steps of tasks. A task that waits by one is woken by `reschedule`, where a sleeper of
Trio's is woken by a cancel: by an exception, and a scope to catch it.

That the number comes through as it is, is not promised by Trio. `is_in_order` looks whether it does.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import copysign, inf
from typing import NoReturn

import trio
from trio.testing import MockClock

_NOBODY_CAN_RUN = -0.0


class VirtualTimer:
    """A call to come, unless it is cancelled first."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """It will not be called."""
        self.call = None


class VirtualTime(trio.abc.Instrument):
    """The time of one `trio.run`, which is to be given both this instrument and its `clock`. It starts at 0."""

    def __init__(self) -> None:
        self.clock = MockClock(autojump_threshold=_NOBODY_CAN_RUN)
        self._due: list[tuple[float, int, VirtualTimer]] = []
        self._set = 0  # so many timers; of two for one moment the older comes first

    def call_later(self, seconds: float, call: Callable[[], object]) -> VirtualTimer:
        """Call in so many seconds, in the event loop. If the call raises, Trio ends with TrioInternalError."""
        timer = VirtualTimer(call)
        self._set += 1
        heappush(self._due, (self.clock.current_time() + seconds, self._set, timer))
        return timer

    def after_io_wait(self, timeout: float) -> None:
        """See `trio.abc.Instrument`."""
        if copysign(1.0, timeout) < 0:
            self._until_somebody_can_run()
        else:
            self._call_what_is_due()

    def _call_what_is_due(self) -> None:
        """Timers for this very moment come while tasks run, as Trio's deadlines do."""
        while self._due and self._due[0][0] <= self.clock.current_time():
            self._call_next()

    def _until_somebody_can_run(self) -> None:
        while True:
            statistics = trio.lowlevel.current_statistics()
            if statistics.tasks_runnable or not self._jump(statistics.seconds_to_next_deadline):
                return

    def _jump(self, to_deadline: float) -> bool:
        """To the next timer, and call it, or to Trio's next deadline, for Trio to expire. Returns if to a timer."""
        due = self._due
        while due and due[0][2].call is None:
            heappop(due)
        to_timer = due[0][0] - self.clock.current_time() if due else inf
        ahead = min(to_timer, to_deadline)
        if 0 < ahead < inf:
            self.clock.jump(ahead)
        if to_timer > to_deadline or not due:
            return False
        self._call_next()
        return True

    def _call_next(self) -> None:
        call = heappop(self._due)[2].call
        try:
            if call is not None:
                call()
        except BaseException as error:  # an instrument that raises is dropped, and time would stand still
            trio.lowlevel.current_trio_token().run_sync_soon(_raise, error)


def _raise(error: BaseException) -> NoReturn:
    raise error


def is_in_order(time: VirtualTime) -> bool:
    """Whether this Trio lets timers be called in their time, in the order of its own deadlines. For a `time` unused."""
    happened: list[float] = []

    def happens() -> None:
        happened.append(trio.current_time())

    async def main() -> None:
        time.call_later(0.75, happens)
        time.call_later(0.25, happens)
        for _ in range(2):
            await trio.sleep(0.5)
            happens()

    trio.run(main, clock=time.clock, instruments=[time])
    return happened == [0.25, 0.5, 0.75, 1.0]
