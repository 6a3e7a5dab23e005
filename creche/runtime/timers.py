"""Timers under keys: `self.context.timers`. The timers themselves are in `agenda`.

A key names what a timer is for: to start one again replaces the one that is under way, so an actor that waits for an
answer, for a heartbeat or for its next attempt keeps no handle and counts no generations. A replaced timer never runs,
not even if it came due in the same moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVarTuple

import trio

from .agenda import Agenda, Alarm
from .checks import require_function, require_seconds

if TYPE_CHECKING:
    from .cell import Cell

Ts = TypeVarTuple("Ts")


class _Keyed(Alarm):
    """Runs once, or at a fixed rate."""

    __slots__ = ("_key",)

    def __init__(
        self,
        key: Hashable,
        agenda: Agenda,
        seconds: float,
        period: float | None,
        fn: Callable[..., Awaitable[object]],
        args: tuple[Any, ...],
    ) -> None:
        self._key = key
        super().__init__(agenda, seconds, period, fn, args)

    def _leave(self, agenda: Agenda) -> None:
        super()._leave(agenda)
        if agenda.keyed.get(self._key) is self:  # else another has taken its place
            del agenda.keyed[self._key]


class _WithFixedDelay(_Keyed):
    """Is set anew when it has run."""

    __slots__ = ("_delay",)

    def __init__(
        self,
        key: Hashable,
        agenda: Agenda,
        delay: float,
        fn: Callable[..., Awaitable[object]],
        args: tuple[Any, ...],
    ) -> None:
        self._delay = delay
        super().__init__(key, agenda, delay, None, fn, args)

    async def run(self) -> None:
        """See `Job`."""
        self._waits_in_lane = False
        if self._agenda is None:
            return
        try:
            await self.fn(*self.args)
        finally:
            self._go_on()

    def _go_on(self) -> None:
        if self._agenda is not None:  # else it has cancelled itself
            self._set_anew(self._agenda, trio.current_time() + self._delay)


class Timers:
    """The timers of one incarnation, by key. Obtained as `ActorContext.timers`.

    A timer awaits ``fn(*args)`` in turn with the messages, before those that wait, as `ActorContext.after` says; an
    error in `fn` is what it would be in the handler of a cast. All of them end with the incarnation: whoever uses the
    timers of one that has ended gets a RuntimeError.
    """

    __slots__ = ("_living",)

    def __init__(self, living: Callable[[], Cell]) -> None:
        self._living = living

    def start(self, key: Hashable, delay: float, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Run once, `delay` seconds from now, instead of whatever was under way under this key.

        Raises `SpecInvalid` for a time that cannot be; then the timer under the key is as it was.
        """
        require_function("timers.start", fn)
        require_seconds("delay", delay)
        agenda = self._agenda(key)
        self._put(key, agenda, _Keyed(key, agenda, delay, None, fn, args))

    def start_at_fixed_rate(
        self, key: Hashable, interval: float, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts
    ) -> None:
        """Run every `interval` seconds, the first time one interval from now; replaces as `start` does.

        The rhythm stays whatever a run takes. A tick that comes due while an earlier one still waits is skipped.
        """
        require_function("timers.start_at_fixed_rate", fn)
        require_seconds("interval", interval, above_zero=True)
        agenda = self._agenda(key)
        self._put(key, agenda, _Keyed(key, agenda, interval, interval, fn, args))

    def start_with_fixed_delay(
        self, key: Hashable, delay: float, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts
    ) -> None:
        """Run again and again, `delay` seconds after the end of the run before; replaces as `start` does."""
        require_function("timers.start_with_fixed_delay", fn)
        require_seconds("delay", delay, above_zero=True)
        agenda = self._agenda(key)
        self._put(key, agenda, _WithFixedDelay(key, agenda, delay, fn, args))

    def cancel(self, key: Hashable) -> bool:
        """End the timer under a key; it does not run even if it is due already. False if there is none."""
        alarm = self._living().agenda().keyed.get(key)
        if alarm is None:
            return False
        alarm.cancel()
        return True

    def cancel_all(self) -> None:
        """End all timers that were started under keys."""
        for alarm in list(self._living().agenda().keyed.values()):
            alarm.cancel()

    def active(self, key: Hashable) -> bool:
        """Whether a timer is under way under this key. One that runs once is not once it has begun to run."""
        return key in self._living().agenda().keyed

    def due(self, key: Hashable) -> float | None:
        """When it runs next, in seconds of `trio.current_time()`; None without one."""
        alarm = self._living().agenda().keyed.get(key)
        return None if alarm is None else alarm.when

    def _agenda(self, key: Hashable) -> Agenda:
        """Cancels what is under the key."""
        agenda = self._living().agenda()
        before = agenda.keyed.get(key)
        if before is not None:
            before.cancel()
        return agenda

    @staticmethod
    def _put(key: Hashable, agenda: Agenda, alarm: Alarm) -> None:
        agenda.keyed[key] = alarm
        agenda.hold(alarm)
