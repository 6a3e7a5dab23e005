"""The front of a pool: where its messages come in. To senders it is what a cell is to them.

Theory of operation
-------------------
Calls, casts, room, overflow, revocation and the wait-for graph are those of every actor (`Intake`); but there is no
task here. The mailbox's queue is the `Backlog`, which wakes workers as messages are appended. A request belongs to the
front while anybody may take it, and to a worker as soon as it has been assigned to it or taken: whoever has to cancel
its handler, or asks what it waits for, asks that worker.

The front refuses new messages when the pool is closed, and also when no worker can take any, for the reason that the
workers have: all of them down for longer than `down_wait`, or stuck.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import trio
from trio.lowlevel import current_task, wait_task_rescheduled

from ...runtime import events
from ...runtime.actor import Actor, MessageSpec
from ...runtime.context import BAGGAGE, NO_BAGGAGE, PLACE
from ...runtime.envelope import NEVER, RUNNING, PartOfMany, Request, Together, Waiting
from ...runtime.errors import ActorStopped, CallFailed, InternalError, NotDelivered, NotDeliveredReason
from ...runtime.intake import Intake, after_a_checkpoint
from ...runtime.mailbox import Mailbox, Queued, is_live
from ...runtime.node import Node, without_frames
from .backlog import Backlog, Seat

if TYPE_CHECKING:
    from ...runtime.flights import Activity
    from ...runtime.handle import Statistics
    from ...runtime.node import Parent
    from ...runtime.runtime import Runtime
    from ...runtime.spec import ChildOptions
    from .worker import WorkerCell

MakeBacklog = Callable[["Front"], Backlog]


class PoolMailbox(Mailbox):
    """A mailbox whose queue is a backlog."""

    __slots__ = ("backlog",)

    def __init__(self, capacity: int, backlog: Backlog) -> None:
        super().__init__(capacity)
        self.queue = self.backlog = backlog
        self._let_append()

    def _let_append(self) -> None:
        self.at_rest = self.appends_below = self.capacity

    def mark(self, now: float) -> None:
        """See `Mailbox`: the backlog tells the time by itself."""
        self.backlog.arrived = now

    def oldest_wait(self, now: float) -> float:
        """See `Mailbox`."""
        return max(0.0, now - self.backlog.oldest())

    def _sweep(self) -> None:
        self.backlog.sweep()

    def take_waiting(self) -> Iterator[Waiting]:
        """See `Mailbox`."""
        spilled = [item for _, item in self.spill or () if is_live(item)]
        self._dead_spilled = 0
        self._nobody_waits()
        yield from cast("Sequence[Request]", self.backlog.extract())
        yield from spilled


class Past:
    """What workers did that have ended since."""

    def __init__(self) -> None:
        self.handled = self.discarded = self.restarts = 0

    def add(self, worker: WorkerCell) -> None:
        """One more of them."""
        self.handled += worker.handled
        self.discarded += worker.discarded
        self.restarts += worker.restarts


class Front(Intake):
    """See above."""

    __slots__ = ("backlog", "draining", "past", "shed_calls", "workers")

    def __init__(
        self,
        runtime: Runtime,
        parent: Parent,
        name: str,
        options: ChildOptions,
        cls: type[Actor],
        make_backlog: MakeBacklog,
    ) -> None:
        super().__init__(runtime, parent, name, options, cls)
        self.backlog = make_backlog(self)
        self._mailbox: PoolMailbox = PoolMailbox(options.mailbox, self.backlog)
        self.backlog.mailbox = self._mailbox
        self.workers: list[WorkerCell] = []
        self.shed_calls = 0
        self.past = Past()
        self.draining = False  # closed to new messages; what waits is still handled

    def __repr__(self) -> str:
        return f"<pool {self.path}, {len(self.workers)} workers, {self.queued} waiting>"

    # --- for the pool -----------------------------------------------------------------------------

    def add(self, worker: WorkerCell) -> None:
        """One more worker."""
        worker.join(self)
        self.workers.append(worker)
        self.reconsider()

    def retire(self, worker: WorkerCell) -> None:
        """The worker finishes what is in its hand, and takes nothing that others may take."""
        self.workers.remove(worker)
        self.backlog.retire(worker.seat)
        self.reconsider()

    def gone(self, worker: WorkerCell) -> None:
        """The worker has ended for good."""
        if worker in self.workers:
            self.workers.remove(worker)
        if worker.seat in self.backlog.seats:
            self.backlog.gone(worker.seat)
            self.past.add(worker)

    def close(self) -> None:
        """Take no new messages."""
        self.draining = True
        self.refusal = self._closed

    def end(self, cause: Exception | None) -> None:
        """The pool has ended for good: whatever still waits is answered."""
        self.close()
        kept = without_frames(cause)

        def stopped() -> CallFailed:
            error = ActorStopped(self.path)
            error.__cause__ = kept
            return error

        self.refusal = stopped
        for item in self._mailbox.take_all():
            self.refuse(item, "closed", cause=cause)

    def holds_less(self) -> None:
        """What was held has gone to workers: while the pool drains, all stay until then."""
        if self.draining:
            for worker in self.workers:
                worker.wake()

    def follow(self, held: bool, restart_at: float) -> None:
        """Whether the pool itself waits for its group, and until when: see `must_not_hold_up`."""
        self._held = held
        self._restart_at = restart_at

    def reconsider(self) -> None:
        """Something about a worker has changed: refuse, or not, as the workers do."""
        if self.draining:
            return
        if any(worker.refusal is None for worker in self.workers):
            self.refusal = None
            return
        self.refusal = self._nobody_takes
        for item in list(self._mailbox.take_waiting()):
            item.state = RUNNING  # it is in the mailbox no more
            item.fail(self._nobody_takes())

    def _nobody_takes(self) -> CallFailed:
        refusals = [worker.refusal() for worker in self.workers if worker.refusal is not None]
        why = [error for error in refusals if isinstance(error, NotDelivered)]
        if not why:
            return ActorStopped(self.path)
        reason: NotDeliveredReason = why[0].reason
        waits = [error.retry_after for error in why if error.retry_after is not None]
        return NotDelivered(self.path, reason, min(waits, default=None))

    def _closed(self) -> CallFailed:
        return NotDelivered(self.path, "closed")

    # --- for the backlog --------------------------------------------------------------------------

    def shed(self, request: Request, waited: float) -> None:
        """A call has waited too long."""
        self.shed_calls += 1
        if self.runtime.events.on:
            self.emit(events.Shed, request.spec.name, waited)
        self.refuse(request, "overload", waited)

    def seat_of(self, item: Queued) -> Seat | None:
        """The worker that a message was aimed at."""
        if isinstance(item, tuple) or item.cell is self:
            return None
        return cast("WorkerCell", item.cell).seat

    # --- part of `Intake` -------------------------------------------------------------------------

    def wake_if_blocked(self) -> None:
        """See `Intake`: workers that put back the message which has now been revoked may look again."""
        for worker in self.workers:
            worker.wake_if_blocked()

    def takers(self) -> Sequence[Intake]:
        """See `Intake`."""
        return self.workers

    def may_wait(self) -> bool:
        """See `Intake`. The one that is about to wait may be a worker itself: it does not show yet."""
        return sum(not worker.may_wait() for worker in self.workers) <= 1

    def at_their_limit(self) -> Sequence[Sequence[Activity]]:
        """See `Intake`."""
        return ()

    def children(self) -> Sequence[Node]:
        """See `Node`."""
        return ()

    def statistics(self) -> Statistics:
        """See `Intake`: the pool knows more."""
        raise self._no_task()

    # There is no task of which these could be asked.

    def _no_task(self) -> InternalError:
        return InternalError(f"{self.path}: the front of a pool has no task")

    @property
    def final_cause(self) -> Exception | None:
        """See `Node`."""
        raise self._no_task()

    def _incarnation(self) -> Coroutine[Any, Any, Exception | None]:
        raise self._no_task()

    def _crash_or_bug(self, error: Exception) -> Exception:
        raise self._no_task()

    def _abandon(self) -> None:
        raise self._no_task()

    def _went_down(self, delay: float) -> None:
        raise self._no_task()

    def _ended(self, cause: Exception | None) -> None:
        raise self._no_task()

    def cancel(self, reason: str) -> None:
        """See `Node`."""
        raise self._no_task()

    def declare_stuck(self) -> None:
        """See `Intake`."""
        raise self._no_task()

    def tell_stuck(self, *tasks: trio.lowlevel.Task | None) -> None:
        """See `Intake`."""
        raise self._no_task()

    def cancel_message(self, reason: str) -> None:
        """See `Intake`."""
        raise self._no_task()


class RoutedFront(Front):
    """A front that looks at each message before it is sent, and knows which worker will handle it if one must.

    So what a key or a priority function raises is the sender's, the wait-for graph is exact, and a call whose worker
    refuses is refused at once.
    """

    __slots__ = ("_checks", "_keyed")

    def check_with(self, checks: Sequence[Callable[[Queued], object]], *, keyed: bool) -> None:
        """Call these with each message before it is sent; a cast is aimed before that only if it has a key."""
        self._checks = checks
        self._keyed = keyed

    async def call(
        self, spec: MessageSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], deadline: float = NEVER
    ) -> Any:
        """See `Intake`."""
        if self.refusal is not None:
            raise await after_a_checkpoint(self.refusal())
        request = Request(self, spec, args, kwargs, BAGGAGE.get(), current_task())
        seat = self._aim_at_worker(request)
        refusal = self._refusal_of(seat)
        if refusal is not None:
            raise await after_a_checkpoint(refusal)
        place = PLACE.get()
        if place is not None:
            return await self._call_from(place, request, deadline)
        try:
            self._submit(request, deadline)
        except NotDelivered as error:
            raise await after_a_checkpoint(error) from None
        return await wait_task_rescheduled(request.abort)

    def _aim(self, together: Together) -> None:
        try:
            for part in together.parts:
                self._aim_at_worker(part)
        finally:
            for seat in self.backlog.seats:
                seat.aimed = 0

    def _submit_all(self, together: Together, deadline: float) -> None:
        if all(worker.refusal is None for worker in self.workers):
            super()._submit_all(together, deadline)
        else:
            self._submit_each(together, deadline)

    def _aim_at_worker(self, request: Request) -> Seat | None:
        for check in self._checks:
            check(request)
        seat = self.backlog.target(request)
        if seat is not None:
            request.cell = seat.worker
            if isinstance(request, PartOfMany):
                seat.aimed += 1
        return seat

    def _refusal_of(self, seat: Seat | None) -> CallFailed | None:
        """Of a worker that is down for too long or stuck. One that retires only passes on what is held for it."""
        if seat is None or seat.retired or seat.worker.refusal is None:
            return None
        return seat.worker.refusal()

    def _submit(self, request: Request, deadline: float) -> None:
        if request.cell is not self:
            refusal = self._refusal_of(cast("WorkerCell", request.cell).seat)
            if refusal is not None:
                raise refusal
        super()._submit(request, deadline)

    async def cast(self, spec: MessageSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], expires: float) -> None:
        """See `Intake`."""
        if self.refusal is None:
            refusal = self._refusal_of_cast(spec, args, kwargs)
            if refusal is not None:
                raise await after_a_checkpoint(refusal)
        await super().cast(spec, args, kwargs, expires)

    def cast_nowait(
        self, spec: MessageSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], expires: float = NEVER
    ) -> None:
        """See `Intake`."""
        if self.refusal is None:
            refusal = self._refusal_of_cast(spec, args, kwargs)
            if refusal is not None:
                raise refusal
        super().cast_nowait(spec, args, kwargs, expires)

    def _refusal_of_cast(
        self, spec: MessageSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> CallFailed | None:
        item = (spec, args, kwargs, NO_BAGGAGE, NEVER)
        for check in self._checks:
            check(item)
        return self._refusal_of(self.backlog.target(item)) if self._keyed else None
