"""The caller's side of a cell: admission, backpressure, the wait-for graph.

Everything here runs in the sender's task. What the actor's own task does is in `cell`.

A call that finds the mailbox full waits in its overflow queue with the sleep it needs anyway; a cast that does so is
woken when it moves up. Either way it keeps its place, and it can be revoked. `refusal` is what senders meet first: None
while the cell takes messages, else what makes the error that tells why not. A new error for each sender.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from outcome import Outcome
from trio.lowlevel import current_task, wait_task_rescheduled

from . import events
from .actor import Actor, MessageSpec
from .attempts import causes_of
from .context import BAGGAGE, PLACE, Place
from .deadlines import Timer
from .envelope import NEVER, RUNNING, SETTLED, STASHED, Cast, Request, Together, Waiting, WaitingCast
from .errors import (
    CallCycle,
    CallFailed,
    CrecheError,
    DeadlineExceeded,
    MailboxFull,
    NotDelivered,
    NotDeliveredReason,
    StashFull,
)
from .life import Life
from .mailbox import LatestMailbox, Mailbox
from .node import Want, one_line
from .stash import Stash
from .waits import Edge, Sent, Waiter, check_for_cycle

if TYPE_CHECKING:
    from .flights import Activity
    from .handle import Statistics
    from .node import Parent
    from .runtime import Runtime
    from .spec import ChildOptions

E = TypeVar("E", bound=CrecheError)

# A cast yields to the scheduler once in so many: each time would cost ten times the cast, never would starve the actor.
YIELD_EVERY = 64


class Intake(Life):
    """A node that takes messages."""

    __slots__ = (
        "_casts",
        "_hungry",
        "_mailbox",
        "_stash",
        "_waits_for",
        "deadlines",
        "discarded",
        "messages",
        "refusal",
        "revoked",
    )

    def __init__(self, runtime: Runtime, parent: Parent, name: str, options: ChildOptions, cls: type[Actor]) -> None:
        super().__init__(runtime, parent, name, options)
        self.messages: dict[str, MessageSpec] = cls.__messages__
        self.deadlines = runtime.deadlines
        self.refusal: Callable[[], CallFailed] | None = None
        self.discarded = self.revoked = 0
        latest = options.overflow == "latest_by_key"
        self._mailbox = LatestMailbox(options.mailbox, self._replaced) if latest else Mailbox(options.mailbox)
        self._stash: Stash | None = None
        self._casts = 0
        self._hungry = False  # the actor's task is parked and waits for a message
        self._waits_for: list[Edge] | None = None

    @abstractmethod
    def declare_stuck(self) -> None:
        """The handler was cancelled and did not unwind in its grace."""

    @abstractmethod
    def tell_stuck(self, *tasks: trio.lowlevel.Task | None) -> None:
        """Emit the event of it, with the stacks of those that do not end."""

    @abstractmethod
    def cancel_message(self, reason: str) -> None:
        """Cancel the handler of the message in hand, and nothing else."""

    @abstractmethod
    def at_their_limit(self) -> Sequence[Sequence[Activity]]:
        """For each concurrent message of which no more may run: those that run."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """See `Handle.statistics`."""

    def takers(self) -> Sequence[Intake]:
        """Those of whom any one may take what waits here; empty: nobody but this node itself."""
        return ()

    @property
    def queued(self) -> int:
        """See `Node`."""
        return len(self._mailbox)

    @property
    def oldest_wait(self) -> float:
        """How long the oldest message in the mailbox has waited, in seconds, to a millisecond; 0 if none waits."""
        return self._mailbox.oldest_wait(trio.current_time()) if self._mailbox else 0.0

    # --- sending ----------------------------------------------------------------------------------

    async def call(
        self, spec: MessageSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], deadline: float = NEVER
    ) -> Any:
        """Send and await the one outcome. See `Handle.call`."""
        if self.refusal is not None:
            return await self._call_although_refused(self.refusal, spec, args, kwargs, deadline)
        request = Request(self, spec, args, kwargs, BAGGAGE.get(), current_task())
        place = PLACE.get()
        if place is not None:
            return await self._call_from(place, request, deadline)
        mailbox = self._mailbox  # as in `_submit`, which would be one more call
        if len(mailbox.queue) < mailbox.appends_below:
            mailbox.queue.append(request)
        elif not mailbox.put(request):
            try:
                self._overflow(request)
            except NotDelivered as refusal:
                raise await after_a_checkpoint(refusal) from None
        if deadline != NEVER:
            request.stamp(deadline)
        if self._hungry:
            self.wake()
        return await wait_task_rescheduled(request.abort)

    async def _call_from(self, place: Place, request: Request, deadline: float) -> Any:
        """A call made by an actor: within its deadline, and an edge of the wait-for graph while a handler waits."""
        deadline = min(deadline, place.inherited_deadline)
        waiter = place.serial
        try:
            edges = None if waiter is None else waiter.edge_to(request)
        except (CallCycle, NotDelivered) as refusal:
            if waiter is None or not isinstance(refusal, CallCycle) or not self.lets_in(request.spec):
                raise await after_a_checkpoint(refusal) from None
            return await self._call_back(waiter, request, deadline)
        try:
            try:
                self._submit(request, deadline)
            except NotDelivered as refusal:
                request.state = SETTLED  # it was never sent, and nobody waits for anything
                raise await after_a_checkpoint(refusal) from None
            return await wait_task_rescheduled(request.abort)
        finally:
            if edges is not None:
                edges.remove(request)

    async def _call_although_refused(
        self,
        refusal: Callable[[], CallFailed],
        spec: MessageSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        deadline: float,
    ) -> Any:
        """Nothing new is taken. What comes back along the chain of the message in hand is part of that."""
        place = PLACE.get()
        waiter = None if place is None or not spec.reentrant else place.serial
        if place is not None and waiter is not None and self.lets_in(spec):
            request = Request(self, spec, args, kwargs, BAGGAGE.get(), current_task())
            try:
                waiter.edge_to(request).remove(request)
            except CallCycle:
                return await self._call_back(waiter, request, min(deadline, place.inherited_deadline))
        raise await after_a_checkpoint(refusal())

    async def _call_back(self, waiter: Waiter, request: Request, deadline: float) -> Any:
        """A call that has come back to where it began, of a message that is reentrant: it does not wait in line."""
        if deadline <= trio.current_time():
            raise await after_a_checkpoint(DeadlineExceeded(self.path, delivered=False))
        edges = waiter.edges()
        edges.append(request)
        try:
            try:
                self.let_in(request)
            except NotDelivered as refusal:
                request.state = SETTLED
                raise await after_a_checkpoint(refusal) from None
            if deadline != NEVER:
                request.stamp(deadline)
            return await wait_task_rescheduled(request.abort)
        finally:
            edges.remove(request)

    def lets_in(self, spec: MessageSpec) -> bool:
        """Whether a call that would wait for its own caller can be handled beside the message in hand."""
        return False

    def let_in(self, request: Request) -> None:
        """Handle it so. Raises `NotDelivered` if the incarnation is about to end."""

    async def call_many(
        self, spec: MessageSpec, calls: Iterable[tuple[Any, ...]], deadline: float = NEVER
    ) -> list[Outcome[Any]]:
        """Send many messages and await all of their outcomes, with one sleep. See `Handle.call_many`."""
        arguments = list(calls)
        for args in arguments:
            _require_tuple(args)
        together = Together(self, current_task())
        together.make(spec, arguments, BAGGAGE.get())
        self._aim(together)
        place = PLACE.get()
        waiter = None if place is None else place.serial
        if place is not None:
            deadline = min(deadline, place.inherited_deadline)
        edges = await _edges_to(waiter, together)
        try:
            self._submit_all(together, deadline)
            if together.settled():
                await trio.lowlevel.checkpoint()
            else:
                together.parked = True
                await wait_task_rescheduled(together.abort)
        finally:
            if edges is not None:
                edges.remove(together)
        return together.outcomes()

    def _aim(self, together: Together) -> None:
        """Before the check for cycles: whoever will handle the parts, if that is somebody else."""

    def _submit_all(self, together: Together, deadline: float) -> None:
        mailbox = self._mailbox
        room = mailbox.appends_below - len(mailbox.queue)
        if self.refusal is None and deadline == NEVER and len(together.parts) <= room:
            mailbox.queue.extend(together.parts)
            if self._hungry:
                self.wake()
        else:
            self._submit_each(together, deadline)

    def _submit_each(self, together: Together, deadline: float) -> None:
        for part in together.parts:
            try:
                if self.refusal is not None:
                    raise self.refusal()
                self._submit(part, deadline)
            except CallFailed as error:
                part.refuse(error)

    def _submit(self, request: Request, deadline: float) -> None:
        if not self._mailbox.put(request):
            self._overflow(request)
        if deadline != NEVER:
            request.stamp(deadline)
        if self._hungry:
            self.wake()

    async def cast(self, spec: MessageSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], expires: float) -> None:
        """Send, and wait for room if there is none. See `Handle.cast`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._mailbox.full() or self.spec.overflow != "wait" or self.refusal is not None:
            try:
                self.cast_nowait(spec, args, kwargs, expires)
            except CallFailed as refusal:
                raise await after_a_checkpoint(refusal) from None
            self._casts += 1
            if self._casts % YIELD_EVERY == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return
        await self._wait_for_room((spec, args, kwargs, BAGGAGE.get(), expires))

    async def _wait_for_room(self, item: Cast) -> None:
        waiting = WaitingCast(self, item)
        place = PLACE.get()
        edges = await _edges_to(None if place is None else place.serial, waiting)
        try:
            self._mailbox.put_waiting(waiting)
            waiting.task = current_task()
            await wait_task_rescheduled(waiting.abort)
        finally:
            if edges is not None:
                edges.remove(waiting)

    def cast_nowait(
        self, spec: MessageSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], expires: float = NEVER
    ) -> None:
        """Send or raise. See `Handle.cast_nowait`."""
        if self.refusal is not None:
            raise self.refusal()
        item = (spec, args, kwargs, BAGGAGE.get(), expires)
        mailbox = self._mailbox
        if len(mailbox.queue) < mailbox.appends_below:
            mailbox.queue.append(item)
        elif not mailbox.put(item):
            self._overflow(item)
        if self._hungry:
            self.wake()

    def edges(self) -> list[Edge]:
        """See `Waiter`."""
        if self._waits_for is None:
            self._waits_for = []
        return self._waits_for

    def edge_to(self, edge: Sent) -> list[Edge]:
        """See `Waiter`: this cell's message in hand is about to wait."""
        self.must_not_hold_up(edge)
        if edge.cell is self or edge.cell.may_wait():  # nearly always neither
            check_for_cycle(self, edge)
        edges = self.edges()
        edges.append(edge)
        return edges

    def must_not_hold_up(self, edge: Sent) -> None:
        """Raise `NotDelivered` if what is called cannot come up before the message in hand here has ended.

        It has crashed, or has been paused, and its group is to be restarted; this cell is in that group and is being
        paused, too. To wait would take until the drain time is over.
        """
        target = edge.cell
        if target._held and self.want in (Want.PAUSE, Want.SUSPEND) and self.path.startswith(f"{target.parent.path}/"):
            raise NotDelivered(target.path, "crash", target.restart_in())

    def may_wait(self) -> bool:
        """Whether anything that this cell does may be waiting for somebody."""
        return bool(self._waits_for) or bool(self.at_their_limit())

    def waits_for(self) -> Sequence[Edge]:
        """See `Waiter`: of the message in hand."""
        return self._waits_for or ()

    # --- admission --------------------------------------------------------------------------------

    def _overflow(self, item: Cast | Request) -> None:
        """There is no room: do what the receiver's policy says."""
        policy = self.spec.overflow
        if policy == "wait" and isinstance(item, Request):
            self._mailbox.put_waiting(item)
            return
        if self.runtime.events.on:
            self.emit(events.Overflowed, (item.spec if isinstance(item, Request) else item[0]).name, policy)
        if policy == "drop_oldest":
            oldest = self._mailbox.take()
            if oldest is not None:
                self.refuse(oldest, "overflow")
            self._mailbox.put_anyway(item)  # one for one: what was stashed may have come back over the capacity
        elif isinstance(item, Request):
            raise NotDelivered(self.path, "overflow")
        elif policy == "drop_newest":
            self.dead_letter(item, "overflow")
        else:
            raise MailboxFull(self.path, self._mailbox.capacity)

    def bury(self, was: int) -> None:
        """A message that waited in state `was` must never run."""
        self.revoked += 1
        if was == STASHED and self._stash is not None:
            self._stash.bury()
            if self.want is Want.DRAIN:
                self.wake()  # perhaps it was the last one
            return
        self._mailbox.bury(was)
        if self._mailbox.spill is not None:
            # Not at once: Trio cancels the callers of one moment in no particular order. One that is about to be
            # cancelled too would be let in or not, depending on that order.
            Timer(self.deadlines, trio.current_time(), self._let_in)
        self.wake_if_blocked()

    @property
    def stashed(self) -> int:
        """How many messages its handlers have put aside."""
        return 0 if self._stash is None else len(self._stash)

    def put_aside(self, item: Cast | Request) -> None:
        """A handler has put its message into the stash. What finds no room there is refused."""
        if isinstance(item, Request) and not item.put_aside():
            self.revoked += 1
            return
        if self._stash is None:
            self._stash = Stash(self.spec.stash)
        if self._stash.put(item):
            return
        if self.runtime.events.on:
            self.emit(events.Overflowed, (item.spec if isinstance(item, Request) else item[0]).name, "stash")
        if isinstance(item, Request):
            item.fail(StashFull(self.path, self._stash.capacity))
        else:
            self.dead_letter(item, "overflow")

    def unstash_all(self) -> None:
        """See `ActorContext.unstash_all`."""
        if self._stash is not None:
            self._mailbox.put_first(self._stash.take_all())
            self._stash = None
            if self._mailbox:
                self.wake()  # also if it waits for something else than mail: there is another head now

    def _let_in(self) -> None:
        """Who waits for room moves up into what cancelled callers have left free."""
        self._mailbox.refill()
        if self._hungry and self._mailbox:
            self.wake()

    def wake_if_blocked(self) -> None:
        """Let the task look again if it waits for something else than mail: perhaps it does so no more."""
        if self._parked and not self._hungry:
            self.wake()

    def _replaced(self, item: Cast) -> None:
        """A later cast of the same key has taken the place of this one."""
        if self.runtime.events.on:  # what it said is out of date: it is not kept
            self.emit(events.DeadLetter, item[0].name, "replaced")

    def refuse(
        self,
        item: Cast | Waiting,
        reason: NotDeliveredReason,
        retry_after: float | None = None,
        cause: BaseException | None = None,
    ) -> None:
        """Answer for a message that has been taken out of the mailbox unhandled."""
        if isinstance(item, tuple):
            self.dead_letter(item, reason)
            return
        item.state = RUNNING  # it is in the mailbox no more
        item.fail(NotDelivered(self.path, reason, retry_after), cause)

    def dead_letter(self, item: Cast, reason: str, failure: BaseException | None = None) -> None:
        """A cast ends unhandled, or a message is poison. `failure` is what the incarnation that had it died of."""
        if self.runtime.events.on:
            self.emit(events.DeadLetter, item[0].name, reason)
        if self.runtime.dead_letters is not None:
            causes = [one_line(cause) for cause in (*causes_of(item), failure) if cause is not None]
            self.runtime.dead_letters.keep(self.address, item, reason, causes)

    @property
    def address(self) -> str:
        """Where what was sent to it can be sent again."""
        return self.path

    @property
    def intake(self) -> Intake:
        """See `Node`."""
        return self

    def hand_back(self, item: Cast | Request) -> None:
        """Let the next incarnation begin with a message that this one has had in hand."""
        self._mailbox.put_first([item])


async def _edges_to(waiter: Waiter | None, edge: Sent) -> list[Edge] | None:
    """Note that a handler, if one does, is about to wait. A checkpoint if that is refused."""
    try:
        return None if waiter is None else waiter.edge_to(edge)
    except (CallCycle, NotDelivered) as refusal:
        raise await after_a_checkpoint(refusal) from None


async def after_a_checkpoint(refusal: E) -> E:
    """Who tries again and again in a loop must not starve the others, nor be deaf to its own cancellation."""
    await trio.lowlevel.checkpoint()
    return refusal


def _require_tuple(args: object) -> None:
    if not isinstance(args, tuple):  # a text would be taken apart letter by letter
        raise TypeError(f"call_many takes the arguments of each call as a tuple, as in [(1,), (2,)]; got {args!r}")
