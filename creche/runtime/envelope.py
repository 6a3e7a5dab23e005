"""One message on its way: who waits for it, until when, and what has become of it.

Theory of operation
-------------------
A call is a `Request`. Its caller parks with one `wait_task_rescheduled` and is woken exactly once, by `_settle`, which
is the only place that reschedules a caller. The request is also the outcome that its caller is woken with: to make and
unwrap one more object would cost an eighth of a call. A cast is a bare tuple, because two hundred thousand queued
objects make the garbage collector the bottleneck.

    QUEUED ──taken──▶ RUNNING ──caller gone, message says "cancel"──▶ CANCELLING
       │               │   │                                              │
       │               │   └──reply slot taken──▶ DEFERRED                │
       │               ▼                             │                    │
       └───────────▶ SETTLED ◀───────────────────────┴────────────────────┘

* RUNNING, and the incarnation dies: QUEUED again, at the head, if the message is declared idempotent. See `attempts`.
* QUEUED, caller gone or time over: revoked. It stays in the mailbox as a tombstone and never runs.
* RUNNING, caller gone: "finish" settles at once and the handler's reply finds nobody; "cancel" cancels the handler
  and settles when it has unwound (CANCELLING), or after `unwind_grace`, when the cell is declared stuck.
* STASHED: the handler has put the message aside, see `stash`; it waits as a queued one does, and is queued again.
* DEFERRED: the handler has taken the reply slot and may end; the answer comes through the slot. A caller that goes
  leaves at once.
* The first transition into SETTLED is the outcome. Later ones are counted no-ops, never errors.

Many calls of one caller (`Together`) park it once: it is woken when the last of them is settled.

Nothing here awaits between testing a state and changing it; all of it runs in one thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import outcome
import trio
from trio.lowlevel import reschedule

from .actor import MessageSpec
from .attempts import Causes, TriedCast, given_up, is_last, one_more
from .context import Baggage
from .errors import CallCycle, CallFailed, DeadlineExceeded, NotDelivered, OutcomeUnknown
from .node import own_copy

if TYPE_CHECKING:
    from .flights import Activity, Flight
    from .intake import Intake
    from .waits import Waiter

# In the order of a message's life. Up to SPILLED it waits in the mailbox; SPILLED: in its overflow queue, for room.
QUEUED, SPILLED, RUNNING, CANCELLING, DEFERRED, SETTLED = range(6)
STASHED = -2  # put aside by its handler
KEYED = -1  # a cast that a later one of the same key replaces: it only ever waits
NEVER = float("inf")

# (message, args, kwargs, the sender's baggage, expires at)
Cast = tuple[MessageSpec, tuple[Any, ...], Mapping[str, Any], Baggage, float]


class _Rare:
    """What most requests never have: a handler that must be cancelled or has a task, a deferred reply, attempts."""

    __slots__ = ("activity", "causes", "entries", "flight", "grace_until", "raise_cancel")

    def __init__(self) -> None:
        self.causes: Causes = ()  # what its attempts died of, see `attempts`
        self.activity: Activity | None = None
        self.entries = 0  # in the deadline heap, besides that of the deadline; -1: that one has been taken out
        self.flight: Flight | None = None
        self.grace_until = NEVER
        self.raise_cancel: Callable[[], NoReturn] | None = None


class Request(outcome.Outcome[Any]):
    """A call under way, and in the end its outcome."""

    __slots__ = (
        "_error",
        "_rare",
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
        self._rare: _Rare | None = None
        self._value: Any = None
        self._error: BaseException | None = None

    def __eq__(self, other: object) -> bool:
        """Each is one of a kind. What it would inherit takes all of them for equal."""
        return self is other

    # --- the ways out: the first one taken is the outcome -----------------------------------------

    def reply(self, value: object) -> None:
        """The handler has returned. That is no answer if the reply is deferred."""
        if self.state != RUNNING or self._rare is not None:
            self._settle(value, None)
            return
        self._value = value  # what `_settle` does in this case, which is nearly every one
        self.state = SETTLED
        if self.deadline != NEVER:
            self.cell.deadlines.note_dead()
        reschedule(self.task, self)

    def reply_late(self, value: object) -> None:
        """The answer of a deferred reply."""
        self._land()
        self._settle(value, None)

    def answer(self, error: Exception) -> None:
        """The handler has answered with an error."""
        if self.causes and isinstance(error, NotDelivered):
            self.fail(error)  # it is not true of the attempts before this one
            return
        self._land()
        self._settle(None, own_copy(error))

    def fail(self, error: CallFailed | CallCycle, cause: BaseException | None = None) -> None:
        """It will not be answered. `error` is made for this caller."""
        causes = self.causes
        if causes:
            error = given_up(error, cause, causes)
            cause = cause or causes[-1]
        error.__cause__ = cause
        self._land()
        self._settle(None, error)

    def next_attempt(self, failure: Exception) -> bool:
        """Its incarnation has died with it in hand. True: it waits again, and `failure` was the end of an attempt."""
        if self.state != RUNNING or is_last(self.spec, self.causes):
            return False
        self._rarely().causes = one_more(self.causes, failure)
        self.state = QUEUED
        return True

    @property
    def causes(self) -> Causes:
        """What the attempts at it died of so far."""
        return () if self._rare is None else self._rare.causes

    def as_cast(self) -> Cast:
        """What was sent, for whoever keeps it when its caller has been told."""
        item = (self.spec, self.args, self.kwargs, self.baggage, NEVER)
        if not self.causes:
            return item
        made = TriedCast(item)
        made.causes = self.causes
        return made

    def put_aside(self) -> bool:
        """Its handler has not handled it. False if nobody waits for it any more."""
        if self.state == CANCELLING:
            self.unwound()
        return self.state == RUNNING

    def defer(self, flight: Flight) -> None:
        """Its handler has taken the reply slot: from now on `flight` answers."""
        self.state = DEFERRED
        self._rarely().flight = flight

    def handled_by(self, activity: Activity) -> None:
        """Its handler has a task of its own."""
        self._rarely().activity = activity

    def handler(self) -> Waiter:
        """Who is at work on it while it is RUNNING."""
        activity = None if self._rare is None else self._rare.activity
        return self.cell if activity is None else activity

    def _land(self) -> None:
        if self.state == DEFERRED:
            self.state = RUNNING
            if self._rare is not None and self._rare.flight is not None:
                self._rare.flight.landed()

    def unwound(self) -> None:
        """The handler ended because its caller had gone (CANCELLING): let the caller go as it was about to."""
        if self._rare is None or self._rare.raise_cancel is None:
            self.fail(DeadlineExceeded(self.cell.path, delivered=True))
            return
        try:
            self._rare.raise_cancel()
        except BaseException as cancelled:  # trio's own `Cancelled`, made for the caller: handed on, not handled
            self._settle(None, cancelled)

    def _settle(self, value: object, error: BaseException | None) -> None:
        if self.state >= DEFERRED:
            if self.state == SETTLED:  # the caller may not have looked at its outcome yet: it stays as it is
                self.cell.discarded += 1
            return  # the handler of a deferred reply has ended: what it returns is not the answer
        self._value = value
        self._error = error
        self._close()
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
        rare, self._rare = self._rare, None
        if self.deadline != NEVER and (rare is None or rare.entries >= 0):
            self.cell.deadlines.note_dead()
        if rare is not None:
            if rare.entries > 0:
                self.cell.deadlines.note_dead()
            if was == DEFERRED and rare.flight is not None:
                rare.flight.caller_left()

    # --- the caller is cancelled (trio's abort function) ------------------------------------------

    def abort(self, raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        """Trio asks whether the caller may leave."""
        if self._handler_follows():
            self._rarely().raise_cancel = raise_cancel
            self._cancel_handler()
            return trio.lowlevel.Abort.FAILED
        self._close()
        return trio.lowlevel.Abort.SUCCEEDED

    # --- time (called by the deadline heap) -------------------------------------------------------

    def stamp(self, deadline: float) -> None:
        """Let the request expire at `deadline`."""
        self.deadline = deadline
        self.cell.deadlines.push(deadline, self)

    def live(self) -> bool:
        """Part of `Expiring`."""
        return self.state != SETTLED

    @property
    def place(self) -> str:
        """Part of `Expiring`."""
        return self.cell.path

    def expire(self, now: float) -> None:
        """Part of `Expiring`: the deadline has come, or the grace after it."""
        rare = self._rarely()
        rare.entries -= 1
        if now >= rare.grace_until:
            self._tell_stuck()
            self.fail(OutcomeUnknown(self.cell.path, "outcome unknown: the cancelled handler did not unwind in time"))
        elif self._handler_follows():
            self._cancel_handler()
        else:
            self._out_of_time(rare.flight)

    def _out_of_time(self, flight: Flight | None) -> None:
        delivered = (self.state > SPILLED and (flight is None or flight.begun)) or bool(self.causes)
        if self.state == DEFERRED:
            self.state = RUNNING  # the caller goes, the flight goes on
        self._settle(None, DeadlineExceeded(self.cell.path, delivered))
        if flight is not None:
            flight.caller_left()

    def _handler_follows(self) -> bool:
        """Whether a handler is at work that must be cancelled when the caller goes."""
        return self.spec.cancel_when_gone and SPILLED < self.state < DEFERRED

    def too_late(self) -> None:
        """It has been taken out of the mailbox after its deadline: it will not be handled."""
        self.state = RUNNING  # in the mailbox no more
        self.fail(DeadlineExceeded(self.cell.path, delivered=False))

    def _rarely(self) -> _Rare:
        if self._rare is None:
            self._rare = _Rare()
        return self._rare

    def _cancel_handler(self) -> None:
        if self.state == RUNNING:
            self.state = CANCELLING
            until = trio.current_time() + self.cell.spec.unwind_grace
            self._rarely().grace_until = until
            self._push(until)
            self._cancel("its caller has gone")

    def _cancel(self, reason: str) -> None:
        activity = self._rarely().activity
        if activity is None:
            self.cell.cancel_message(reason)
        else:
            activity.cancel(reason)

    def _tell_stuck(self) -> None:
        activity = self._rarely().activity
        if activity is None:
            self.cell.declare_stuck()
        else:  # it keeps its place among those of its message; the others go on
            self.cell.tell_stuck(activity.task)

    def _push(self, when: float) -> None:
        self._rarely().entries += 1
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

    def fail(self, error: CallFailed | CallCycle, cause: BaseException | None = None) -> None:
        """It will not be accepted."""
        if self.state == SPILLED:
            self.cell.bury(SPILLED)
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


class KeyedCast:
    """A cast whose place in the mailbox a later one of the same key takes over."""

    __slots__ = ("cast", "key", "state")

    def __init__(self, cast: Cast, key: Hashable) -> None:
        self.cast = cast
        self.key = key
        self.state = KEYED


class Together:
    """Many calls of one caller, under way at once. See `PartOfMany`."""

    __slots__ = ("_leaves", "_left", "cell", "no_keywords", "parked", "parts", "task")

    def __init__(self, cell: Intake, task: trio.lowlevel.Task) -> None:
        self.cell = cell
        self.task = task
        self.parts: list[PartOfMany] = []
        self.parked = False
        self.no_keywords: dict[str, Any] = {}  # of any part
        self._left = 0
        self._leaves: Callable[[], NoReturn] | None = None  # makes the caller's `Cancelled` when it is leaving

    def make(self, spec: MessageSpec, calls: Sequence[tuple[Any, ...]], baggage: Baggage) -> None:
        """The calls to wait for."""
        self.parts = [PartOfMany(spec, args, baggage, self) for args in calls]
        self._left = len(self.parts)

    def settled(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self._left

    def one_settled(self) -> None:
        """A part has its outcome. The last one wakes the caller."""
        self._left -= 1
        if not self._left and self.parked:
            reschedule(self.task, outcome.Value(None) if self._leaves is None else outcome.capture(self._leaves))

    def abort(self, raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        """Trio asks whether the caller may leave: when all its running handlers that follow it have unwound."""
        self._leaves = raise_cancel
        for part in self.parts:
            if part.live() and part.abort(raise_cancel) is trio.lowlevel.Abort.SUCCEEDED:
                self._left -= 1
        return trio.lowlevel.Abort.FAILED if self._left else trio.lowlevel.Abort.SUCCEEDED

    def outcomes(self) -> list[outcome.Outcome[Any]]:
        """What became of each, in the order of the calls."""
        return [part.told() for part in self.parts]


class PartOfMany(Request):
    """One of many calls that a caller waits for together."""

    __slots__ = ("_together",)

    def __init__(self, spec: MessageSpec, args: tuple[Any, ...], baggage: Baggage, together: Together) -> None:
        self.cell = together.cell  # as in `Request`; to call it would cost a tenth of the message
        self.spec = spec
        self.args = args
        self.kwargs = together.no_keywords
        self.baggage = baggage
        self.task = together.task
        self.state = QUEUED
        self.deadline = NEVER
        self._rare = None
        self._value = None
        self._error = None
        self._together = together

    def reply(self, value: object) -> None:
        """See `Request`."""
        if self.state != RUNNING or self._rare is not None:
            self._settle(value, None)
            return
        self._value = value
        self.state = SETTLED
        if self.deadline != NEVER:
            self.cell.deadlines.note_dead()
        self._together.one_settled()

    def _settle(self, value: object, error: BaseException | None) -> None:  # as in `Request`, but for the waking
        if self.state >= DEFERRED:
            if self.state == SETTLED:
                self.cell.discarded += 1
            return
        self._value = value
        self._error = error
        self._close()
        self._together.one_settled()

    def refuse(self, error: Exception) -> None:
        """It could not even be sent."""
        self.state = SETTLED
        self._error = error
        self._together.one_settled()

    def told(self) -> outcome.Outcome[Any]:
        """The outcome, without all that the request holds."""
        return outcome.Value(self._value) if self._error is None else outcome.Error(self._error)
