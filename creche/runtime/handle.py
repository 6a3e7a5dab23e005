"""Handles: how others reach an actor. Typed, and valid across restarts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, TypeVarTuple, cast

import trio
from outcome import Outcome

from .actor import Actor, MessageSpec
from .context import PLACE
from .errors import ActorStopped, CallCycle, NotStarted, SpecInvalid
from .monitors import MonitorEvent, monitoring, wait_stopped

if TYPE_CHECKING:
    from .intake import Intake
    from .node import Node

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
A_co = TypeVar("A_co", covariant=True, bound=Actor)

NEVER = float("inf")


class Handle(Generic[A_co]):
    """A way to one actor, typed by its class.

    ``handle.ask.method(...)`` calls and awaits the reply; ``handle.call(Class.method, ...)`` is the primitive under it.
    A handle stays valid across restarts. After the actor's final stop every use raises `ActorStopped`.
    """

    __slots__ = ("_ask", "_cell", "_name")

    def __init__(self, name: str, cell: Intake | None = None) -> None:
        self._name = name
        self._cell = cell
        self._ask: Any = None  # an `_Ask`; to cast it at each use would be a call

    def __repr__(self) -> str:
        return f"<Handle {self._name} (not started)>" if self._cell is None else f"<Handle {self._cell!r}>"

    @property
    def path(self) -> str:
        """Where the actor stands in its tree."""
        return self._bound().path

    @property
    def ask(self) -> A_co:
        """A proxy with the actor's messages as methods: send, and await the reply."""
        if self._ask is None:
            self._ask = _Ask(self._bound(), None)
        proxy: A_co = self._ask
        return proxy

    def call(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        """Send a message and await its reply: exactly one outcome.

        Returns what the handler returns and raises what it declares. Otherwise raises one of the `CallFailed` errors:
        `NotDelivered` (never handled), `OutcomeUnknown` (the actor died over it), `PeerFailed`, `ActorStopped`; or
        `CallCycle`, before anything was sent. A cancelled caller revokes a request that is still queued; `message` says
        what becomes of a running one.
        """
        cell = self._cell or self._bound()
        return cell.call(cell.messages.get(method.__name__) or message_of(cell, method.__name__), args, kwargs)

    async def call_many(
        self, method: Callable[[Any, *Ts], Awaitable[R]], calls: Iterable[tuple[*Ts]]
    ) -> list[Outcome[R]]:
        """Send many messages at once and await all of their outcomes; far cheaper than a task for each.

        Parameters
        ----------
        calls
            The arguments of each call, as tuples: ``[("a",), ("b",)]``.

        Returns
        -------
        list
            What became of each, in the order of `calls`: `outcome.Value`, or `outcome.Error` with what `call` would
            have raised; ``.unwrap()`` gives the value or raises. Only `CallCycle`, and the caller's own cancellation,
            are raised: then queued ones are revoked, running ones treated as `message` says.
        """
        cell = self._bound()
        return await cell.call_many(message_of(cell, method.__name__), calls)

    def sender(self, method: Callable[[Any, T], Awaitable[object]]) -> Sender[T]:
        """A `trio.abc.SendChannel` whose values are cast to one message that takes one argument."""
        cell = self._bound()
        return Sender(cell, message_of(cell, method.__name__))

    def statistics(self) -> Statistics:
        """How much the actor has done and what waits for it."""
        return self._bound().statistics()

    async def wait_stopped(self) -> Exception | None:
        """Wait until the actor has ended for good, over all restarts.

        Returns the failure that ended it, without traceback; None if it was stopped, or ended, in order. Any number of
        tasks may wait. Raises `CallCycle` where a handler of the actor waits for its own actor.
        """
        cell = self._bound()
        must_not_wait_for_itself(cell)
        return await wait_stopped(cell)

    def monitor(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[MonitorEvent]]:
        """A channel of what becomes of the actor, for the length of an ``async with`` block.

        The first `MonitorEvent` tells what is the case now, so an actor that has stopped already is told at once; then
        each crash, restart and stop follows. After ``"stopped"`` the channel ends. A slow reader holds up nobody: at
        most 16 events wait for him, and then the oldest makes room; the last one is never lost.
        """
        return monitoring(self._bound())

    async def cast(
        self, method: Callable[Concatenate[Any, P], Awaitable[object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Send a message without waiting for a reply; wait for room if the mailbox is full.

        Raises `NotDelivered` or `ActorStopped` when the message was not accepted. If cancelled, nothing was accepted.
        """
        cell = self._bound()
        await cell.cast(message_of(cell, method.__name__), args, kwargs, NEVER)

    def cast_nowait(
        self, method: Callable[Concatenate[Any, P], Awaitable[object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Send without waiting at all. Raises `MailboxFull` (a `trio.WouldBlock`), `NotDelivered` or `ActorStopped`."""
        cell = self._cell or self._bound()
        try:
            spec = cell.messages[method.__name__]
        except KeyError:
            spec = message_of(cell, method.__name__)  # raises, with an explanation
        cell.cast_nowait(spec, args, kwargs)

    def within(self, seconds: float = NEVER, *, expires: float = NEVER) -> Within[A_co]:
        """The same actor, with a limit on time.

        Parameters
        ----------
        seconds
            For calls: the whole time until the reply. It is stamped on the message: the handler can read it, and calls
            that the handler makes inherit it. When it runs out the caller gets `DeadlineExceeded`. For casts: the time
            to wait for room.
        expires
            For casts: seconds after which a message that still waits in the mailbox is dropped unhandled.

        Raises `SpecInvalid` for what is no time.
        """
        if seconds != seconds or expires != expires:
            raise SpecInvalid("within", (seconds, expires), "NaN is no number of seconds")
        return Within(self._bound(), seconds, expires)

    @property
    def _node(self) -> Node | None:
        return self._cell

    def _bind(self, node: Node) -> None:
        self._cell = cast("Intake", node)
        self._ask = None

    def _unbind(self) -> None:
        self._cell = self._ask = None

    def _bound(self) -> Intake:
        if self._cell is None:
            raise NotStarted(self._name)
        return self._cell


class Within(Generic[A_co]):
    """A handle with a limit on time; made by `Handle.within`."""

    __slots__ = ("_cell", "_expires", "_seconds")

    def __init__(self, cell: Intake, seconds: float, expires: float) -> None:
        self._cell = cell
        self._seconds = seconds
        self._expires = expires

    @property
    def ask(self) -> A_co:
        """As `Handle.ask`."""
        return cast("A_co", _Ask(self._cell, self._seconds))

    def call(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        """As `Handle.call`; also raises `DeadlineExceeded`."""
        deadline = trio.current_time() + self._seconds
        return self._cell.call(message_of(self._cell, method.__name__), args, kwargs, deadline)

    async def call_many(
        self, method: Callable[[Any, *Ts], Awaitable[R]], calls: Iterable[tuple[*Ts]]
    ) -> list[Outcome[R]]:
        """As `Handle.call_many`; the time is that of all together."""
        deadline = trio.current_time() + self._seconds
        return await self._cell.call_many(message_of(self._cell, method.__name__), calls, deadline)

    async def cast(
        self, method: Callable[Concatenate[Any, P], Awaitable[object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """As `Handle.cast`; raises `trio.TooSlowError` when there was no room in time."""
        spec = message_of(self._cell, method.__name__)
        expires = trio.current_time() + self._expires
        if self._seconds == NEVER:
            await self._cell.cast(spec, args, kwargs, expires)
        else:
            with trio.fail_after(max(0.0, self._seconds)):
                await self._cell.cast(spec, args, kwargs, expires)

    def cast_nowait(
        self, method: Callable[Concatenate[Any, P], Awaitable[object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """As `Handle.cast_nowait`."""
        expires = trio.current_time() + self._expires
        self._cell.cast_nowait(message_of(self._cell, method.__name__), args, kwargs, expires)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What has become of an actor's messages so far, over all of its incarnations, and what waits at this moment.

    Parameters
    ----------
    queued, in_flight
        Messages that wait in the mailbox; those that have been taken and whose reply is deferred or whose handler has a
        task of its own.
    oldest_wait
        For how long the oldest of the queued messages has waited, in seconds, to a millisecond; 0 if there is none.
    stashed
        Messages that handlers have put aside.
    handled, revoked
        Messages whose handlers have run or begun; requests that never ran because their callers had gone.
    discarded
        Replies that found nobody.
    """

    path: str
    state: str
    incarnation: int
    restarts: int
    queued: int
    oldest_wait: float
    stashed: int
    in_flight: int
    handled: int
    revoked: int
    discarded: int


class Sender(trio.abc.SendChannel[T]):
    """See `Handle.sender`. Closing it closes nothing but itself."""

    def __init__(self, cell: Intake, spec: MessageSpec) -> None:
        self._cell = cell
        self._spec = spec
        self._closed = False

    async def send(self, value: T) -> None:
        """Cast `value`, and wait for room.

        Raises `trio.ClosedResourceError` after `aclose`, `trio.BrokenResourceError` when the actor has stopped for
        good, and `NotDelivered`. If cancelled, nothing was sent.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError
        try:
            await self._cell.cast(self._spec, (value,), {}, NEVER)
        except ActorStopped as error:
            raise trio.BrokenResourceError from error

    def send_nowait(self, value: T) -> None:
        """As `send`; raises `trio.WouldBlock` if there is no room."""
        if self._closed:
            raise trio.ClosedResourceError
        try:
            self._cell.cast_nowait(self._spec, (value,), {})
        except ActorStopped as error:
            raise trio.BrokenResourceError from error

    def clone(self) -> Sender[T]:
        """Another sender to the same message."""
        if self._closed:
            raise trio.ClosedResourceError
        return Sender(self._cell, self._spec)

    def close(self) -> None:
        """Send no more. Idempotent."""
        self._closed = True

    async def aclose(self) -> None:
        """As `close`; a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()


class _Ask:
    """Senders by name, made on first use and then found in the instance without a call of `__getattr__`."""

    def __init__(self, cell: Intake, seconds: float | None) -> None:
        self.__cell = cell
        self.__seconds = seconds

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        cell = self.__cell
        spec = message_of(cell, name)
        seconds = self.__seconds
        call = cell.call

        if seconds is None:

            def send(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
                return call(spec, args, kwargs)

        else:

            def send(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
                return call(spec, args, kwargs, trio.current_time() + seconds)

        self.__dict__[name] = send
        return send


def require_messages(where: str, what: str, node: Node, cls: type[Actor]) -> None:
    """Raise `SpecInvalid` unless the node is an actor with all the messages of `cls`."""
    messages: dict[str, MessageSpec] | None = getattr(node, "messages", None)
    if messages is None or not cls.__messages__.keys() <= messages.keys():
        raise SpecInvalid(where, what, f"it is {node!r}, which has not the messages of {cls.__name__}")


def must_not_wait_for_itself(node: Node) -> None:
    """Raise `CallCycle` if a handler in `node`, or below it, is about to wait for the end of `node`."""
    place = PLACE.get()
    if place is not None and place.serial is not None and f"{place.path}/".startswith(f"{node.path}/"):
        raise CallCycle((place.path, node.path))  # it would wait for the handler that is waiting here


def message_of(cell: Intake, name: str) -> MessageSpec:
    """The row of the actor's message table, or an AttributeError that says what there is."""
    table = cell.messages
    try:
        return table[name]
    except KeyError:
        known = ", ".join(sorted(table)) or "none"
        raise AttributeError(
            f"{name!r} is no message of {cell.path}; its messages are: {known}. "
            "Messages are public `async def` methods; anything else of an actor is its own"
        ) from None
