"""A worker: a cell like any other, except that its mail comes from its pool's backlog.

Its loop takes messages from `Hand`, which stands where other mailboxes have their deque. What the worker goes through
(a crash, a stop, a handler that is stuck) is told to the pool's front in the same step, so that no message waits for a
worker that does not come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, cast

from ...runtime.actor import Actor, MessageSpec
from ...runtime.cell import Cell
from ...runtime.envelope import Cast, Request, Waiting
from ...runtime.errors import NotDeliveredReason
from ...runtime.mailbox import Mailbox, Queue, Queued, is_live
from ...runtime.node import State
from .backlog import NOTHING, Backlog, Seat

if TYPE_CHECKING:
    from ...runtime.node import Node, Parent
    from ...runtime.runtime import Runtime
    from ...runtime.spec import ActorSpec, ChildOptions
    from .front import Front

_HAND_LOST = (State.DOWN, State.PARKED, State.WAITING, State.SUSPENDED)


class Hand:
    """One worker's view of the backlog, as a queue."""

    __slots__ = ("_backlog", "_common", "_front", "_seat", "popleft")

    def __init__(self, front: Front, backlog: Backlog, seat: Seat) -> None:
        self._front = front
        self._backlog = backlog
        self._common = backlog.common
        self._seat = seat
        # The next message. Not a method: to call one more would cost as much as to take.
        self.popleft: Callable[[], Queued] = partial(backlog.take, seat)

    def __bool__(self) -> bool:
        """Whether there is anything to take. If not, the worker parks: there is no await in between."""
        seat = self._seat
        if seat.line or (self._common and not seat.retired):
            return True
        self._backlog.rests(seat)
        return False

    def __len__(self) -> int:
        """How much this worker has still to do before it may end: all of it, while the whole pool drains."""
        own = len(self._seat.line)
        return own + self._backlog.for_anybody() if self._front.draining and not self._seat.retired else own

    def __iter__(self) -> Iterator[Queued]:
        return (entry[1] for entry in self._seat.line)

    def __getitem__(self, index: int, /) -> Queued:
        return self._seat.line[index][1]

    def append(self, item: Queued, /) -> None:
        """A message for this very worker."""
        self._backlog.append_for(self._seat, item)

    def extend(self, items: Iterable[Queued], /) -> None:
        """Several."""
        for item in items:
            self.append(item)

    def appendleft(self, item: Queued, /) -> None:
        """Return what has just been taken."""
        self._backlog.put_back(self._seat)

    def take_more(self, spec: MessageSpec) -> Queued:
        """The next message, if it is of this kind."""
        return self._backlog.take_more(self._seat, spec)

    def oldest(self) -> float:
        """Since when the oldest waits."""
        return self._seat.line.oldest() if self._seat.line else inf

    def clear(self) -> None:
        """Take out all that is for this worker alone."""
        self._backlog.extract(self._seat, casts=True)

    def take_calls(self) -> Iterable[Queued]:
        """Take out the calls that are for this worker alone."""
        return self._backlog.extract(self._seat)


class WorkerMailbox(Mailbox):
    """What the loop of a worker takes for its mailbox.

    Room, overflow and tombstones are the business of the mailbox in front of the pool. What is sent to this very worker
    is never refused for want of room.
    """

    __slots__ = ("hand",)

    def __init__(self, capacity: int, hand: Hand) -> None:
        super().__init__(capacity)
        self.hand = hand
        self.queue = cast("Queue", hand)

    def __len__(self) -> int:
        return len(self.hand)

    def full(self) -> bool:
        """See `Mailbox`."""
        return False

    def take_another(self, spec: MessageSpec) -> Cast | Request | None:
        """See `Mailbox`."""
        item = self.hand.take_more(spec)
        return None if item is NOTHING else item

    def popped(self) -> None:
        """See `Mailbox`: the backlog has seen to it."""

    def skipped(self, item: object) -> None:
        """See `Mailbox`: the backlog has seen to it."""

    def mark(self, now: float) -> None:
        """See `Mailbox`: the backlog tells the time by itself."""

    def oldest_wait(self, now: float) -> float:
        """See `Mailbox`."""
        return max(0.0, now - self.hand.oldest())

    def take_waiting(self) -> Iterator[Waiting]:
        """See `Mailbox`."""
        return iter(cast("Iterable[Waiting]", self.hand.take_calls()))

    def take_all(self) -> Iterator[Cast | Waiting]:
        """See `Mailbox`."""
        items = list(self.hand)
        self.hand.clear()
        return (item for item in items if is_live(item))


