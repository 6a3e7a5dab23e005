"""What travels with a task: the actor it belongs to, and the caller's trace and log context.

Two context variables and nothing else. `BAGGAGE` rides in every envelope: the sender's value is read at the call, and
set in the actor's task before the handler runs. `PLACE` says on whose behalf a task runs; it is set once per task and
never travels.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, TypeVarTuple

from trio.lowlevel import current_task

from .checks import require_function
from .errors import SpecInvalid, Stashed
from .monitors import Link, Watch, linked_stopped
from .node import ALIVE
from .timers import Timers

if TYPE_CHECKING:
    from .agenda import Alarm
    from .cell import Cell
    from .handle import Handle
    from .handling import Handling
    from .runtime import Runtime
    from .slots import ReplySlot
    from .waits import Waiter

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Baggage = Mapping[str, object]

NO_BAGGAGE: Baggage = MappingProxyType({})
BAGGAGE: ContextVar[Baggage] = ContextVar("creche.baggage", default=NO_BAGGAGE)


class Place(Protocol):
    """An actor's own task (`Cell`), or a background task of one."""

    @property
    def runtime(self) -> Runtime: ...

    @property
    def path(self) -> str: ...

    @property
    def incarnation(self) -> int: ...

    @property
    def inherited_deadline(self) -> float: ...

    @property
    def serial(self) -> Waiter | None:
        """The handler that waits for what this task waits for; None if no handler does."""


class Lease(Protocol):
    """A right that an actor lends to its handles, so that the hot path needs no message."""

    def revoke(self) -> None:
        """Take it back. Synchronous: called when the incarnation ends, before a successor starts. Must not raise."""


PLACE: ContextVar[Place | None] = ContextVar("creche.place", default=None)
# Set for the code that holds a runtime open; actors find theirs through their place.
RUNTIME: ContextVar[Runtime | None] = ContextVar("creche.runtime", default=None)


class Background:
    """The place of what runs beside the messages: background tasks, and the lifespan with what it starts."""

    __slots__ = ("_cell", "incarnation", "path", "runtime")
    inherited_deadline = float("inf")

    def __init__(self, cell: Handling) -> None:
        self._cell = cell
        self.runtime = cell.runtime
        self.path: str = cell.path
        self.incarnation: int = cell.incarnation

    @property
    def serial(self) -> Waiter | None:
        """The actor cannot take messages while its own task is busy with the lifespan; no message waits for others."""
        return self._cell if current_task() is self._cell.task else None


def baggage() -> Baggage:
    """The trace and log context of this task. Never mutate it; use `carrying`."""
    return BAGGAGE.get()


@contextmanager
def carrying(**items: object) -> Generator[None]:
    """Add items to the baggage of everything that is called inside the block."""
    token = BAGGAGE.set({**BAGGAGE.get(), **items})
    try:
        yield
    finally:
        BAGGAGE.reset(token)


def current_runtime() -> Runtime | None:
    """The runtime that this task belongs to, or None.

    In an actor it is the actor's, elsewhere the one that is held open around this code.
    """
    place = PLACE.get()
    return RUNTIME.get() if place is None else place.runtime


def current_deadline() -> float:
    """The deadline stamped on the message in hand, in seconds of `trio.current_time()`; infinity without one.

    Calls that a handler makes inherit it by themselves. Read it to decide whether an optional step is still worth
    starting.
    """
    place = PLACE.get()
    return float("inf") if place is None else place.inherited_deadline


def actor_path() -> str | None:
    """The path of the actor on whose behalf this task runs, or None outside of actors."""
    place = PLACE.get()
    return None if place is None else place.path


