"""Messages in flight: taken from the mailbox, not answered yet, and not the one that the actor's task has in hand.

Theory of operation
-------------------
There are two kinds, and an incarnation that has neither never makes any of this.

* A **deferred reply** (`Flight`): the handler has taken the reply slot; it may have ended, and the answer will come
  from anything that belongs to the incarnation. All items of a batch are such flights from the beginning.
* A **concurrent message** (`Activity`): its handler runs in a task of its own in the companion's nursery. The actor's
  task starts it and goes on. A message whose limit is reached is put back at the head of the mailbox, and the actor's
  task parks until one of the activities ends: order is kept, and what waits can still be revoked.

A *guest* is an activity, too: a call of a reentrant message that has come back along the chain of calls of what is in
hand, and is let in beside it. Until it has ended no other message is taken, also if what let it in ends before.

Nothing here outlives its incarnation: `lose` answers for all that is left when it has ended. A graceful end waits until
nothing is in flight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import current_task

from .answers import as_answer, was_not_handled
from .context import BAGGAGE, NO_BAGGAGE, PLACE, Baggage
from .envelope import CANCELLING, DEFERRED, NEVER, RUNNING, Cast, Request
from .errors import CallCycle, NotDelivered, OutcomeUnknown, Stashed
from .node import fresh_copy, unwrap
from .slots import BatchItem, ReplySlot
from .waits import Edge, Sent, check_for_cycle

if TYPE_CHECKING:
    from .actor import Actor, MessageSpec
    from .handling import Handling
    from .mailbox import Mailbox
    from .runtime import Runtime


class Flight:
    """A message whose answer will come later. Without a request: a cast, or a call whose caller had gone before."""

    __slots__ = ("_flights", "baggage", "begun", "cast", "deadline", "open", "request", "spec")

    def __init__(
        self,
        flights: Flights,
        spec: MessageSpec,
        request: Request | None,
        baggage: Baggage,
        deadline: float = NEVER,
        cast: Cast | None = None,
    ) -> None:
        self._flights = flights
        self.spec = spec
        self.request = request
        self.cast = cast
        self.baggage = baggage
        self.deadline = deadline
        self.begun = True
        self.open = True
        flights.deferred[self] = None
        if request is not None and request.state == RUNNING:  # else its caller has gone: there is only work to finish
            request.defer(self)

    def __repr__(self) -> str:
        return f"{self.spec.name} of {self._flights.cell.path}"

    @property
    def wanted(self) -> bool:
        """See `ReplySlot`."""
        return self.open and (self.request is None or self.request.state == DEFERRED)

    def reply(self, value: object) -> None:
        """See `ReplySlot`."""
        if self.request is not None:
            self.request.reply_late(value)
        self.landed()

    def answer(self, error: Exception) -> None:
        """See `ReplySlot.fail`."""
        if self.request is not None:
            self.request.answer(fresh_copy(as_answer(self._flights.cell.path, self.spec, error) or error))
        self.landed()

    def give_up(self, cause: BaseException | None, detail: str = "outcome unknown: the actor gave up on it") -> None:
        """See `ReplySlot`."""
        if self.wanted:
            self._lose(detail, cause)
        self.landed()

    def _lose(self, detail: str, cause: BaseException | None) -> None:
        cell = self._flights.cell
        if self.request is None:
            if self.cast is not None:
                cell.dead_letter(self.cast, "crash" if self.begun else "not_sent", cause)
        elif self.begun:
            self.request.fail(OutcomeUnknown(cell.path, detail), cause)
        else:
            self.request.fail(NotDelivered(cell.path, "not_sent"), cause)

    def forget(self) -> None:
        """Its slot is gone. Called from a finaliser, so perhaps not in the thread of the runtime."""
        token = self._flights.cell.runtime.token
        try:
            if token is not None:
                token.run_sync_soon(self.give_up, None, "outcome unknown: the actor has forgotten its reply slot")
        except trio.RunFinishedError:
            pass  # nobody waits any more

    def landed(self) -> None:
        """It is in flight no more."""
        self.open = False
        if self._flights.deferred.pop(self, self) is None:
            self._flights.one_less()

    def caller_left(self) -> None:
        """What has begun must still be finished; the rest is revoked."""
        if not self.begun:
            self.landed()
        self._flights.one_caller_left()


class Activity:
    """A concurrent message at work: the place of its task, and a waiter of its own in the wait-for graph."""

    __slots__ = (
        "_cell",
        "_scope",
        "_slot_taken",
        "_waits_for",
        "baggage",
        "cast",
        "incarnation",
        "path",
        "request",
        "runtime",
        "spec",
        "task",
    )

    def __init__(
        self, cell: Handling, spec: MessageSpec, request: Request | None, baggage: Baggage, cast: Cast | None = None
    ) -> None:
        self._cell = cell
        self.cast = cast
        self.runtime: Runtime = cell.runtime
        self.path: str = cell.path
        self.incarnation: int = cell.incarnation
        self.spec = spec
        self.request = request
        self.baggage = baggage
        self.task: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope() if request is not None and spec.cancel_when_gone else None
        self._waits_for: list[Edge] | None = None
        self._slot_taken = False

    @property
    def inherited_deadline(self) -> float:
        """Part of `Place`."""
        request = self.request
        if request is None or not request.live() or self.serial is None:
            return NEVER
        return request.deadline

    @property
    def serial(self) -> Activity | None:
        """Part of `Place`: the handler waits for its own task and for those in nurseries that it holds open.

        Not for what it has started in a nursery of somebody else.
        """
        task = current_task()
        while task is not self.task:
            nursery = task.parent_nursery
            if nursery is None:
                return None
            task = nursery.parent_task
        return self

    def edges(self) -> list[Edge]:
        """See `Waiter`."""
        if self._waits_for is None:
            self._waits_for = []
        return self._waits_for

    def edge_to(self, edge: Sent) -> list[Edge]:
        """See `Waiter`."""
        self._cell.must_not_hold_up(edge)
        check_for_cycle(self, edge)
        edges = self.edges()
        edges.append(edge)
        return edges

    def waits_for(self) -> Sequence[Edge]:
        """See `Waiter`."""
        return self._waits_for or ()

    def take_slot(self) -> Request | None:
        """The reply is deferred: the request, or None for a cast. Raises RuntimeError the second time, and later."""
        self._must_be_in_hand()
        if self._slot_taken:
            raise RuntimeError(f"{self.path}: the reply slot of {self.spec.name} has been taken already")
        self._slot_taken = True
        return self.request

    def _must_be_in_hand(self) -> None:
        if self.serial is None:
            raise RuntimeError(f"{self.path}: there is no message in hand: its handler has left this task running")

    def cancel(self, reason: str) -> None:
        """The caller has gone: cancel the handler, and nothing else."""
        if self._scope is not None:
            self._scope.cancel(reason)

    def check_stash(self) -> None:
        """Raise RuntimeError, or `CallCycle`, unless the message can be put aside."""
        self._must_be_in_hand()
        flights = self._cell.flights()
        if self in flights.guests:  # the message in hand waits for it
            raise CallCycle((self.path, self.path))
        if self._slot_taken:
            raise RuntimeError(f"{self.path}: the reply slot has been taken, so the message cannot be stashed")

    async def run(self, flights: Flights, actor: Actor, item: Cast | Request) -> None:
        """The task. An error that is no answer leaves it, and crashes the incarnation."""
        self.task = current_task()
        PLACE.set(self)
        BAGGAGE.set(self.baggage)
        args, kwargs = item[1:3] if isinstance(item, tuple) else (item.args, item.kwargs)
        try:
            if self._scope is None:
                await self._handle(actor, args, kwargs)
            else:
                with self._scope:
                    await self._handle(actor, args, kwargs)
        except Exception as error:
            if isinstance(unwrap(error), Stashed):
                if self in flights.running:  # else its end has been told already
                    self._cell.put_aside(item)
            else:
                self._answer(error)
        if self.request is not None and self.request.state == CANCELLING:
            self.request.unwound()
        flights.ended(self)

    def _answer(self, error: Exception) -> None:
        answer = as_answer(self.path, self.spec, error)
        if answer is None:
            raise error
        if self.request is not None:
            self.request.answer(answer)
        elif self.cast is not None and was_not_handled(self.path, answer):
            self._cell.dead_letter(self.cast, "not_sent")

    async def _handle(self, actor: Actor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        try:
            coroutine = getattr(actor, self.spec.name)(*args, **kwargs)  # this runs no line of it
        except TypeError as error:
            self._refuse(error)
            return
        value = await coroutine
        if self.request is not None:
            self.request.reply(value)

    def _refuse(self, error: TypeError) -> None:
        """The caller's arguments do not fit."""
        if self.request is not None:
            self.request.answer(error)
        elif self.cast is not None:
            self._cell.dead_letter(self.cast, "wrong arguments")