class WorkerCell(Cell):
    """See above."""

    __slots__ = ("front", "seat")

    def __init__(
        self,
        runtime: Runtime,
        parent: Parent,
        name: str,
        options: ChildOptions,
        maker: ActorSpec[Any],
        cls: type[Actor],
    ) -> None:
        super().__init__(runtime, parent, name, options, maker, cls)
        self.front: Front
        self.seat: Seat

    def join(self, front: Front) -> None:
        """Become a worker of a pool."""
        self.front = front
        self.seat = front.backlog.new_seat(self)
        self._mailbox = WorkerMailbox(front.spec.mailbox, Hand(front, front.backlog, self.seat))

    @property
    def takes(self) -> bool:
        """Whether it can take messages at this moment."""
        return self.state is State.RUNNING and not self.stuck and not self.ends

    @property
    def queued(self) -> int:
        """See `Node`: for this worker and nobody else."""
        return len(self.seat.line)

    @property
    def in_flight(self) -> int:
        """Messages that it has taken, not answered, and not in its hand."""
        return self._in_flight()

    def wake_if_hungry(self) -> bool:
        """Let it come for a message if it waits for one."""
        if not self._hungry:
            return False
        self.wake()
        return True

    # --- what its pool has to know ----------------------------------------------------------------

    def move(self, to: State) -> None:
        """See `Node`."""
        if to is self.state:
            return
        super().move(to)
        if to in _HAND_LOST:
            self.front.backlog.crashed(self.seat)
        elif to is State.STOPPING:
            self.front.backlog.left(self.seat)
        self.front.reconsider()

    def _ended(self, cause: Exception | None) -> None:
        self.front.gone(self)  # first: what is not for this very worker goes to others
        super()._ended(cause)

    def cancel(self, reason: str) -> None:
        """See `Node`: its end may take a while."""
        super().cancel(reason)
        self.front.backlog.yields(self.seat)

    def exit(self) -> None:
        """See `ActorContext.exit`: so may this one."""
        super().exit()
        self.front.backlog.yields(self.seat)

    def wake_if_blocked(self) -> None:
        """See `Intake`."""
        self.front.backlog.tries_again(self.seat)
        super().wake_if_blocked()

    def look_again(self) -> None:
        """What it has put back is not at the head any more."""
        super().wake_if_blocked()

    def attend(self) -> None:
        """See `Handling`: it may be a while before it comes for a message."""
        self.front.backlog.left(self.seat)
        super().attend()

    @property
    def address(self) -> str:
        """See `Intake`: whoever of the pool is free may take it."""
        return self.front.path

    def hand_back(self, item: Cast | Request) -> None:
        """See `Intake`: another worker may be the first to take it."""
        self.front.backlog.hand_back(self.seat, item)

    def _has_successor(self) -> bool:
        return True  # the other workers; and the pool answers for what none of them takes

    def check_stash(self) -> None:
        """See `Handling`."""
        raise RuntimeError(f"{self.path}: a worker has no stash, for its pool's messages are for whoever comes first")

    def bury(self, was: int) -> None:
        """See `Intake`: all that waits, waits in the pool's backlog."""
        self.front.bury(was)

    def declare_stuck(self) -> None:
        """See `Intake`."""
        super().declare_stuck()
        self.front.reconsider()

    def _refuse_calls(self, reason: NotDeliveredReason, retry_after: float | None) -> None:
        self.front.backlog.yields(self.seat)  # only what nobody else may handle is refused
        super()._refuse_calls(reason, retry_after)

    def _unwound(self) -> None:
        super()._unwound()
        self.front.reconsider()

    def _is_ready(self) -> None:
        super()._is_ready()
        self.front.reconsider()
        self.front.backlog.came_up(self.seat)

    def _lose_patience(self) -> None:
        super()._lose_patience()
        self.front.reconsider()

    def refuse_as_parked(self, parked: Node) -> None:
        """See `Cell`."""
        super().refuse_as_parked(parked)
        self.front.reconsider()
