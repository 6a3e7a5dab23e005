"""The cell: what outlives an actor's incarnations, and the one task that lives them.

Theory of operation
-------------------
One task per actor. The restart loop (`live`) runs inside it, so a restart respawns nothing. Nesting is fixed, from the
outside in:

    live ⊃ incarnation, with its lifespan (`_life`) ⊃ message scope (`_scope`, see `handling`)

* `_life` exists only for actors with a lifespan of their own. Crashes are judged outside of both: inside, a crash of
  something that the lifespan holds shows as a `Cancelled`, and its error only appears when the lifespan has been left.
* A *plain* actor has no lifespan. If nothing else goes on, its crash can be judged inside the message scope, and its
  successor may come up there: for it, one scope spans many lives.
* Whose `Cancelled` it is is never decided by its type. Our own cancels leave a note first (`_condemned`, `want`, the
  request's state) and are caught by our own scopes; any other `Cancelled` comes from outside the cell, passes through,
  and ends the task.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import trio
from trio.lowlevel import checkpoint, current_task, wait_task_rescheduled

from . import events
from .actor import Actor
from .context import BAGGAGE, NO_BAGGAGE, PLACE, ActorContext, Background, Lease
from .deadlines import Timer
from .dependencies import heed_dependencies
from .envelope import NEVER
from .errors import ActorStopped, CallFailed, IncarnationEnded, NotDelivered, SpecInvalid
from .handle import Handle, Statistics
from .handling import BATCH, CUT, EXIT, Handling
from .life import CRASHES_PER_PASS, NOT_YET
from .node import (
    DOWN,
    DRAIN,
    NOTHING,
    PAUSE,
    SUSPENDED,
    WAITING,
    Node,
    State,
    Want,
    full_text,
    one_line,
    unwrap,
    without_frames,
)
from .unraisable import log_failed_handover
from .waits import unsent

if TYPE_CHECKING:
    from .node import Parent
    from .runtime import Runtime
    from .spec import ActorSpec, ChildOptions

T = TypeVar("T")


class _Grace(Timer):
    """How long the end of an incarnation may take before the callers in its hand are told."""

    __slots__ = ()


class Cell(Handling):
    """See above. Users hold a `Handle` to it and never see it."""

    __slots__ = ("_handed_over", "_kept", "_life", "_maker", "_next", "_nurseries", "_patience", "_plain", "granted")

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
        self._next: ActorSpec[Any] | None = None  # what the next incarnation is made from
        self._plain = cls.__plain__
        self._life: trio.CancelScope | None = None
        self._nurseries = 0  # that the lifespan holds open
        self._kept: dict[str, tuple[Any, Callable[[Any], object]]] | None = None
        self._patience: Timer | None = None
        self._handed_over: tuple[int, object] | None = None  # for which incarnation, and what
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
        if actor.__heeds__:
            self._heed_dependencies(actor)
        self._is_ready()
        return actor

    async def _live_within_lifespan(self) -> Exception | None:
        died_of: Exception | None = None
        with trio.CancelScope() as self._life:
            actor = self._maker.construct(ActorContext(self))
            if actor.__heeds__:
                self._heed_dependencies(actor)
            async with actor.lifespan():
                PLACE.set(self)
                self._nurseries = 0 if self._task is None else len(self._task.child_nurseries)
                self._is_ready()
                try:
                    await self._serve(actor)
                except Exception as error:
                    died_of = error
                    if self._condemned is None:
                        self._condemned = unwrap(error)  # the first failure is the cause, whatever its end brings
                    raise
                finally:
                    BAGGAGE.set(NO_BAGGAGE)
                    PLACE.set(Background(self))
                    self._actor = None
                    await self._join_companion()  # first: it uses what the lifespan is about to close
                    self._hand_over(actor)
                    # An exit that hangs must not hold up the restart.
                    self._life.deadline = trio.current_time() + self.spec.shutdown
            if died_of is None and not self.ends:
                died_of = IncarnationEnded(self.path)
        # Reached also when a cancel of ours cut the exit short: the error that began the exit is the one that counts.
        return None if died_of is None else unwrap(died_of)

    def _begin(self, now: float) -> None:
        if BAGGAGE.get() is not NO_BAGGAGE:
            BAGGAGE.set(NO_BAGGAGE)
        self._spoiled = self.stuck = False
        if self._next is not None:
            self._adopt(self._next)
        super()._begin(now)

    def _adopt(self, maker: ActorSpec[Any]) -> None:
        """From now on this is another spec's actor; path, mailbox and history stay."""
        self._maker, self._next = maker, None
        self.spec = maker.rules
        self.messages = maker.cls.__messages__
        self._plain = maker.cls.__plain__
        if self.runtime.events.on:
            self.emit(events.Replaced, maker.cls.__qualname__)

    def _heed_dependencies(self, actor: Actor) -> None:
        heed_dependencies(self, actor, list(self._maker.dependencies()))

    def _is_ready(self) -> None:
        self._lose_patience_no_more()
        self._handed_over = None  # it has been looked at, or it never will be
        if self.want is NOTHING:
            self.refusal = None
        super()._is_ready()

    def _lose_patience_no_more(self) -> None:
        patience, self._patience = self._patience, None
        if patience is not None:
            patience.cancel()

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
        if self._condemned is not None and self.want is Want.NOTHING and not self._hands_over_at_crashes():
            self._handed_over = None  # the end was planned, but it has become a crash
        await self._join_companion()
        if isinstance(self._patience, _Grace):
            self._lose_patience_no_more()
        self._scope = self._life = None
        cause, self._condemned = self._condemned, None  # kept, it would pin the dead incarnation's frames
        self._lose_hand(cause)
        try:
            return cause
        finally:
            del cause, failure  # this frame may be in its traceback

    def _hand_over(self, actor: Actor) -> None:
        """The incarnation has handled its last message, and its lifespan is about to be left."""
        handover = actor.__handover__
        if handover is None or self.want is Want.DRAIN or not (handover.on_crash or self._ends_as_planned()):
            return
        try:
            self._handed_over = (self.incarnation + 1, handover.give(actor))
        except Exception as error:
            if self.runtime.events.on:
                self.emit(events.HandoverFailed, one_line(error), full_text(error))
            else:
                log_failed_handover(self.path, self.incarnation, error)

    def _ends_as_planned(self) -> bool:
        if self._condemned is not None or self._exiting is CUT:
            return False
        return self.want is not Want.NOTHING or (self._exiting is EXIT and self.spec.restart == "permanent")

    def _hands_over_at_crashes(self) -> bool:
        handover = self._maker.cls.__handover__
        return handover is not None and handover.on_crash

    def handed_over(self, incarnation: int) -> object:
        """What the incarnation before this one has handed over, while it starts; else None."""
        return self._handed_over[1] if self._handed_over is not None and self._handed_over[0] == incarnation else None

    async def _join_companion(self) -> None:
        """End the background work. What fails in it now has failed at the end."""
        if self._companion is not None:
            self._doom()
            if self._companion.at_work:
                with trio.CancelScope(shield=True):
                    await self._companion.join()

    def background_failed(self, failure: Exception) -> None:
        """See `Handling`."""
        if not self.ends:
            self.condemn(failure)
        elif self._condemned is None:
            self._condemned = failure  # and the end that has begun goes on
            self.wake()  # it may wait for what is in flight, which will not end by itself any more

    def condemn(self, failure: Exception) -> bool:
        """See `Node`."""
        condemned = super().condemn(failure)
        if condemned:
            self._doom()
        return condemned

    def _doom(self) -> None:
        """The incarnation is about to end by a crash, and its end may hang: on a shield, background work, a thread.

        Who is in its hand waits for `unwind_grace` at most, who waits for the successor for `down_wait`.
        """
        if self._patience is None and self.want is Want.NOTHING and self._ready_at != NOT_YET:
            self._patience = _Grace(self.deadlines, trio.current_time() + self.spec.unwind_grace, self._hangs)

    def _hangs(self) -> None:
        left = max(0.0, self.spec.down_wait - self.spec.unwind_grace)
        self._patience = Timer(self.deadlines, trio.current_time() + left, self._lose_patience)
        if self.want is Want.NOTHING:
            beside = [] if self._companion is None else self._companion.tasks()
            self.tell_stuck(*beside or (self._task,))
            self.answer_for_hand(self._condemned)

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
                self._mailbox.appends_below, self._mailbox.since = self._mailbox.at_rest, NEVER
                await wait_task_rescheduled(self._unpark)
                self._mailbox.appends_below = 0
                if self._mailbox.queue:
                    self._mailbox.woken(trio.current_time())
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
                        now = trio.current_time()
                        self._crash_here(failure, now)
                        del failure
                        self._left -= BATCH // CRASHES_PER_PASS
                        if self._left <= 0:
                            await checkpoint()
                            self._left, now = BATCH, trio.current_time()
                        if self._may_come_up_here():
                            self._begin(now)
                            actor = self._come_up()
            except Exception as error:
                if not self._answers_while_unwinding(error):
                    raise
            self._unwound()
        if self._in_flight():
            await self._land()
        self._scope = None
        return None

    def _concerns_nothing_else(self) -> bool:
        """Whether a crash is that of the message in hand alone: no lifespan, background work, cancel or end beside."""
        return self._plain and not self._spoiled and not self._ending and self._companion is None

    def _crash_here(self, failure: Exception, now: float) -> None:
        failure = unwrap(failure)
        self._revoke_lease()
        self._lose_hand(failure)
        self._after(failure, now)

    def _may_come_up_here(self) -> bool:
        # Spoiled: by a kill from whoever was told of the crash. It came too late, but the scope is cancelled.
        # Another spec may not be that of a plain actor.
        return self.state is DOWN and self._may_start() and not self._spoiled and self._next is None

    # ==============================================================================================
    # Ends
    # ==============================================================================================

    def _went_down(self, delay: float) -> None:
        """Callers wait along with the actor, but not for ever."""
        at_once = self.starts_in_one_step and not delay and not self._held and self.want is NOTHING
        if self.want is DRAIN or at_once:
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

    def refuse_as_parked(self, parked: Node) -> None:
        """See `Node`. Casts that were accepted stay."""
        if self.want is Want.DRAIN or self.state is State.STOPPED:
            return  # they have been told already

        def refusal() -> CallFailed:
            return NotDelivered(self.path, "parked", parked.restart_in())

        self._lose_patience_no_more()
        self.refusal = refusal
        self._refuse_calls("parked", parked.restart_in())

    def _abandon(self) -> None:
        self._revoke_lease()
        self._lose_hand(None)

    def _ended(self, cause: Exception | None) -> None:
        """Everything still waiting is answered, what was kept is closed."""
        self.refusal = self._stopped if cause is None else self._stopped_by(cause)
        self._handed_over = None
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
        """See `Node`. Of the next incarnation, which may be another spec's."""
        return self._plain if self._next is None else self._next.cls.__plain__

    @property
    def comes_back(self) -> bool:
        """See `Node`: perhaps as another spec's, which is not temporary."""
        return super().comes_back or (self._next is not None and self._next.rules.restart != "temporary")

    def end_now(self, want: Want) -> bool:
        """See `Node`. Only of an actor that waits for mail and has nothing that would have to run to its own end."""
        if not (self._hungry and self._plain) or self._mailbox.spill:
            return False  # `_hungry`: there is no mail and no other wish, for either would have woken it
        if self._companion is not None or self._kept or self.granted is not None or self.stashed:
            return False
        self.want = want
        self._actor = None
        self._exiting = EXIT
        self._ending = True
        self.wake()
        if want is DRAIN:
            self.finalize(None)
        else:
            self._held = want is PAUSE
            self._went_down(0.0)
            self.move(WAITING if self._held else SUSPENDED)
        return True

    def ask_to(self, want: Want) -> None:
        """See `Node`."""
        if want is Want.DRAIN and self.state is not State.STOPPED:
            self.refusal = self._closed
        super().ask_to(want)
        for waiting in list(unsent(edge for waiter in self.waiters() for edge in waiter.waits_for())):
            try:
                self.must_not_hold_up(waiting)
            except NotDelivered as error:
                waiting.fail(error)

    def cancel(self, reason: str) -> None:
        """See `Node`."""
        self._exiting = CUT
        self._ending = True
        scope = self._life or self._scope
        if scope is not None:
            self._spoiled = True
            scope.cancel(reason)
        self.wake()

    def exit(self) -> None:
        """See `ActorContext.exit`."""
        self._exiting = self._exiting or EXIT
        self._ending = True
        self.wake()

    def replace(self, maker: ActorSpec[Any]) -> None:
        """Make the next incarnation from another spec. Raises `SpecInvalid` if it cannot take this one's place."""
        self._must_fit(maker)
        self._next = maker

    def _must_fit(self, maker: ActorSpec[Any]) -> None:
        table = maker.cls.__messages__
        for name, row in self.messages.items():
            if table.get(name) != row:
                fix = f"it has not the message {name!r} of {self.path}, or declares it in another way: use a subclass"
                raise SpecInvalid("replace", maker.cls, fix)
        for name in ("mailbox", "overflow", "register"):
            if getattr(maker.rules, name) != getattr(self.spec, name):
                fix = f"the mailbox and the names of an actor stay: it has {getattr(self.spec, name)!r}"
                raise SpecInvalid(f"replace: {name}", getattr(maker.rules, name), fix)

    # --- what actors use --------------------------------------------------------------------------

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
            oldest_wait=self.oldest_wait,
            stashed=self.stashed,
            in_flight=self._in_flight(),
            handled=self.handled,
            revoked=self.revoked,
            discarded=self.discarded,
        )

    @property
    def serial(self) -> Cell | None:
        """Part of `Place`: the message in hand waits for what runs in this task's context.

        It does not for what a handler has started elsewhere: in a nursery that the lifespan holds open, or that is not
        the actor's at all.
        """
        task = current_task()
        return self if task is self._task or self._belongs_to_handler(task) else None

    def _belongs_to_handler(self, task: trio.lowlevel.Task) -> bool:
        nursery = task.parent_nursery
        while nursery is not None and nursery.parent_task is not self._task:
            nursery = nursery.parent_task.parent_nursery
        if nursery is None or self._task is None:
            return False
        return self._task.child_nurseries.index(nursery) >= self._nurseries

    def children(self) -> Sequence[Node]:
        """See `Node`."""
        return ()

    @property
    def final_cause(self) -> Exception | None:
        """See `Node`."""
        if self.state is not State.STOPPED or self.refusal is None:
            return None
        return cast("Exception | None", self.refusal().__cause__)