class Flights:
    """All that one incarnation has in flight."""

    def __init__(self, cell: Handling) -> None:
        self.cell = cell
        self.deferred: dict[Flight, None] = {}
        self.running: dict[Activity, None] = {}
        self._busy: dict[str, int] = {}  # how many activities there are of each message
        self.guests: dict[Activity, None] = {}  # those of the running ones that were let in
        self.batch: list[Flight] | None = None  # what the actor's task has in hand

    def __len__(self) -> int:
        return len(self.deferred) + len(self.running)

    # --- deferred replies -------------------------------------------------------------------------

    def defer(self, spec: MessageSpec, request: Request | None, cast: Cast | None) -> ReplySlot[Any]:
        """Take the reply slot of a message whose handler is running."""
        deadline = NEVER if request is None else request.deadline
        return ReplySlot(Flight(self, spec, request, BAGGAGE.get(), deadline, cast))

    def one_caller_left(self) -> None:
        """A batch is cancelled when nobody is left who wants it."""
        batch = self.batch
        if batch and batch[0].spec.cancel_when_gone and not any(flight.wanted for flight in batch):
            self.cell.cancel_message("all callers of the batch have gone")

    def one_less(self) -> None:
        """Something has landed: a graceful end may have waited for it."""
        if self.cell.ends:
            self.cell.wake()

    # --- batches ----------------------------------------------------------------------------------

    async def handle_batch(self, actor: Actor, spec: MessageSpec, first: Cast | Request, mailbox: Mailbox) -> int:
        """Handle a message and those like it that follow, in the actor's task. Returns how many."""
        items: list[BatchItem[Any, Any]] = []
        message: Cast | Request | None = first
        while message is not None:
            item = None if self._expired(message) else self._item(spec, message)
            if item is not None:
                items.append(item)
            message = mailbox.take_another(spec) if len(items) < spec.batch else None
        if items:
            await self._run_batch(actor, spec, items)
        return len(items)

    async def _run_batch(self, actor: Actor, spec: MessageSpec, items: list[BatchItem[Any, Any]]) -> None:
        self.batch = [item._flight for item in items]  # pyright: ignore[reportPrivateUsage]
        BAGGAGE.set(NO_BAGGAGE)
        try:
            await getattr(actor, spec.name)(items)
        except Exception as error:
            if not self.answer_batch(spec, error):
                raise
        self.batch = None

    def answer_batch(self, spec: MessageSpec, error: Exception) -> bool:
        """Give an error that is an answer to all that have none yet. False: it is a crash."""
        answer = as_answer(self.cell.path, spec, error)
        if answer is None:
            return False
        batch, self.batch = self.batch or [], None
        for flight in batch:
            if flight.open:
                flight.answer(answer)
        return True

    def drop_batch(self) -> None:
        """The handler of the batch in hand has been cancelled: there is nothing left to finish for who has gone.

        If others still want it, it was not for its callers that it was cancelled: `lose` answers for them.
        """
        batch, self.batch = self.batch or [], None
        for flight in batch:
            if not flight.wanted:
                flight.landed()

    def _item(self, spec: MessageSpec, message: Cast | Request) -> BatchItem[Any, Any] | None:
        sent: Cast | None = None
        if isinstance(message, tuple):
            _, args, kwargs, baggage, deadline = sent = message
            request = None
        else:
            args, kwargs, baggage, deadline = message.args, message.kwargs, message.baggage, message.deadline
            request = message
            message.state = RUNNING
        if len(args) == 1 and not kwargs:
            return BatchItem(Flight(self, spec, request, baggage, deadline, sent), args[0])
        if isinstance(message, tuple):
            self.cell.dead_letter(message, "wrong arguments")
        else:
            message.answer(TypeError(f"{spec.name}() is batched: it takes one positional argument"))
        return None

    def batch_deadline(self) -> float:
        """Until when somebody may still want the batch in hand."""
        return max((flight.deadline for flight in self.batch or () if flight.wanted), default=NEVER)

    # --- concurrent messages ----------------------------------------------------------------------

    def has_room(self, spec: MessageSpec) -> bool:
        """Whether one more of this message may run."""
        return self._busy.get(spec.name, 0) < spec.concurrency

    def start(self, actor: Actor, spec: MessageSpec, message: Cast | Request) -> bool:
        """Run a message beside the others, unless its time is up."""
        if self._expired(message):
            return False
        if isinstance(message, tuple):
            activity = Activity(self.cell, spec, None, message[3], message)
        else:
            message.state = RUNNING
            activity = Activity(self.cell, spec, message, message.baggage)
            message.handled_by(activity)
        self.running[activity] = None
        self._busy[spec.name] = self._busy.get(spec.name, 0) + 1
        self.cell.companion().spawn(activity.run, (self, actor, message))
        return True

    def let_in(self, actor: Actor, request: Request) -> None:
        """Run a call that has come back along the chain of the message in hand: it counts for no limit but its own."""
        request.state = RUNNING
        activity = Activity(self.cell, request.spec, request, request.baggage)
        request.handled_by(activity)
        self.running[activity] = self.guests[activity] = None
        self.cell.companion().spawn(activity.run, (self, actor, request))

    def _expired(self, item: Cast | Request) -> bool:
        """Whether its time ran out while it waited; then it has been dealt with."""
        deadline = item[4] if isinstance(item, tuple) else item.deadline
        if deadline == NEVER or deadline > trio.current_time():
            return False
        if isinstance(item, tuple):
            self.cell.dead_letter(item, "expired")
        else:
            item.too_late()
        return True

    def ended(self, activity: Activity) -> None:
        """A handler has ended in an orderly way."""
        if activity in self.running:  # else its caller has been told already that nobody waits for it any more
            del self.running[activity]
            if activity in self.guests:
                del self.guests[activity]
            else:
                self._busy[activity.spec.name] -= 1
        self.one_less()
        self.cell.wake_if_blocked()

    def messages_by_task(self) -> dict[trio.lowlevel.Task, str]:
        """What the tasks of concurrent messages are handling."""
        return {activity.task: activity.spec.name for activity in self.running if activity.task is not None}

    def at_their_limit(self) -> list[list[Activity]]:
        """The activities of each message whose limit is reached: until one of them ends the mailbox may stand still."""
        full = [name for name, busy in self._busy.items() if busy and busy >= self.cell.messages[name].concurrency]
        beside = [[one for one in self.running if one.spec.name == name and one not in self.guests] for name in full]
        return [*beside, *([guest] for guest in self.guests)]

    # --- the end ----------------------------------------------------------------------------------

    def lose(self, cause: BaseException | None) -> bool:
        """The incarnation has ended: answer for all that is left. True: some caller has been told."""
        self.batch = None
        requests = [flight.request for flight in self.deferred] + [activity.request for activity in self.running]
        told = any(request is not None and request.live() for request in requests)
        for flight in list(self.deferred):
            flight.give_up(cause, "outcome unknown: the actor died before it had answered")
        for activity in self.running:
            request = activity.request
            if request is None:
                if activity.cast is not None:
                    self.cell.dead_letter(activity.cast, "crash", cause)
            elif request.live() and request.state != DEFERRED:
                request.fail(OutcomeUnknown(self.cell.path), cause)
        self.running.clear()
        self.guests.clear()
        self._busy.clear()
        return told
