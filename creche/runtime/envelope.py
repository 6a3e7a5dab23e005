"""One message on its way: who waits for it, until when, and what has become of it.

Theory of operation
-------------------
A call is a `Request`. Its caller parks with one `wait_task_rescheduled` and is woken exactly once, by `_settle`, which
is the only place that reschedules a caller. The request is also the outcome that its caller is woken with: to make and
unwrap one more object would cost an eighth of a call. A cast is a bare tuple, because two hundred thousand queued
objects make the garbage collector the bottleneck.

    QUEUED ──taken──▶ RUNNING ──caller gone, message says "cancel"──▶ CANCELLING
       │                 │                                                │
       └───────────────▶ SETTLED ◀────────────────────────────────────────┘

* QUEUED, caller gone or time over: revoked. It stays in the mailbox as a tombstone and never runs.
* RUNNING, caller gone: "finish" settles at once and the handler's reply finds nobody; "cancel" cancels the handler
  and settles when it has unwound (CANCELLING), or after `unwind_grace`, when the cell is declared stuck.
* The first transition into SETTLED is the outcome. Later ones are counted no-ops, never errors.

Nothing here awaits between testing a state and changing it; all of it runs in one thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import outcome
import trio
from trio.lowlevel import reschedule

from .actor import MessageSpec
from .context import Baggage
from .errors import CallFailed, DeadlineExceeded, OutcomeUnknown

if TYPE_CHECKING:
    from .intake import Intake

# In the order of a message's life. Up to SPILLED it waits in the mailbox; SPILLED: in its overflow queue, for room.
QUEUED, SPILLED, RUNNING, CANCELLING, SETTLED = range(5)
NEVER = float("inf")

# (message, args, kwargs, the sender's baggage, expires at)
Cast = tuple[MessageSpec, tuple[Any, ...], Mapping[str, Any], Baggage, float]


class _Timing:
    """What only requests with a deadline, or whose handler had to be cancelled, need to remember."""

    __slots__ = ("entries", "grace_until", "raise_cancel")

    def __init__(self) -> None:
        self.entries = 0  # in the deadline heap
        self.grace_until = NEVER
        self.raise_cancel: Callable[[], NoReturn] | None = None


class Request(outcome.Outcome[Any]):
    """A call under way, and in the end its outcome."""

    __slots__ = (
        "_error",
        "_timing",
        "_value",
        "args",
        "baggage",
        "cell",
        "deadline",
        "kwargs",
        "spec",
        "state",
        "task",
    )

    def __init__(
        self,
        cell: Intake,
        spec: MessageSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        baggage: Baggage,
        task: trio.lowlevel.Task,
    ) -> None:
        self.cell = cell
        self.spec = spec
        self.args = args
        self.kwargs = kwargs
        self.baggage = baggage
        self.task = task
        self.state = QUEUED
        self.deadline = NEVER
        self._timing: _Timing | None = None
        self._value: Any = None
        self._error: BaseException | None = None

    # --- the ways out: the first one taken is the outcome -----------------------------------------

    def reply(self, value: object) -> None:
        """The handler has returned."""
        self._settle(value, None)

    def answer(self, error: Exception) -> None:
        """The handler has answered with an error, which is the caller's own object already."""
        self._settle(None, error)

    def fail(self, error: CallFailed, cause: BaseException | None = None) -> None:
        """It will not be answered. `error` is made for this caller."""
        error.__cause__ = cause
        self._settle(None, error)

    def unwound(self) -> None:
        """The handler ended because its caller had gone (CANCELLING): let the caller go as it was about to."""
        if self._timing is None or self._timing.raise_cancel is None:
            self.fail(DeadlineExceeded(self.cell.path, delivered=True))
            return
        try:
            self._timing.raise_cancel()
        except BaseException as cancelled:  # trio's own `Cancelled`, made for the caller: handed on, not handled
            self._settle(None, cancelled)

    def _settle(self, value: object, error: BaseException | None) -> None:
        if self.state == SETTLED:  # the caller may not have looked at its outcome yet: it stays as it is
            self.cell.discarded += 1
            return
        self._value = value
        self._error = error
        if self._timing is not None or self.state <= SPILLED:
            self._close()
        self.state = SETTLED
        reschedule(self.task, self)

    # --- the caller unwraps it --------------------------------------------------------------------

    def unwrap(self) -> Any:
        """Part of `Outcome`."""
        if self._error is not None:
            error, self._error = self._error, None  # kept, it would make a cycle with its own traceback
            try:
                raise error
            finally:
                del error
        return self._value

    def send(self, gen: Generator[Any, Any, Any]) -> Any:
        """Part of `Outcome`; trio uses `unwrap`."""
        return gen.send(self.unwrap())

    async def asend(self, agen: AsyncGenerator[Any, Any]) -> Any:
        """Part of `Outcome`; trio uses `unwrap`."""
        return await agen.asend(self.unwrap())

    def _close(self) -> None:
        was, self.state = self.state, SETTLED
        if was <= SPILLED:
            self.cell.bury(was)
        timing, self._timing = self._timing, None
        for _ in range(timing.entries if timing is not None else 0):
            self.cell.deadlines.note_dead()

    # --- the caller is cancelled (trio's abort function) ------------------------------------------

    def abort(self, raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        """Trio asks whether the caller may leave."""
        if self.state > SPILLED and self.spec.cancel_when_gone:
            self._timed().raise_cancel = raise_cancel
            self._cancel_handler()
            return trio.lowlevel.Abort.FAILED
        self._close()
        return trio.lowlevel.Abort.SUCCEEDED

    # --- time (called by the deadline heap) -------------------------------------------------------

    def stamp(self, deadline: float) -> None:
        """Let the request expire at `deadline`."""
        self.deadline = deadline
        self._push(deadline)

    def live(self) -> bool:
        """Part of `Expiring`."""
        return self.state != SETTLED

    def expire(self, now: float) -> None:
        """Part of `Expiring`: the deadline has come, or the grace after it."""
        timing = self._timed()
        timing.entries -= 1
        if now >= timing.grace_until:
            self.cell.declare_stuck()
            self.fail(OutcomeUnknown(self.cell.path, "outcome unknown: the cancelled handler did not unwind in time"))
        elif self.state > SPILLED and self.spec.cancel_when_gone:
            self._cancel_handler()
        else:
            self.fail(DeadlineExceeded(self.cell.path, delivered=self.state > SPILLED))

    def too_late(self) -> None:
        """It has been taken out of the mailbox after its deadline: it will not be handled."""
        self.state = RUNNING  # in the mailbox no more
        self.fail(DeadlineExceeded(self.cell.path, delivered=False))

    def _timed(self) -> _Timing:
        if self._timing is None:
            self._timing = _Timing()
        return self._timing

    def _cancel_handler(self) -> None:
        if self.state == RUNNING:
            self.state = CANCELLING
            until = trio.current_time() + self.cell.spec.unwind_grace
            self._timed().grace_until = until
            self._push(until)
            self.cell.cancel_message("its caller has gone")

    def _push(self, when: float) -> None:
        self._timed().entries += 1
        self.cell.deadlines.push(when, self)


class WaitingCast:
    """A cast whose sender waits for room. Keeps its place among the calls that wait too."""

    __slots__ = ("cast", "cell", "state", "task")

    def __init__(self, cell: Intake, cast: Cast) -> None:
        self.cell = cell
        self.cast = cast
        self.state = SPILLED
        self.task: trio.lowlevel.Task | None = None

    def accept(self) -> None:
        """There is room: let the sender go on."""
        self._finish(outcome.Value(None))

    def fail(self, error: CallFailed, cause: BaseException | None = None) -> None:
        """It will not be accepted."""
        error.__cause__ = cause
        self._finish(outcome.Error(error))

    def abort(self, _raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        """The sender is cancelled: nothing was accepted."""
        self.state = SETTLED
        self.task = None
        self.cell.bury(SPILLED)
        return trio.lowlevel.Abort.SUCCEEDED

    def _finish(self, result: outcome.Outcome[None]) -> None:
        self.state = SETTLED
        task, self.task = self.task, None
        if task is not None:
            reschedule(task, result)


Waiting = Request | WaitingCast