class ActorContext:
    """An actor's way to its runtime: `self.context`.

    When its incarnation has ended it can be looked at, but what would change something raises RuntimeError.
    """

    __slots__ = ("_cell", "incarnation")

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.incarnation: int = cell.incarnation
        """1 for the first life, one more for each restart."""

    def _living(self) -> Cell:
        """The cell. Raises RuntimeError when it is in another life by now, or in none."""
        if self._cell.incarnation != self.incarnation or self._cell.state not in ALIVE:
            raise RuntimeError(f"{self._cell.path}#{self.incarnation}: this incarnation has ended")
        return self._cell

    @property
    def path(self) -> str:
        """Where the actor stands in the tree, for instance ``"root/service/greeter"``."""
        return self._cell.path

    @property
    def runtime(self) -> Runtime:
        """The runtime that this actor lives in."""
        return self._cell.runtime

    @property
    def handle(self) -> Handle[Any]:
        """A handle to this actor itself, to give to others."""
        return self._cell.handle()

    def spawn(self, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Run `fn(*args)` in the background for at most as long as this incarnation lives.

        It shares the actor's state and interleaves with its handlers at awaits. It is cancelled when the incarnation
        ends, and the next one does not begin before it has ended. An exception in it crashes the incarnation. It runs
        with clean context variables. Raises TypeError if `fn` is a coroutine or no function.
        """
        require_function("spawn", fn)
        self._living().companion().spawn(fn, args)

    def after(self, seconds: float, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> Alarm:
        """Await `fn(*args)` once, `seconds` from now, in turn with the messages, before those that wait.

        Returns an `Alarm`, which can be cancelled. It ends with this incarnation. An error in `fn` is what it would be
        in the handler of a cast. Raises `SpecInvalid` for a time that cannot be, TypeError if `fn` is no function.
        """
        require_function("after", fn)
        return self._living().agenda().set_alarm(seconds, None, fn, args)

    def every(self, seconds: float, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> Alarm:
        """As `after`, again and again, the first time `seconds` from now.

        Ticks that come due while an earlier one still waits are skipped. Raises as `after`, and `SpecInvalid` for 0
        seconds.
        """
        require_function("every", fn)
        return self._living().agenda().set_alarm(seconds, seconds, fn, args)

    @property
    def timers(self) -> Timers:
        """Timers under keys: to start one again replaces the one that is under way."""
        return Timers(self._living)

    def monitor(self, target: object, fn: Callable[[str, Exception | None], Awaitable[object]]) -> Watch:
        """Await ``fn(path, cause)`` when another actor has ended for good, in turn with the messages, before those.

        `cause` is the failure that ended it, without traceback; None if it was stopped in order. Of who has stopped
        already it is told at once. An error in `fn` is what it would be in the handler of a cast. It ends with this
        incarnation: a successor monitors anew. For crashes and restarts, too, see `Handle.monitor`.

        Parameters
        ----------
        target
            A handle.

        Returns a `Watch`, which can be cancelled. Raises `NotStarted` for a handle that is not bound yet.
        """
        require_function("monitor", fn)
        return Watch(self._living().agenda(), self.runtime.node_of(target), fn)

    def link(self, target: object, *, one_way: bool = False, crashes: bool = False) -> Link:
        """Tie this actor and another one: when either ends for good, the other crashes with `LinkedStopped`.

        Whoever is being stopped anyway, alone or with what it stands in, is let alone. The link ends with this
        incarnation, which a final stop of this actor does not outrun; a successor links anew.

        Parameters
        ----------
        target
            A handle.
        one_way
            Only this actor dies with the other, not the other with it.
        crashes
            A crash counts, too, though the supervisor may mend it.

        Returns a `Link`, which can be cancelled. Raises `LinkedStopped` if the other has ended for good already,
        `SpecInvalid` for a link to itself, and `NotStarted` for a handle that is not bound yet.
        """
        cell, other = self._living(), self.runtime.node_of(target)
        if other is cell:
            raise SpecInvalid("link", target, "an actor cannot be linked to itself")
        if other.final:
            raise linked_stopped(other, other.final_cause)
        return Link(cell.agenda(), cell, other, one_way=one_way, crashes=crashes)

    def defer(self) -> ReplySlot[Any]:
        """Take the reply slot of the message in hand, to answer later or from elsewhere in this incarnation.

        The handler returns ``slot.later()``, then or at any time after; what it returns is not the answer. Its caller
        leaves at once when it is cancelled. Raises RuntimeError if there is no message in hand or its slot is taken.
        """
        return self._living().defer()

    def stash(self) -> NoReturn:
        """Put the message in hand aside, unhandled: no line of the handler runs after this.

        `unstash_all` brings it back. Meanwhile its caller waits as for a queued message, and can leave, or run out of
        time, as there. If the stash is full the caller gets `StashFull`, and a cast is a dead letter. Stashed messages
        are mail: at the end of the incarnation they go back to the head of the mailbox, and a graceful stop waits for
        them as long as it waits for mail.

        It leaves the handler as an exception: whoever catches that has handled the message after all. Raises
        RuntimeError if there is no message in hand, or if it is batched or its reply slot is taken.
        """
        self._living().check_stash()
        raise Stashed

    def unstash_all(self) -> None:
        """Put all stashed messages back at the head of the mailbox, in the order in which they were put aside."""
        self._living().unstash_all()

    def exit(self) -> None:
        """End this incarnation after the messages in hand; who waits for a deferred reply is not waited for.

        A permanent actor starts anew; a transient or temporary one is done.
        """
        self._living().exit()

    def grant(self, lease: Lease) -> None:
        """Lend a right to this actor's handles.

        It is revoked, synchronously, when the incarnation ends or another one is granted.
        """
        self._living().grant(lease)

    def handed_over(self, kind: type[T]) -> T | None:
        """What the incarnation before this one has handed over (see `handover`); None if there is nothing.

        There while this incarnation starts, in `__init__` and on the way into the lifespan, and only for the one that
        comes next: if its start fails, the one after that begins with nothing. For resources see `keep`.

        Raises TypeError if it is not of this kind.
        """
        value = self._cell.handed_over(self.incarnation)
        if value is None or isinstance(value, kind):
            return value
        raise TypeError(f"{self.path}: handed over is a {type(value).__qualname__}, not a {kind.__qualname__}")

    def keep(self, name: str, make: Callable[[], T], close: Callable[[T], object]) -> T:
        """A resource that outlives incarnations, such as a bound socket.

        The first call makes it; later ones, also in later incarnations, give the same object. `close` is called at the
        final stop, the last resource first; an error in it is an event `BadStop`.
        """
        return self._living().keep(name, make, close)
