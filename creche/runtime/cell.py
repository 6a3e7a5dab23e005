"""The cell: what outlives an actor's incarnations, and the one task that lives them.

Theory of operation
-------------------
One task per actor. The restart loop (`run`) runs inside it, so a restart respawns nothing. Nesting is fixed, from the
outside in:

    run ⊃ incarnation, with its lifespan (`_life`) ⊃ message scope (`_scope`)

* `_scope` is shared by many messages and renewed only after it was really cancelled, because a cancel scope costs more
  than a call. A cancel that comes too late for its message would hit the next, innocent one: `_spoiled` says that the
  scope must be renewed first.
* `_life` exists only for actors with a lifespan of their own. Crashes are judged outside of both: inside, a crash of
  something that the lifespan holds shows as a `Cancelled`, and its error only appears when the lifespan has been left.
* Whose `Cancelled` it is is never decided by its type. Our own cancels leave a note first (`_condemned`, `want`, the
  request's state) and are caught by our own scopes; any other `Cancelled` comes from outside the cell, passes through,
  and ends the task.

Waking: the task parks with `_parked` set and is woken by whoever clears it, so it is rescheduled once. Between "nothing
to do" and parking there is no await, else a message that comes in between would not be seen.

The mailbox is popped one message at a time, after a look at `_ending`: a message that is taken is a message in hand.
The one in hand when the incarnation dies gets `OutcomeUnknown`; those still waiting stay, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from trio.lowlevel import Abort, checkpoint, reschedule, wait_task_rescheduled

from . import events
from .actor import Actor, MessageSpec
from .companion import Companion
from .context import BAGGAGE, NO_BAGGAGE, PLACE, ActorContext, Background, Lease
from .deadlines import Timer
from .envelope import CANCELLING, NEVER, QUEUED, RUNNING, Cast, Request
from .errors import (
    ActorStopped,
    CallFailed,
    DomainError,
    IncarnationEnded,
    NotDelivered,
    NotDeliveredReason,
    OutcomeUnknown,
    PeerFailed,
    Unavailable,
)
from .handle import Handle
from .intake import Intake
from .node import Node, State, Want, one_line, stack_of, unwrap, without_frames

if TYPE_CHECKING:
    from .node import Parent
    from .runtime import Runtime
    from .spec import ChildOptions

T = TypeVar("T")

# At most so many messages per wake: everybody else's latency is bounded by it, and 64 already has all of the throughput
# (measured).
BATCH = 64


class Cell(Intake):
    """See above. Users hold a `Handle` to it and never see it."""

    __slots__ = (
        "_cast_in_hand",
        "_companion",
        "_construct",
        "_current",
        "_kept",
        "_life",
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
        construct: Callable[[ActorContext], Actor],
        cls: type[Actor],
    ) -> None:
        super().__init__(runtime, parent, name, options, cls)
        self._construct = construct
        self._plain = cls.__plain__
        self.handled = 0
        self.stuck = False
        self._scope: trio.CancelScope | None = None
        self._life: trio.CancelScope | None = None
        self._spoiled = False  # the message scope has been cancelled
        self._current: Request | None = None
        self._cast_in_hand: str | None = None
        self._companion: Companion | None = None
        self._kept: dict[str, tuple[Any, Callable[[Any], object]]] | None = None
        self._patience: Timer | None = None
        self.granted: Lease | None = None  # what the present incarnation has lent to its handles

    def __repr__(self) -> str:
        return f"<{self.path}#{self.incarnation} {self.state.value}, {self.queued} waiting, {self.restarts} restarts>"

    # ==============================================================================================
    # The task and its incarnations
    # ==============================================================================================

    async def _incarnation(self) -> Exception | None:
        """One life. Returns what it died of; None if it was asked to end."""
        BAGGAGE.set(NO_BAGGAGE)
        self._spoiled = self.stuck = False
        self._begin()
        PLACE.set(self if self._plain else Background(self))  # what a lifespan starts is no part of a message
        failure: Exception | None = None
        try:
            if self._plain:
                actor = self._construct(ActorContext(self))
                self._is_ready()
                await self._serve(actor)
            else:
                failure = await self._live_within_lifespan()
        except Exception as error:
            failure = unwrap(error)
        failure = await self._cause_of_death(failure)
        self._lose_hand(failure)
        try:
            return failure
        finally:
            del failure  # this frame is in its traceback: together they would make a cycle at each crash

    async def _live_within_lifespan(self) -> Exception | None:
        died_of: Exception | None = None
        with trio.CancelScope() as self._life:
            actor = self._construct(ActorContext(self))
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
            if died_of is None and not self._ending:
                died_of = IncarnationEnded(self.path)
        # Reached also when a cancel of ours cut the exit short: the error that began the exit is the one that counts.
        return None if died_of is None else unwrap(died_of)

    def _is_ready(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self.want is Want.NOTHING:
            self.refusal = None
        super()._is_ready()

    async def _cause_of_death(self, failure: Exception | None) -> Exception | None:
        """Join the background work, which may have failed too; the first failure is the cause."""
        if self._condemned is None:
            self._condemned = failure
        elif failure is not None and failure is not self._condemned:
            self._condemned.add_note(f"while it was ending: {one_line(failure)}")
        self._revoke_lease()
        if self._companion is not None:
            with trio.CancelScope(shield=True):
                await self._companion.join()
            self._companion = None
        self._scope = self._life = None
        cause, self._condemned = self._condemned, None  # kept, it would pin the dead incarnation's frames
        return cause

    def _revoke_lease(self) -> None:
        lease, self.granted = self.granted, None
        if lease is not None:
            lease.revoke()

    # --- the loop over messages (the hot path) ----------------------------------------------------

    async def _serve(self, actor: Actor) -> None:
        """Take messages until the incarnation is to end."""
        while not self._over():
            while not self._mailbox and not self._ending:
                await self._park_hungry()  # without a scope: an idle actor that was never asked holds none
            if self._over():
                return  # told to end while it was idle: no scope is needed for that
            try:
                with trio.CancelScope() as self._scope:
                    self._spoiled = False
                    await self._messages(actor)
            except Exception as error:
                if not self._answers_while_unwinding(error):
                    raise
            self._unwound()

    def _answers_while_unwinding(self, error: Exception) -> bool:
        """Whether it is an answer that came out of a cancelled handler in one group with the cancellation."""
        request = self._current
        answer = None if request is None or not self._spoiled else self._as_answer(request.spec, error)
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
        if self.stuck:
            self.stuck = False
            self.refusal = self._closed if self.want is Want.DRAIN else None

    def _over(self) -> bool:
        """Whether no further message is to be taken."""
        if not self._ending:
            return False
        return self._condemned is not None or self._exiting or self.want is not Want.DRAIN or not self._mailbox

    async def _messages(self, actor: Actor) -> None:
        """The hot path, in one piece: a coroutine of its own for each message would cost a tenth of a call.

        A crash or a cancel leaves the call in `_current` for whoever judges.
        """
        mailbox, queue = self._mailbox, self._mailbox.open()
        left = BATCH
        while not self._ending or not self._over():
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
            elif item.state != QUEUED:
                mailbox.skipped()
                continue
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
                        answer = self._as_answer(spec, error)
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
        BAGGAGE.set(baggage)
        try:
            coroutine = getattr(actor, spec.name)(*args, **kwargs)
        except TypeError:
            self.dead_letter(spec.name, "wrong arguments")
            return
        self._cast_in_hand = spec.name
        try:
            await coroutine
        except Exception as error:
            if self._as_answer(spec, error) is None:
                raise
        self._cast_in_hand = None
        self.handled += 1

    def _as_answer(self, spec: MessageSpec, error: Exception) -> Exception | None:
        """What a caller gets for an error that is no crash; None for a crash."""
        error = unwrap(error)
        if isinstance(error, (DomainError, Unavailable)) or (spec.raises and isinstance(error, spec.raises)):
            return error
        if isinstance(error, CallFailed):
            answer = PeerFailed(self.path, error.origin if isinstance(error, PeerFailed) else error.path, error)
            answer.__cause__ = error
            return answer
        return None

    # --- parking ----------------------------------------------------------------------------------

    async def _park_hungry(self) -> None:
        self._parked = self._hungry = True
        await wait_task_rescheduled(self._unpark)

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
        if request is not None and request.live():
            request.fail(OutcomeUnknown(self.path), failure)
        name, self._cast_in_hand = self._cast_in_hand, None
        if name is not None:
            self.dead_letter(name, "crash")

    def _abandon(self) -> None:
        self._revoke_lease()
        self._lose_hand(None)

    def _ended(self, cause: Exception | None) -> None:
        """Everything still waiting is answered, what was kept is closed."""
        kept = without_frames(cause)  # for as long as there are handles

        def refusal() -> CallFailed:
            error = ActorStopped(self.path)
            error.__cause__ = kept
            return error

        self.refusal = refusal
        if self._patience is not None:
            self._patience.cancel()
        for item in self._mailbox.take_all():
            self.refuse(item, "closed", cause=cause)
        for name in reversed(list(self._kept or ())):
            self._close_kept(name)

    # ==============================================================================================
    # Control (from the supervisor, the runtime, or the actor itself)
    # ==============================================================================================

    def ask_to(self, want: Want) -> None:
        """See `Node`."""
        if want is Want.DRAIN and self.state is not State.STOPPED:
            self.refusal = self._closed
        super().ask_to(want)

    def _closed(self) -> CallFailed:
        return NotDelivered(self.path, "closed")

    def cancel(self, reason: str) -> None:
        """See `Node`."""
        self._exiting = self._ending = True
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
        self._exiting = self._ending = True
        self.wake()

    def declare_stuck(self) -> None:
        """See `Intake`."""
        if not self.stuck:
            self.stuck = True
            self.refusal = self._is_stuck
            self._refuse_calls("stuck", self.spec.unwind_grace)
            if self.runtime.events.on:
                self.emit(events.Stuck, stack_of(self._task))

    def _is_stuck(self) -> CallFailed:
        return NotDelivered(self.path, "stuck", self.spec.unwind_grace)

    # --- what actors use --------------------------------------------------------------------------

    def companion(self) -> Companion:
        """The owner of this incarnation's background work, made on first use."""
        if self._companion is None:
            self._companion = Companion(self)
        return self._companion

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

    def _close_kept(self, name: str) -> None:
        assert self._kept is not None
        value, close = self._kept.pop(name)
        try:
            close(value)
        except Exception as error:
            self.bad_stop(error)

    # --- being looked at --------------------------------------------------------------------------

    def children(self) -> Sequence[Node]:
        """See `Node`."""
        return ()

    @property
    def inherited_deadline(self) -> float:
        """Part of `Place`: the deadline of the message in hand."""
        # Only while somebody waits: when the caller of a "finish" message has run out of time, what the handler still
        # has to do must not be stopped by that same time.
        return NEVER if self._current is None or not self._current.live() else self._current.deadline

    @property
    def serial(self) -> Cell:
        """Part of `Place`: the message in hand waits for everything that runs in this task's context."""
        return self
