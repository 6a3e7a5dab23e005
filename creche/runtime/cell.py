"""The cell: what outlives an actor's incarnations, and the one task that lives them.

Theory of operation
-------------------
One task per actor. The restart loop (`live`) runs inside it, so a restart respawns nothing. Nesting is fixed, from the
outside in:

    live ⊃ incarnation, with its lifespan (`_life`) ⊃ message scope (`_scope`)

* `_scope` is shared by many messages and renewed only after it was really cancelled, because a cancel scope costs more
  than a call. A cancel that comes too late for its message would hit the next, innocent one: `_spoiled` says that the
  scope must be renewed first.
* `_life` exists only for actors with a lifespan of their own. Crashes are judged outside of both: inside, a crash of
  something that the lifespan holds shows as a `Cancelled`, and its error only appears when the lifespan has been left.
* A *plain* actor has no lifespan. If nothing else goes on, its crash can be judged inside the message scope, and its
  successor may come up there: for it, one scope spans many lives.
* Whose `Cancelled` it is is never decided by its type. Our own cancels leave a note first (`_condemned`, `want`, the
  request's state) and are caught by our own scopes; any other `Cancelled` comes from outside the cell, passes through,
  and ends the task.

Waking: the task parks with `_parked` set and is woken by whoever clears it, so it is rescheduled once. Between "nothing
to do" and parking there is no await, else a message that comes in between would not be seen.

The mailbox is popped one message at a time, after a look at `_ending`: a message that is taken is a message in hand.
The one in hand when the incarnation dies gets `OutcomeUnknown`; those still waiting stay, in order. Batched and
concurrent messages, and deferred replies, are in flight beside it: see `flights`. Timers and control messages have a
lane of their own, see `agenda`; `_ending` makes the loop look at that, too. An incarnation that ends in an orderly way
waits for what is in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from trio.lowlevel import Abort, checkpoint, reschedule, wait_task_rescheduled

from . import events
from .actor import Actor, MessageSpec
from .agenda import Agenda
from .answers import as_answer
from .companion import Companion
from .context import BAGGAGE, NO_BAGGAGE, PLACE, ActorContext, Background, Lease
from .deadlines import Timer
from .envelope import CANCELLING, DEFERRED, NEVER, QUEUED, RUNNING, Cast, KeyedCast, Request
from .errors import (
    ActorStopped,
    CallFailed,
    IncarnationEnded,
    NotDelivered,
    NotDeliveredReason,
    OutcomeUnknown,
)
from .flights import Activity, Flights
from .handle import Handle, Statistics
from .intake import Intake
from .life import CRASHES_PER_PASS
from .node import Node, State, Want, one_line, stack_of, unwrap, without_frames

if TYPE_CHECKING:
    from .node import Parent
    from .runtime import Runtime
    from .slots import ReplySlot
    from .spec import ActorSpec, ChildOptions

T = TypeVar("T")

EXIT, CUT = 1, 2  # the actor has decided to end; it has been cancelled
_JOB = MessageSpec("(timer)")  # a job is no message, but what may leave it is judged in the same way

# At most so many messages per wake: everybody else's latency is bounded by it, and 64 already has all of the throughput
# (measured).
BATCH = 64


class Cell(Intake):
    """See above. Users hold a `Handle` to it and never see it."""

    __slots__ = (
        "_cast_in_hand",
        "_companion",
        "_current",
        "_kept",
        "_life",
        "_maker",
        "_patience",
        "_plain",
        "_scope",
        "_spoiled",
        "granted",
        "handled",
        "stuck",
    )

    def __init__(
        self,
        runtime: Runtime,
        parent: Parent,
        name: str,
        options: ChildOptions,
        maker: ActorSpec[Any],
        cls: type[Actor],
    ) -> None:
        super().__init__(runtime, parent, name, options, cls)
        self._maker = maker
        self._plain = cls.__plain__
        self.handled = 0
        self.stuck = False
        self._scope: trio.CancelScope | None = None
        self._life: trio.CancelScope | None = None
        self._spoiled = False  # the message scope has been cancelled
        self._current: Request | None = None
        self._cast_in_hand: MessageSpec | None = None
        self._companion: Companion | None = None
        self._kept: dict[str, tuple[Any, Callable[[Any], object]]] | None = None
        self._patience: Timer | None = None
        self.granted: Lease | None = None  # what the present incarnation has lent to its handles

    def __repr__(self) -> str:
        return f"<{self.path}#{self.incarnation} {self.state.value}, {self.queued} waiting, {self.restarts} restarts>"

    # ==============================================================================================
    # The task and its incarnations
    # ==============================================================================================

    def _incarnation(self) -> Coroutine[Any, Any, Exception | None]:
        """One life; of a plain actor it may be several, see `_serve`."""
        PLACE.set(self if self._plain else Background(self))  # what a lifespan starts is no part of a message
        return self._serve(self._come_up()) if self._plain else self._live_within_lifespan()

    def _come_up(self) -> Actor:
        """A plain actor is ready when it has been constructed."""
        actor: Actor = self._maker.construct(ActorContext(self))
        self._is_ready()
        return actor

    async def _live_within_lifespan(self) -> Exception | None:
        died_of: Exception | None = None
        with trio.CancelScope() as self._life:
            actor = self._maker.construct(ActorContext(self))
            async with actor.lifespan():
                PLACE.set(self)
                self._is_ready()
                try:
                    await self._serve(actor)
                except Exception as error:
                    died_of = error
                    raise
                finally:
                    BAGGAGE.set(NO_BAGGAGE)
                    # An exit that hangs must not hold up the restart.
                    self._life.deadline = trio.current_time() + self.spec.shutdown
            if died_of is None and not self.ends:
                died_of = IncarnationEnded(self.path)
        # Reached also when a cancel of ours cut the exit short: the error that began the exit is the one that counts.
        return None if died_of is None else unwrap(died_of)

    def _begin(self) -> None:
        if BAGGAGE.get() is not NO_BAGGAGE:
            BAGGAGE.set(NO_BAGGAGE)
        self._spoiled = self.stuck = False
        super()._begin()

    def _is_ready(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self.want is Want.NOTHING:
            self.refusal = None
        super()._is_ready()

    def _crash_or_bug(self, error: Exception) -> Exception:
        """See `Life`: it is the author's code that runs there."""
        return unwrap(error)

    async def _wind_up(self, failure: Exception | None) -> Exception | None:
        """See `Life`. Joins the background work, which may have failed too; the first failure is the cause."""
        self._revoke_lease()
        if self._condemned is None:
            self._condemned = failure
        elif failure is not None and failure is not self._condemned:
            self._condemned.add_note(f"while it was ending: {one_line(failure)}")
        if self._companion is not None:
            with trio.CancelScope(shield=True):
                await self._companion.join()
        self._scope = self._life = None
        cause, self._condemned = self._condemned, None  # kept, it would pin the dead incarnation's frames
        self._lose_hand(cause)
        try:
            return cause
        finally:
            del cause, failure  # this frame may be in its traceback

    def _revoke_lease(self) -> None:
        lease, self.granted = self.granted, None
        if lease is not None:
            lease.revoke()

    # --- the loop over messages (the hot path) ----------------------------------------------------

    async def _serve(self, actor: Actor | None) -> Exception | None:
        """Take messages until the incarnation is to end.

        The crash of a plain actor is judged here, and if it may come up again at once it does so here, within the same
        message scope: a new one would cost half a call.
        """
        while actor is not None and not (self._ending and self._over()):
            while not self._mailbox.queue and not self._ending:
                # Without a scope: an idle actor that was never asked holds none.
                self._parked = self._hungry = True
                await wait_task_rescheduled(self._unpark)
            if self._ending and self._over():
                break  # told to end while it was idle: no scope is needed for that
            try:
                with trio.CancelScope() as self._scope:
                    self._spoiled = False
                    while actor is not None:
                        try:
                            await self._messages(actor)
                            break
                        except Exception as error:
                            if not self._concerns_nothing_else():
                                raise
                            failure = error
                        actor = None  # gone before its successor is constructed, and so is what the error holds
                        self._crash_here(failure)
                        del failure
                        if self.streak % CRASHES_PER_PASS == 0:
                            await checkpoint()
                        if self._may_come_up_here():
                            self._begin()
                            actor = self._come_up()
            except Exception as error:
                if not self._answers_while_unwinding(error):
                    raise
            self._unwound()
        if self._companion is not None:
            await self._land()
        self._scope = None
        return None

    async def _land(self) -> None:
        """What is in flight was taken as much as a message in hand: wait for it, unless the end is not an orderly one.

        Whoever only waits for a deferred reply when the actor itself has decided to end is not waited for.
        """
        while self._condemned is None and self._exiting is not CUT and self._in_flight(self._exiting is not EXIT):
            await self._park()

    def _in_flight(self, with_deferred: bool = True) -> int:
        flights = None if self._companion is None else self._companion.flights
        if flights is None:
            return 0
        return len(flights) if with_deferred else len(flights.running)

    def _concerns_nothing_else(self) -> bool:
        """Whether a crash is that of the message in hand alone: no lifespan, background work, cancel or end beside."""
        return self._plain and not self._spoiled and not self._ending and self._companion is None

    def _crash_here(self, failure: Exception) -> None:
        failure = unwrap(failure)
        self._revoke_lease()
        self._lose_hand(failure)
        self._after(failure)

    def _may_come_up_here(self) -> bool:
        # Spoiled: by a kill from whoever was told of the crash. It came too late, but the scope is cancelled.
        return self.state is State.DOWN and self._may_start() and not self._spoiled

    def _answers_while_unwinding(self, error: Exception) -> bool:
        """Whether it is an answer that came out of a cancelled handler in one group with the cancellation."""
        flights = None if self._companion is None else self._companion.flights
        if flights is not None and flights.batch:
            return self._spoiled and flights.answer_batch(flights.batch[0].spec, error)
        request = self._current
        answer = None if request is None or not self._spoiled else as_answer(self.path, request.spec, error)
        if request is None or answer is None:
            return False
        self._current = None
        request.answer(answer)
        return True

    def _unwound(self) -> None:
        """A handler that was cancelled because its caller had gone has ended, late or in time."""
        request = self._current
        if request is not None and request.state != RUNNING:
            self._current = None
            if request.state == CANCELLING:
                request.unwound()
        if self._companion is not None and self._companion.flights is not None:
            self._companion.flights.drop_batch()
        if self.stuck:
            self.stuck = False
            self.refusal = self._closed if self.want is Want.DRAIN else None

    def _over(self) -> bool:
        """Whether no further message is to be taken."""
        if not self._ending or not self.ends:
            return False
        if self._condemned is not None or self._exiting or self.want is not Want.DRAIN:
            return True
        return not self._mailbox and not self._in_flight()

    @property
    def ends(self) -> bool:
        """Whether this incarnation has been told to end, in whatever way."""
        return self.want is not Want.NOTHING or bool(self._exiting) or self._condemned is not None

    async def _attend(self) -> bool:
        """There is something besides mail. False: leave the loop."""
        agenda = None if self._companion is None else self._companion.agenda
        while agenda and not self._over() and not self._spoiled:
            BAGGAGE.set(NO_BAGGAGE)
            try:
                await agenda.take().run()
            except Exception as error:
                if as_answer(self.path, _JOB, error) is None:
                    raise
        self._ending = self.ends or bool(agenda)
        return not self._over() and not self._spoiled

    async def _messages(self, actor: Actor) -> None:
        """The hot path, in one piece: a coroutine of its own for each message would cost a tenth of a call.

        A crash or a cancel leaves the call in `_current` for whoever judges.
        """
        mailbox, queue = self._mailbox, self._mailbox.open()
        left = BATCH
        while not self._ending or await self._attend():
            if not queue:
                self._parked = self._hungry = True
                await wait_task_rescheduled(self._unpark)
                left = BATCH
                continue
            item = queue.popleft()
            if isinstance(item, tuple):
                if mailbox.spill is not None:
                    mailbox.popped()
                await self._handle_cast(actor, item)
            elif isinstance(item, KeyedCast):
                await self._handle_cast(actor, mailbox.release(item))
            elif item.state != QUEUED:
                mailbox.skipped()
                continue
            elif item.spec.special:
                if mailbox.spill is not None:
                    mailbox.popped()
                await self._handle_special(actor, item.spec, item)
            else:
                if mailbox.spill is not None:
                    mailbox.popped()
                if item.deadline != NEVER and item.deadline <= trio.current_time():
                    item.too_late()  # the heap has not come to it yet
                    continue
                item.state = RUNNING
                self._current = item
                if BAGGAGE.get() is not item.baggage:
                    BAGGAGE.set(item.baggage)
                spec = item.spec
                try:
                    # Making the coroutine runs no line of it: a TypeError here is the caller's wrong arguments.
                    coroutine = getattr(actor, spec.name)(*item.args, **item.kwargs)
                except TypeError as error:
                    item.answer(error)
                else:
                    try:
                        value = await coroutine
                    except Exception as error:
                        answer = as_answer(self.path, spec, error)
                        if answer is None:
                            raise
                        item.answer(answer)
                    else:
                        item.reply(value)
                self._current = None
                self.handled += 1
            if self._spoiled:
                return
            left -= 1
            if not left:
                await checkpoint()
                left = BATCH

    async def _handle_cast(self, actor: Actor, item: Cast) -> None:
        spec, args, kwargs, baggage, expires = item
        if expires != NEVER and expires <= trio.current_time():
            self.dead_letter(spec.name, "expired")
            return
        if spec.special:
            await self._handle_special(actor, spec, item)
            return
        BAGGAGE.set(baggage)
        try:
            coroutine = getattr(actor, spec.name)(*args, **kwargs)
        except TypeError:
            self.dead_letter(spec.name, "wrong arguments")
            return
        self._cast_in_hand = spec
        try:
            await coroutine
        except Exception as error:
            if as_answer(self.path, spec, error) is None:
                raise
        self._cast_in_hand = None
        self.handled += 1

    async def _handle_special(self, actor: Actor, spec: MessageSpec, item: Cast | Request) -> None:
        """A message that has been taken and does not go through this task alone: see `flights`."""
        flights = self.flights()
        if spec.batch:
            self.handled += await flights.handle_batch(actor, spec, item, self._mailbox)
        elif flights.has_room(spec):
            self.handled += flights.start(actor, spec, item)
        else:
            self._mailbox.put_back(item)
            await self._park()  # until an activity has ended: order is kept

    # --- parking ----------------------------------------------------------------------------------

    def _unpark(self, _raise_cancel: object) -> Abort:
        self._parked = self._hungry = False
        return Abort.SUCCEEDED

    def wake(self) -> None:
        """See `Life`."""
        if self._parked and self._task is not None:
            self._parked = self._hungry = False
            reschedule(self._task)

    # ==============================================================================================
    # Ends
    # ==============================================================================================

    def _went_down(self, delay: float) -> None:
        """Callers wait along with the actor, but not for ever."""
        if self.want is Want.DRAIN or (self._plain and not delay and not self._held and self.want is Want.NOTHING):
            return  # nobody is to wait any more, or the successor is there in this very step
        if self._patience is None:
            self._patience = Timer(self.deadlines, trio.current_time() + self.spec.down_wait, self._lose_patience)
        if self.spec.while_down == "reject" and (delay or self._held):
            self._lose_patience()

    def _lose_patience(self) -> None:
        """Down for too long: who waits is told, and so is everybody who comes now. Casts already accepted stay."""
        if self.want is Want.DRAIN:
            return  # they have been told already

        def refusal() -> CallFailed:
            return NotDelivered(self.path, "crash", self.restart_in())

        self.refusal = refusal
        self._refuse_calls("crash", self.restart_in())

    def _refuse_calls(self, reason: NotDeliveredReason, retry_after: float | None) -> None:
        """Answer for everybody who waits. Casts that were accepted stay."""
        for item in self._mailbox.take_all():
            if isinstance(item, tuple):
                self._mailbox.put(item)
            else:
                self.refuse(item, reason, retry_after)

    def _lose_hand(self, failure: BaseException | None) -> None:
        """The message in hand dies with its incarnation.

        Its caller gets its own exception object; the crash is the cause.
        """
        request, self._current = self._current, None
        if request is not None and request.live() and request.state != DEFERRED:
            request.fail(OutcomeUnknown(self.path), failure)
        spec, self._cast_in_hand = self._cast_in_hand, None
        if spec is not None:
            self.dead_letter(spec.name, "crash")
        companion, self._companion = self._companion, None
        if companion is not None:
            companion.end(failure)

    def _abandon(self) -> None:
        self._revoke_lease()
        self._lose_hand(None)

    def _ended(self, cause: Exception | None) -> None:
        """Everything still waiting is answered, what was kept is closed."""
        self.refusal = self._stopped if cause is None else self._stopped_by(cause)
        if self._patience is not None:
            self._patience.cancel()
        for item in self._mailbox.take_all():
            self.refuse(item, "closed", cause=cause)
        self._close_kept()

    def _stopped(self) -> CallFailed:
        return ActorStopped(self.path)

    def _stopped_by(self, cause: Exception) -> Callable[[], CallFailed]:
        kept = without_frames(cause)  # for as long as there are handles

        def refusal() -> CallFailed:
            error = ActorStopped(self.path)
            error.__cause__ = kept
            return error

        return refusal

    # ==============================================================================================
    # Control (from the supervisor, the runtime, or the actor itself)
    # ==============================================================================================

    @property
    def starts_in_one_step(self) -> bool:
        """See `Node`."""
        return self._plain

    def end_now(self, want: Want) -> bool:
        """See `Node`. Only of an actor that waits for mail and has nothing that would have to run to its own end."""
        if not (self._hungry and self._plain) or self._mailbox.spill:
            return False  # `_hungry`: there is no mail and no other wish, for either would have woken it
        if self._companion is not None or self._kept or self.granted is not None:
            return False
        self.want = want
        self._exiting = EXIT
        self._ending = True
        self.wake()
        if want is Want.DRAIN:
            self.finalize(None)
        else:
            self._held = want is Want.PAUSE
            self._went_down(0.0)
            self.move(State.WAITING if self._held else State.SUSPENDED)
        return True

    def ask_to(self, want: Want) -> None:
        """See `Node`."""
        if want is Want.DRAIN and self.state is not State.STOPPED:
            self.refusal = self._closed
        super().ask_to(want)

    def _closed(self) -> CallFailed:
        return NotDelivered(self.path, "closed")

    def cancel(self, reason: str) -> None:
        """See `Node`."""
        self._exiting = CUT
        self._ending = True
        scope = self._life or self._scope
        if scope is not None:
            self._spoiled = True
            scope.cancel(reason)
        self.wake()

    def cancel_message(self, reason: str) -> None:
        """See `Intake`."""
        if self._scope is not None:
            self._spoiled = True
            self._scope.cancel(reason)

    def exit(self) -> None:
        """See `ActorContext.exit`."""
        self._exiting = self._exiting or EXIT
        self._ending = True
        self.wake()

    def attend(self) -> None:
        """There is something in the lane: look at it before the next message."""
        self._ending = True
        self.wake()

    def declare_stuck(self) -> None:
        """See `Intake`."""
        if not self.stuck:
            self.stuck = True
            self.refusal = self._is_stuck
            self._refuse_calls("stuck", self.spec.unwind_grace)
            self.tell_stuck(self._task)

    def tell_stuck(self, task: trio.lowlevel.Task | None) -> None:
        """See `Intake`."""
        if self.runtime.events.on:
            self.emit(events.Stuck, stack_of(task))

    def _is_stuck(self) -> CallFailed:
        return NotDelivered(self.path, "stuck", self.spec.unwind_grace)

    # --- what actors use --------------------------------------------------------------------------

    def companion(self) -> Companion:
        """The owner of this incarnation's background work, made on first use."""
        if self._companion is None:
            self._companion = Companion(self)
        return self._companion

    def flights(self) -> Flights:
        """What this incarnation has in flight."""
        companion = self.companion()
        if companion.flights is None:
            companion.flights = Flights(self)
        return companion.flights

    def agenda(self) -> Agenda:
        """The lane and the timers of this incarnation."""
        companion = self.companion()
        if companion.agenda is None:
            companion.agenda = Agenda(self)
        return companion.agenda

    def defer(self) -> ReplySlot[Any]:
        """See `ActorContext.defer`."""
        place = PLACE.get()
        if isinstance(place, Activity):
            return self.flights().defer(place.spec, place.take_slot())
        request, spec = (self._current, self._cast_in_hand) if place is self else (None, None)
        if request is not None and request.state != DEFERRED:
            return self.flights().defer(request.spec, request)
        if spec is None:
            raise RuntimeError(f"{self.path}: there is no message in hand whose reply slot could be taken")
        self._cast_in_hand = None
        return self.flights().defer(spec, None)

    def handle(self) -> Handle[Any]:
        """A new handle to this cell."""
        return Handle(self.name, self)

    def grant(self, lease: Lease) -> None:
        """See `ActorContext.grant`."""
        self._revoke_lease()
        self.granted = lease

    def keep(self, name: str, make: Callable[[], T], close: Callable[[T], object]) -> T:
        """See `ActorContext.keep`."""
        if self._kept is None:
            self._kept = {}
        if name not in self._kept:
            self._kept[name] = (make(), close)
        value: T = self._kept[name][0]
        return value

    def _close_kept(self) -> None:
        kept, self._kept = self._kept or {}, None
        for value, close in reversed(kept.values()):
            try:
                close(value)
            except Exception as error:
                self.bad_stop(error)

    # --- being looked at --------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """See `Handle.statistics`."""
        return Statistics(
            path=self.path,
            state=self.state.value,
            incarnation=self.incarnation,
            restarts=self.restarts,
            queued=self.queued,
            in_flight=self._in_flight(),
            handled=self.handled,
            revoked=self.revoked,
            discarded=self.discarded,
        )

    def children(self) -> Sequence[Node]:
        """See `Node`."""
        return ()

    def at_their_limit(self) -> Sequence[Sequence[Activity]]:
        """See `Intake`."""
        flights = None if self._companion is None else self._companion.flights
        return () if flights is None else flights.at_their_limit()

    @property
    def inherited_deadline(self) -> float:
        """Part of `Place`: the deadline of the message in hand."""
        # Only while somebody waits: when the caller of a "finish" message has run out of time, what the handler still
        # has to do must not be stopped by that same time.
        if self._current is not None:
            return self._current.deadline if self._current.live() else NEVER
        flights = None if self._companion is None else self._companion.flights
        return NEVER if flights is None else flights.batch_deadline()

    @property
    def serial(self) -> Cell:
        """Part of `Place`: the message in hand waits for everything that runs in this task's context."""
        return self
