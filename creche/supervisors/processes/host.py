"""The host: the actor that stands in this process for one that runs in a process of its own.

It is an actor like any other, with the messages of the class that it stands for, so that supervisors, pools, handles
and statistics need not know of processes. Each message is handed on. In a deterministic run, where there are no other
processes, the actor lives inside its host; what it is given and what it returns are copied in the same way.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, cast

from ...runtime.actor import Actor, MessageSpec, message
from ...runtime.answers import as_answer
from ...runtime.context import PLACE, ActorContext
from ...runtime.errors import NotDelivered, NotSendable, RemoteError, SpecInvalid, Stashed
from .remote import Remote
from .wire import Packed, Unpicklable, culprit, pack, pack_error, unpack, unpack_error

if TYPE_CHECKING:
    from ...runtime.cell import Cell
    from ...runtime.slots import ReplySlot

A = TypeVar("A", bound=Actor)


@dataclass(frozen=True)
class Order:
    """What is to be constructed in the other process."""

    cls: type[Actor]
    version: str
    packed: Packed = field(repr=False)  # (class, args, kwargs)


class _Way(Protocol):
    async def ask(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any: ...


class Host(Actor):
    """See above. `host_of` makes a subclass of it for each actor class."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._way: _Way | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        async with self._open() as self._way:
            yield

    def _open(self) -> AbstractAsyncContextManager[_Way]:
        if self.context.runtime.deterministic:
            return Inside.started(self.context, self._order)
        return Remote.started(self.context, self._order, self._order.version)

    def _hand_on(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        assert self._way is not None
        return self._way.ask(name, args, kwargs)


class Inside:
    """The actor within its host, in a deterministic run."""

    def __init__(self, actor: Actor, path: str) -> None:
        self._actor = actor
        self._path = path

    @classmethod
    @asynccontextmanager
    async def started(cls, context: ActorContext, order: Order) -> AsyncGenerator[Inside]:
        """The actor, for the length of a block."""
        made, args, kwargs = unpack(order.packed.parts())
        actor: Actor = made.__new__(made)
        actor.context = _InsideContext(context._cell)  # pyright: ignore[reportPrivateUsage]
        cast("Any", actor).__init__(*args, **kwargs)
        async with actor.lifespan():
            yield cls(actor, context.path)

    async def ask(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Have a message handled, and return or raise what it answers."""
        try:
            args, kwargs = unpack(pack((args, kwargs)).parts())
        except Unpicklable as error:
            what, reason = culprit(args, kwargs)
            raise NotSendable(self._path, name, what, reason, handled=False) from error.__cause__
        try:
            result = await getattr(self._actor, name)(*args, **kwargs)
        except Stashed:
            raise
        except Exception as error:
            raise self._on_its_way_back(name, error)  # noqa: B904  # it has a cause of its own
        try:
            return unpack(pack(result).parts())
        except Unpicklable as error:
            raise NotSendable(self._path, name, "the result", error.reason, handled=True) from error.__cause__

    def _on_its_way_back(self, name: str, error: Exception) -> Exception:
        """An answer is copied, or refused if it cannot be; a crash is one."""
        answer = as_answer(self._path, self._actor.__messages__[name], error)
        if answer is None:
            return error
        told = unpack_error(pack_error(answer).parts())
        if isinstance(told, RemoteError):
            return NotSendable(self._path, name, "the error", told.error, handled=True)
        return told


class _InsideContext(ActorContext):
    """Refuses what is refused in a process."""

    __slots__ = ()

    def defer(self) -> ReplySlot[Any]:
        must_be_answered(self._cell, "defer")
        return super().defer()

    def stash(self) -> NoReturn:
        must_be_answered(self._cell, "stash")
        super().stash()


def must_be_answered(cell: Cell, what: str) -> None:
    """Raise RuntimeError in a serial message: who waited here for the next one would hang.

    The other process hands over one at a time.
    """
    if PLACE.get() is cell:
        why = "in a process of its own a serial message must be answered before the next one comes"
        raise RuntimeError(f"{what}: {why}; declare it with concurrency=..., or use creche.child")


def host_of(cls: type[A]) -> type[A]:
    """The class of the hosts of `cls`: for whoever holds a handle, it is `cls`.

    Raises `SpecInvalid` for an actor that cannot be in another process.
    """
    made: type[A] | None = cls.__dict__.get("__creche_host__")
    if made is None:
        members = {name: _handing_on(cls, row) for name, row in cls.__messages__.items()}
        about = {"__module__": cls.__module__, "__doc__": cls.__doc__}
        host = cast("type[Host]", type(cls.__name__, (Host,), {**members, **about}))
        host.__messages__ = {
            name: replace(row, raises=(*row.raises, NotSendable, NotDelivered))
            for name, row in cls.__messages__.items()
        }
        host.__timed__ = cls.__timed__
        made = cast("type[A]", cast("object", host))
        type.__setattr__(cls, "__creche_host__", made)
    return made


def _handing_on(cls: type[Actor], row: MessageSpec) -> Callable[..., Coroutine[Any, Any, Any]]:
    if row.batch:
        fix = "a batch is handled where its messages wait: take one at a time in a process"
        raise SpecInvalid("process_child", f"{cls.__qualname__}.{row.name}", fix)
    name, handler = row.name, getattr(cls, row.name)
    bind = inspect.signature(handler).bind

    def hand_on(self: Host, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        bind(self, *args, **kwargs)  # wrong arguments are the caller's mistake, here as there
        return self._hand_on(name, args, kwargs)  # pyright: ignore[reportPrivateUsage]

    hand_on.__name__, hand_on.__doc__ = name, handler.__doc__
    return message()(hand_on)  # what it declares is copied from the row
