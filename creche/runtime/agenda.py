"""What an incarnation has to do besides its mail: timers that are due, and control messages.

Theory of operation
-------------------
The lane is a queue of its own that the actor's task looks at before it takes the next message from the mailbox: it
overtakes queued mail, not the message in hand, and no overflow policy touches it. Jobs run one after the other in the
actor's task, as messages do.

A timer is an entry in the runtime's deadline heap. When it is due it puts itself into the lane, and a repeating one
sets itself anew. What came due while an earlier tick still waits is skipped: a slow actor is not flooded with ticks.
One that has been cancelled, or replaced under its key (see `timers`), does not run, not even if it stands in the lane
already. All of it ends with the incarnation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Any, Protocol

import trio

from .checks import require_seconds

if TYPE_CHECKING:
    from .deadlines import Deadlines
    from .handling import Handling


class Job:
    """A function to be awaited in the actor's task."""

    __slots__ = ("args", "fn")

    def __init__(self, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        self.fn = fn
        self.args = args

    async def run(self) -> None:
        """Do it."""
        await self.fn(*self.args)


class Alarm(Job):
    """A timer of an actor; made by `ActorContext.after` and `ActorContext.every`, and by `Timers`."""

    __slots__ = ("_agenda", "_in_heap", "_period", "_waits_in_lane", "when")
    place = ""  # in the heap: where it was set

    def __init__(
        self,
        agenda: Agenda,
        seconds: float,
        period: float | None,
        fn: Callable[..., Awaitable[object]],
        args: tuple[Any, ...],
    ) -> None:
        super().__init__(fn, args)
        self._agenda: Agenda | None = agenda
        self._period = period
        self._waits_in_lane = False
        self.when = trio.current_time() + seconds
        """When it is due next, in seconds of `trio.current_time()`."""
        self._in_heap = True
        agenda.deadlines.push(self.when, self)

    @property
    def active(self) -> bool:
        """Whether it will run, or run again."""
        return self._agenda is not None

    def cancel(self) -> None:
        """Never run again, not even if it is due already. Idempotent."""
        agenda, self._agenda = self._agenda, None
        if agenda is not None:
            self._leave(agenda)
            if self._in_heap:
                agenda.deadlines.note_dead()

    def _leave(self, agenda: Agenda) -> None:
        """It will not run again."""
        agenda.forget(self)

    async def run(self) -> None:
        """See `Job`."""
        self._waits_in_lane = False
        if self._agenda is None:
            return
        if self._period is None:
            agenda, self._agenda = self._agenda, None
            self._leave(agenda)
        await super().run()

    def _set_anew(self, agenda: Agenda, when: float) -> None:
        self.when = when
        self._in_heap = True
        agenda.deadlines.push(when, self)

    def live(self) -> bool:
        """Part of `Expiring`."""
        return self._agenda is not None

    def expire(self, now: float) -> None:
        """Part of `Expiring`."""
        self._in_heap = False
        if self._agenda is None:
            return
        if self._period is not None:
            missed = math.floor((now - self.when) / self._period)
            self._set_anew(self._agenda, self.when + self._period * (missed + 1))
        if not self._waits_in_lane:
            self._waits_in_lane = True
            self._agenda.put(self)


class Held(Protocol):
    """What an incarnation has set up and what ends with it: a timer, a monitor, a link."""

    def cancel(self) -> None:
        """End it. Idempotent; calls `Agenda.forget`."""


class Agenda:
    """The lane of one incarnation, and what may put something into it."""

    def __init__(self, cell: Handling) -> None:
        self._cell = cell
        self.deadlines: Deadlines = cell.deadlines
        self._lane: deque[Job] = deque()
        self._held: dict[Held, None] = {}
        self.keyed: dict[Hashable, Alarm] = {}  # those of them that were started under a key

    def __bool__(self) -> bool:
        """Whether something is to be done now."""
        return bool(self._lane)

    def put(self, job: Job) -> None:
        """Have a job done before the next message."""
        self._lane.append(job)
        self._cell.attend()

    def take(self) -> Job:
        """The next job."""
        return self._lane.popleft()

    def set_alarm(
        self, seconds: float, period: float | None, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]
    ) -> Alarm:
        """Start a timer. Raises `SpecInvalid`."""
        require_seconds("seconds", seconds, above_zero=period is not None)
        alarm = Alarm(self, seconds, period, fn, args)
        self.hold(alarm)
        return alarm

    def hold(self, held: Held) -> None:
        """Cancel it when the incarnation ends."""
        self._held[held] = None

    def forget(self, held: Held) -> None:
        """It has ended by itself."""
        self._held.pop(held, None)

    def end(self) -> None:
        """The incarnation has ended."""
        for held in list(self._held):
            held.cancel()
        self._lane.clear()
