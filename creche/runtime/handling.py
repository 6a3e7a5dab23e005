"""The actor's side of its messages: taking them, handling them, answering for what was in hand.

Theory of operation
-------------------
The actor's task pops one message at a time, after a look at `_ending`: a message that is taken is a message in hand.
The one in hand when the incarnation dies gets `OutcomeUnknown`, or, if it is declared idempotent, is the next one's
first; those still waiting stay, in order. Batched and
concurrent messages, and deferred replies, are in flight beside it: see `flights`. Timers and control messages have a
lane of their own, see `agenda`; `_ending` makes the loop look at that, too. An incarnation that ends in an orderly way
waits for what is in flight.

Handlers run in a message scope, `_scope`, that many messages share and that is renewed only after it was really
cancelled, because a cancel scope costs more than a call. A cancel that comes too late for its message would hit the
next, innocent one: `_spoiled` says that the scope must be renewed first.

Waking: the task parks with `_parked` set and is woken by whoever clears it, so it is rescheduled once. Between "nothing
to do" and parking there is no await, else a message that comes in between would not be seen.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import Abort, checkpoint, reschedule, wait_task_rescheduled

from . import events
from .actor import Actor, MessageSpec
from .agenda import Agenda
from .answers import as_answer, was_not_handled
from .attempts import causes_of, is_last, tried
from .companion import Companion
from .context import BAGGAGE, NO_BAGGAGE, PLACE
from .envelope import CANCELLING, DEFERRED, KEYED, NEVER, QUEUED, RUNNING, Cast, Request
from .errors import CallFailed, Killed, NotDelivered, NotDeliveredReason, OutcomeUnknown, Stashed
from .flights import Activity, Flights
from .intake import Intake
from .life import NOT_YET
from .node import DRAIN, NOTHING, Want, stack_of, unwrap
from .unraisable import log_unseen_crash

if TYPE_CHECKING:
    from .context import Place
    from .node import Parent
    from .runtime import Runtime
    from .slots import ReplySlot
    from .spec import ChildOptions
    from .waits import Waiter

EXIT, CUT = 1, 2  # the actor has decided to end; it has been cancelled
_JOB = MessageSpec("(timer)")  # a job is no message, but what may leave it is judged in the same way
_NOTHING: Cast = (_JOB, (), {}, NO_BAGGAGE, NEVER)

# At most so many messages per wake: everybody else's latency is bounded by it, and 64 already has all of the throughput
# (measured).
BATCH = 64
# A chain of calls that comes back ever deeper is a recursion without end.
MOST_GUESTS = 64


class Handling(Intake):
    """A node that handles messages. What comes before and after its incarnations is in `cell`."""

    __slots__ = ("_actor", "_cast_in_hand", "_companion", "_current", "_left", "_scope", "_spoiled", "handled", "stuck")

    def __init__(self, runtime: Runtime, parent: Parent, name: str, options: ChildOptions, cls: type[Actor]) -> None:
        super().__init__(runtime, parent, name, options, cls)
        self.handled = 0
        self.stuck = False
        self._scope: trio.CancelScope | None = None
        self._spoiled = False  # the message scope has been cancelled
        self._actor: Actor | None = None  # of the present incarnation, if it lets calls in
        self._current: Request | None = None
        self._cast_in_hand: Cast | None = None
        self._left = BATCH  # as of the last crash: until others have to be let run
        self._companion: Companion | None = None

    @abstractmethod
    def background_failed(self, failure: Exception) -> None:
        """Background work, or a concurrent message, has failed: a crash, if the incarnation is not ending already."""

    # --- the loop over messages (the hot path) ----------------------------------------------------

    async def _messages(self, actor: Actor) -> None:
        """The hot path, in one piece: a coroutine of its own for each message would cost a tenth of a call.

        A crash or a cancel leaves the call in `_current` for whoever judges.
        """
        mailbox, queue = self._mailbox, self._mailbox.open()
        mailbox.appends_below = 0
        if actor.__reentrant__:
            self._actor = actor
        item: Cast | Request
        value: Any
        left = self._left
        while not self._ending or await self._attend():
            if not queue:
                item, value = _NOTHING, None  # an idle actor holds nothing of its last message
                self._parked = self._hungry = True
                mailbox.appends_below, mailbox.since = mailbox.at_rest, NEVER
                await wait_task_rescheduled(self._unpark)
                mailbox.appends_below = 0
                if len(queue) > 1 or self._companion is not None:  # else nothing is going to wait
                    mailbox.woken(trio.current_time())
                left = BATCH
                continue
            item = queue.popleft()
            if isinstance(item, tuple):
                if mailbox.spill is not None:
                    mailbox.popped()
                spec = item[0]
                if spec.special or item[4] != NEVER:
                    await self._handle_cast(actor, item)
                else:
                    if BAGGAGE.get() is not item[3]:
                        BAGGAGE.set(item[3])
                    try:
                        coroutine = getattr(actor, spec.name)(*item[1], **item[2])
                    except TypeError:
                        self.dead_letter(item, "wrong arguments")
                    else:
                        self._cast_in_hand = item
                        try:
                            await coroutine
                        except Exception as error:
                            if not self._put_aside(error, item) and not self._answers(error, item):
                                self._left = left
                                raise
                        self._cast_in_hand = None
                        self.handled += 1
            elif item.state != QUEUED:
                if item.state != KEYED:
                    mailbox.skipped(item)
                    continue
                await self._handle_keyed(actor, item)
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
                        if not self._put_aside(error, item) and not self._answers(error, item):
                            self._left = left
                            raise
                    else:
                        item.reply(value)
                self._current = None
                self.handled += 1
            if self._spoiled:
                return
            left -= 1
            if not left:
                left = BATCH
                await self._let_others_run()

    async def _let_others_run(self) -> None:
        """What they send meanwhile comes in one pass: it needs no more than one mark."""
        mailbox = self._mailbox
        if mailbox.spill is None:
            mailbox.mark(trio.current_time())
        mailbox.appends_below = mailbox.at_rest
        try:
            await checkpoint()
        finally:
            mailbox.appends_below = 0

    async def _handle_keyed(self, actor: Actor, item: Any) -> None:
        """A `KeyedCast`. While it has to wait for others of its kind a later one may still take its place."""
        spec: MessageSpec = item.cast[0]
        if spec.concurrency and not self.flights().has_room(spec):
            self._mailbox.put_back(item)
            await self._park()
        else:
            await self._handle_cast(actor, self._mailbox.release(item))

    async def _handle_cast(self, actor: Actor, item: Cast) -> None:
        """A cast that is not as plain as those that the loop handles itself."""
        spec, args, kwargs, baggage, expires = item
        if expires != NEVER and expires <= trio.current_time():
            self.dead_letter(item, "expired")
            return
        if spec.special:
            await self._handle_special(actor, spec, item)
            return
        BAGGAGE.set(baggage)
        try:
            coroutine = getattr(actor, spec.name)(*args, **kwargs)
        except TypeError:
            self.dead_letter(item, "wrong arguments")
            return
        self._cast_in_hand = item
        try:
            await coroutine
        except Exception as error:
            if not self._put_aside(error, item) and not self._answers(error, item):
                raise
        self._cast_in_hand = None
        self.handled += 1

    async def _handle_special(self, actor: Actor, spec: MessageSpec, item: Cast | Request) -> None:
        """A message that has been taken and does not go through this task alone, see `flights`, or not once only."""
        if spec.attempts:
            await self._attempt(actor, spec, item)
            return
        flights = self.flights()
        if spec.batch:
            self.handled += await flights.handle_batch(actor, spec, item, self._mailbox)
        elif flights.has_room(spec):
            self.handled += flights.start(actor, spec, item)
        else:
            self._mailbox.put_back(item)
            await self._park()  # until an activity has ended: order is kept

    async def _attempt(self, actor: Actor, spec: MessageSpec, item: Cast | Request) -> None:
        """Handle a message that is handed back if this incarnation dies with it in hand: see `_lose_hand`."""
        request: Request | None = None
        if isinstance(item, tuple):
            _, args, kwargs, baggage, _ = self._cast_in_hand = item
        else:
            if item.deadline != NEVER and item.deadline <= trio.current_time():
                item.too_late()
                return
            item.state = RUNNING
            self._current = request = item
            args, kwargs, baggage = item.args, item.kwargs, item.baggage
        BAGGAGE.set(baggage)
        try:
            coroutine = getattr(actor, spec.name)(*args, **kwargs)
        except TypeError as error:
            self._refuse_arguments(item, error)
        else:
            try:
                value = await coroutine
            except Exception as error:
                if not self._put_aside(error, item) and not self._answers(error, item):
                    raise
            else:
                if request is not None:
                    request.reply(value)
        self._current = self._cast_in_hand = None
        self.handled += 1

    def _refuse_arguments(self, item: Cast | Request, error: TypeError) -> None:
        if isinstance(item, tuple):
            self.dead_letter(item, "wrong arguments")
        else:
            item.answer(error)

    def _put_aside(self, error: Exception, item: Cast | Request) -> bool:
        """Whether it is no error that has left the handler: it has put its message aside."""
        if not isinstance(unwrap(error), Stashed):
            return False
        self.put_aside(item)
        self.handled -= 1  # it has not been
        return True

    def _answers(self, error: Exception, item: Cast | Request) -> bool:
        """Answer with an error that has left the handler. That of a cast goes nowhere. False: it is a crash."""
        answer = as_answer(self.path, item[0] if isinstance(item, tuple) else item.spec, error)
        if answer is None:
            return False
        if not isinstance(item, tuple):
            item.answer(answer)
        elif was_not_handled(self.path, answer):
            self.dead_letter(item, "not_sent")
        return True

    def check_stash(self) -> None:
        """Raise RuntimeError unless there is a message in hand that can be put aside."""
        place = PLACE.get()
        if isinstance(place, Activity):
            place.check_stash()
        elif self._hand_of(place) == (None, None):
            raise RuntimeError(f"{self.path}: there is no message in hand that could be stashed")
        elif self._current is not None and self._current.state == DEFERRED:
            raise RuntimeError(f"{self.path}: the reply slot has been taken, so the message cannot be stashed")

    # --- when to leave the loop -------------------------------------------------------------------

    def _over(self) -> bool:
        """Whether no further message is to be taken."""
        if not self._ending or not self.ends:
            return False
        if self._condemned is not None or self._exiting or self.want is not DRAIN:
            return True
        return not self._mailbox and not self._in_flight() and not self.stashed

    @property
    def ends(self) -> bool:
        """Whether this incarnation has been told to end, in whatever way."""
        return self.want is not NOTHING or bool(self._exiting) or self._condemned is not None

    async def _attend(self) -> bool:
        """There is something besides mail. False: leave the loop."""
        agenda = None if self._companion is None else self._companion.agenda
        while await self._see_guests_off() and agenda and not self._over() and not self._spoiled:
            await self._run_next(agenda)
        self._ending = self.ends or bool(agenda) or self._has_guests()
        return not self._over() and not self._spoiled

    async def _run_next(self, agenda: Agenda) -> None:
        BAGGAGE.set(NO_BAGGAGE)
        try:
            await agenda.take().run()
        except Exception as error:
            if as_answer(self.path, _JOB, error) is None:
                raise

    async def _see_guests_off(self) -> bool:
        """Nothing else is done while somebody is here who was let in: only its own chain was to interleave with it."""
        while self._has_guests() and not self._over() and not self._spoiled:
            await self._park()
        return True

    def _has_guests(self) -> bool:
        flights = None if self._companion is None else self._companion.flights
        return flights is not None and bool(flights.guests)

    def lets_in(self, spec: MessageSpec) -> bool:
        """See `Intake`."""
        return spec.reentrant and self._actor is not None and len(self.flights().guests) < MOST_GUESTS

    def let_in(self, request: Request) -> None:
        """See `Intake`."""
        assert self._actor is not None
        if self._condemned is not None or self.companion().ends:
            raise NotDelivered(self.path, "crash")
        self.flights().let_in(self._actor, request)
        self.handled += 1
        self._ending = True  # before the next message there is something to look at

    async def _land(self) -> None:
        """What is in flight was taken as much as a message in hand: wait for it, unless the end is not an orderly one.

        Whoever only waits for a deferred reply when the actor itself has decided to end is not waited for. Timers
        go on: in the end it may be one of them that is waited for.
        """
        with trio.CancelScope() as self._scope:
            while self._condemned is None and self._exiting is not CUT and self._in_flight(self._exiting is not EXIT):
                agenda = None if self._companion is None else self._companion.agenda
                if agenda and not self._has_guests():
                    await self._run_next(agenda)
                else:
                    await self._park()

    def _in_flight(self, with_deferred: bool = True) -> int:
        flights = None if self._companion is None else self._companion.flights
        if flights is None:
            return 0
        return len(flights) if with_deferred else len(flights.running)

    # --- parking ----------------------------------------------------------------------------------

    def _unpark(self, _raise_cancel: object) -> Abort:
        self._parked = self._hungry = False
        self._mailbox.appends_below = 0
        return Abort.SUCCEEDED

    def wake(self) -> None:
        """See `Life`."""
        if self._parked and self._task is not None:
            self._parked = self._hungry = False
            reschedule(self._task)

    # --- handlers that are cut short --------------------------------------------------------------

    def cancel_message(self, reason: str) -> None:
        """See `Intake`."""
        if self._scope is not None:
            self._spoiled = True
            self._scope.cancel(reason)

    def _answers_while_unwinding(self, error: Exception) -> bool:
        """Whether it is an answer that came out of a cancelled handler in one group with the cancellation."""
        flights = None if self._companion is None else self._companion.flights
        if flights is not None and flights.batch:
            return self._spoiled and flights.answer_batch(flights.batch[0].spec, error)
        if self._spoiled and isinstance(unwrap(error), Stashed):
            return True  # its caller has gone: `_unwound` lets it go
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
        self._stuck_no_more()

    def _lose_hand(self, failure: BaseException | None) -> None:
        """The message in hand dies with its incarnation.

        Its caller gets its own exception object; the crash is the cause.
        """
        self._stuck_no_more()
        again = self._for_another_attempt(failure) if isinstance(failure, Exception) else None
        told = self._fail_current(failure)
        self._current = self._actor = None
        if self._stash is not None:
            self.unstash_all()
        if again is not None:
            self.hand_back(again)
        item, self._cast_in_hand = self._cast_in_hand, None
        if item is not None:
            poison = item[0].attempts and is_last(item[0], causes_of(item))
            self.dead_letter(item, "poison" if poison else "crash", failure)
        companion, self._companion = self._companion, None
        if companion is not None:
            told = companion.end(failure) or told
        if not told and failure is not None and not self.runtime.events.on:
            self._tell_unseen(failure)

    def _for_another_attempt(self, failure: Exception) -> Cast | Request | None:
        """Take the message in hand out of it if it is to be handled once more; None: it dies with its incarnation."""
        request, item = self._current, self._cast_in_hand
        if request is not None and request.spec.attempts and self._has_successor() and request.next_attempt(failure):
            self._current = None
            return request
        if item is None or not item[0].attempts or not self._has_successor() or is_last(item[0], causes_of(item)):
            return None
        self._cast_in_hand = None
        return tried(item, failure)

    def _has_successor(self) -> bool:
        """Whether somebody may handle what this incarnation leaves behind."""
        return self.want is not DRAIN

    def answer_for_hand(self, failure: BaseException | None) -> None:
        """The incarnation is dying and does not come to its end: who is in its hand is told now."""
        self._fail_current(failure)
        if self._companion is not None and self._companion.flights is not None:
            self._companion.flights.lose(failure)

    def _fail_current(self, failure: BaseException | None) -> bool:
        request = self._current
        if request is None or not request.live() or request.state == DEFERRED:
            return False
        if request.spec.attempts and request.state == RUNNING and is_last(request.spec, request.causes):
            self.dead_letter(request.as_cast(), "poison", failure)
        request.fail(OutcomeUnknown(self.path), failure)
        return True

    def _tell_unseen(self, failure: BaseException) -> None:
        """Neither a caller nor a hook is told of this crash. A start that fails is told, and so is who kills."""
        starts = self.incarnation == 1 and self._ready_at == NOT_YET
        if self.want is NOTHING and not starts and not isinstance(failure, Killed):
            log_unseen_crash(self.path, self.incarnation, failure)

    def _refuse_calls(self, reason: NotDeliveredReason, retry_after: float | None) -> None:
        """Answer for everybody who waits. Casts that were accepted stay."""
        for item in (*self._mailbox.take_waiting(), *(() if self._stash is None else self._stash.take_calls())):
            self.refuse(item, reason, retry_after)

    def _closed(self) -> CallFailed:
        return NotDelivered(self.path, "closed")

    def declare_stuck(self) -> None:
        """See `Intake`."""
        if not self.stuck:
            self.stuck = True
            self.refusal = self._is_stuck
            self._refuse_calls("stuck", self.spec.unwind_grace)
            self.tell_stuck(self._task)

    def tell_stuck(self, *tasks: trio.lowlevel.Task | None) -> None:
        """See `Intake`."""
        if self.runtime.events.on:
            self.emit(events.Stuck, "\n".join(map(stack_of, tasks)))

    def _stuck_no_more(self) -> None:
        if self.stuck:
            self.stuck = False
            if self.refusal == self._is_stuck:  # else it is for something else by now that senders are refused
                self.refusal = self._closed if self.want is Want.DRAIN else None

    def _is_stuck(self) -> CallFailed:
        return NotDelivered(self.path, "stuck", self.spec.unwind_grace)

    # --- what an incarnation has besides the message in hand --------------------------------------

    def attend(self) -> None:
        """There is something in the lane: look at it before the next message."""
        self._ending = True
        self.wake()

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
            return self.flights().defer(place.spec, place.take_slot(), place.cast)
        request, item = self._hand_of(place)
        if request is not None and request.state != DEFERRED:
            return self.flights().defer(request.spec, request, None)
        if item is None:
            raise RuntimeError(f"{self.path}: there is no message in hand whose reply slot could be taken")
        self._cast_in_hand = None
        return self.flights().defer(item[0], None, item)

    def _hand_of(self, place: Place | None) -> tuple[Request | None, Cast | None]:
        """The message in hand, if it is its handler that asks, and not what an earlier one has left running."""
        return (self._current, self._cast_in_hand) if place is self and self.serial is not None else (None, None)

    def waiters(self) -> Iterator[Waiter]:
        """The handlers that are at work: of the message in hand, and of concurrent ones."""
        yield self
        if self._companion is not None and self._companion.flights is not None:
            yield from self._companion.flights.running

    def at_work(self) -> Iterator[tuple[trio.lowlevel.Task, str]]:
        """See `Node`."""
        companion = self._companion
        if companion is not None:
            handled = {} if companion.flights is None else companion.flights.messages_by_task()
            for task in companion.tasks():
                yield task, handled.get(task, "")
        if self._task is not None:
            yield self._task, self._message_in_hand()

    def _message_in_hand(self) -> str:
        flights = None if self._companion is None else self._companion.flights
        batch = None if flights is None else flights.batch
        if batch:
            return batch[0].spec.name
        if self._current is not None:
            return self._current.spec.name
        return "" if self._cast_in_hand is None else self._cast_in_hand[0].name

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
            inherits = self._current.deadline != NEVER and self._current.live() and self.serial is not None
            return self._current.deadline if inherits else NEVER
        flights = None if self._companion is None else self._companion.flights
        return NEVER if flights is None else flights.batch_deadline()

    @property
    @abstractmethod
    def serial(self) -> Handling | None:
        """Part of `Place`."""
