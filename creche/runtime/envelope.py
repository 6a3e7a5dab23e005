"""One message on its way: who waits for it, until when, and what has become of it.

Theory of operation ------------------- A call is a `Request`. Its caller parks with one `wait_task_rescheduled` and is
woken exactly once, by `settle`, which is the only place that reschedules a caller. A cast is a bare tuple, because two
hundred thousand queued objects make the garbage collector the bottleneck.

    QUEUED ──taken──▶ RUNNING ──caller gone, message says "cancel"──▶ CANCELLING
       │                 │                                                │
       └───────────────▶ SETTLED ◀────────────────────────────────────────┘

* QUEUED, caller gone or time over: revoked. It stays in the mailbox as a tombstone and never runs.
* RUNNING, caller gone: "finish" settles at once and the handler's reply finds nobody; "cancel" cancels the handler and
  settles when it has unwound (CANCELLING), or after `unwind_grace`, when the cell is declared stuck.
* The first transition into SETTLED is the outcome. Later ones are counted no-ops, never errors.

Nothing here awaits between testing a state and changing it; all of it runs in one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import outcome
import trio

from .actor import MessageSpec
from .context import Baggage
from .errors import CallFailed, DeadlineExceeded, OutcomeUnknown

if TYPE_CHECKING:
    from .intake import Intake

QUEUED, RUNNING, CANCELLING, SETTLED = range(4)
NEVER = float("inf")
SETTLED_EMPTY: outcome.Value[None] = outcome.Value(None)

# (message, args, kwargs, the sender's baggage, expires at)
Cast = tuple[MessageSpec, tuple[Any, ...], Mapping[str, Any], Baggage, float]


class Request:
    """A call under way."""

    __slots__ = (
        "_entries",
        "_grace_until",
        "_raise_cancel",
        "args",
        "baggage",
        "cell",
        "deadline",
        "kwargs",
        "spec",
        "spilled",
        "state",
        "task",
    )

    def __init__(
        self, cell: Intake, spec: MessageSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], baggage: Baggage
    ) -> None:
        self.cell = cell
        self.spec = spec
        self.args = args
        self.kwargs = kwargs
        self.baggage = baggage
        self.task: trio.lowlevel.Task | None = None
        self.state = QUEUED
        self.spilled = False  # waits in the mailbox's overflow queue
        self.deadline = NEVER
        self._raise_cancel: Callable[[], NoReturn] | None = None
        self._grace_until = NEVER
        self._entries = 0  # how many entries the deadline heap holds for this request

    # --- the only way out -------------------------------------------------------------------------

    def settle(self, result: outcome.Outcome[Any]) -> None:
        """Give the caller its outcome, unless it already has one."""
        if self.state == SETTLED:
            self.cell.discarded += 1
            return
        self._close()
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, result)

    def fail(self, error: Exception, cause: BaseException | None = None) -> None:
        """Settle with an exception object made for this caller."""
        error.__cause__ = cause
        self.settle(outcome.Error(error))

    def unwound(self) -> None:
        """The handler ended because its caller had gone (CANCELLING): let the caller go as it was about to."""
        if self._raise_cancel is not None:
            self.settle(outcome.capture(self._raise_cancel))
        else:
            self.fail(DeadlineExceeded(self.cell.path, delivered=True))

    def _close(self) -> None:
        was, self.state = self.state, SETTLED
        if was == QUEUED:
            self.cell.bury(self)
        for _ in range(self._entries):
            self.cell.deadlines.note_dead()
        self._entries = 0

    # --- the caller is cancelled (trio's abort function) ------------------------------------------

    def abort(self, raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        """Trio asks whether the caller may leave."""
        if self.state != QUEUED and self.spec.cancel_when_gone:
            self._raise_cancel = raise_cancel
            self._cancel_handler()
            return trio.lowlevel.Abort.FAILED
        self._close()
        self.task = None
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
        self._entries -= 1
        if now >= self._grace_until:
            self.cell.declare_stuck()
            self.fail(OutcomeUnknown(self.cell.path, "outcome unknown: the cancelled handler did not unwind in time"))
        elif self.state != QUEUED and self.spec.cancel_when_gone:
            self._cancel_handler()
        else:
            self.fail(DeadlineExceeded(self.cell.path, delivered=self.state != QUEUED))

    def _cancel_handler(self) -> None:
        if self.state == RUNNING:
            self.state = CANCELLING
            self._grace_until = trio.current_time() + self.cell.spec.unwind_grace
            self._push(self._grace_until)
            self.cell.cancel_message("its caller has gone")

    def _push(self, when: float) -> None:
        self._entries += 1
        self.cell.deadlines.push(when, self)


class WaitingCast:
    """A cast whose sender waits for room. Keeps its place among the calls that wait too."""

    __slots__ = ("cast", "cell", "spilled", "state", "task")

    def __init__(self, cell: Intake, cast: Cast) -> None:
        self.cell = cell
        self.cast = cast
        self.state = QUEUED
        self.spilled = True
        self.task: trio.lowlevel.Task | None = None

    def accept(self) -> None:
        """There is room: let the sender go on."""
        self._finish(SETTLED_EMPTY)

    def fail(self, error: CallFailed, cause: BaseException | None = None) -> None:
        """It will not be accepted."""
        error.__cause__ = cause
        self._finish(outcome.Error(error))

    def abort(self, _raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        """The sender is cancelled: nothing was accepted."""
        self.state = SETTLED
        self.task = None
        self.cell.bury(self)
        return trio.lowlevel.Abort.SUCCEEDED

    def _finish(self, result: outcome.Outcome[None]) -> None:
        self.state = SETTLED
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, result)


Waiting = Request | WaitingCast
