"""The `Actor` base class and the table of its messages.

An actor is a class; its public `async def` methods are its messages; its state is touched by its own task only. The
table is made once per class, and everything that is wrong with a class is reported then, before any actor of it
starts.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from .errors import SpecInvalid

if TYPE_CHECKING:
    from .context import ActorContext

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

# Names that the runtime gives a meaning of its own. They are overridden, not sent.
RESERVED = frozenset({"context", "lifespan", "config", "validate", "apply", "handover"})
_OPTIONS = "__creche_message__"


@dataclass(frozen=True, slots=True)
class MessageOptions:
    """What `@message(...)` declares. See there."""

    on_caller_gone: Literal["finish", "cancel"] = "finish"
    raises: tuple[type[Exception], ...] = ()


@dataclass(frozen=True, slots=True)
class MessageSpec:
    """One row of an actor class's message table, flattened for the hot path."""

    name: str
    cancel_when_gone: bool
    raises: tuple[type[Exception], ...]


def message(
    *,
    on_caller_gone: Literal["finish", "cancel"] = "finish",
    raises: type[Exception] | tuple[type[Exception], ...] = (),
) -> Callable[[F], F]:
    """Declare options of one message.

    Parameters
    ----------
    on_caller_gone
        What becomes of a *running* handler when its caller is cancelled or out of time. ``"finish"`` (default): the
        caller leaves at once and the handler goes on, for a client's timeout must not stop an actor between two
        writes. ``"cancel"``: the handler is cancelled and the caller leaves when it has unwound; for what only reads,
        waits, or may be repeated. A request still queued is revoked in both cases and never runs.
    raises
        Exceptions that are answers: they reach the caller and the actor lives. `DomainError` and `Unavailable` always
        are. Every other exception crashes the incarnation.

    Raises
    ------
    SpecInvalid
        An option has a value that it cannot take.
    """
    declared = raises if isinstance(raises, tuple) else (raises,)
    if on_caller_gone not in ("finish", "cancel"):
        raise SpecInvalid("on_caller_gone", on_caller_gone, "use 'finish' or 'cancel'")
    for kind in declared:
        if not _is_exception_class(kind):
            raise SpecInvalid("raises", kind, "name subclasses of Exception")
    options = MessageOptions(on_caller_gone, declared)

    def mark(function: F) -> F:
        setattr(function, _OPTIONS, options)
        return function

    return mark


class Actor:
    """Base class of all actors.

    Public ``async def`` methods are messages. ``self.context`` is there before ``__init__`` runs. A fresh object is
    constructed for each incarnation, so a restart never sees the state that led to a crash.

    Override `lifespan` to hold resources for as long as an incarnation lives.
    """

    context: ActorContext
    __messages__: ClassVar[dict[str, MessageSpec]] = {}
    __plain__: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        table: dict[str, MessageSpec] = {}
        for owner in reversed(cls.__mro__):  # from the most basic class on, mixins that are no actors included
            for name, member in vars(owner).items():
                spec = _message_spec(owner, name, member, table.get(name))
                if spec is not None:
                    table[name] = spec
        cls.__messages__ = table
        cls.__plain__ = cls.lifespan is Actor.lifespan

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Resources of one incarnation.

        Entered before the first message, left after the last one, also after a crash. The actor is ready when the
        context manager has been entered. An error in it is a crash, or a failed start for the first incarnation. On a
        kill the exit runs cancelled; shield what must still be awaited.
        """
        yield


def _is_exception_class(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


def _message_spec(owner: type, name: str, member: object, inherited: MessageSpec | None) -> MessageSpec | None:
    where = f"{owner.__qualname__}.{name}"
    if name == "lifespan" and inspect.isasyncgenfunction(member):
        raise SpecInvalid(where, member, "decorate it with @contextlib.asynccontextmanager")
    if name == "context" and callable(member):
        raise SpecInvalid(where, member, "`context` is the actor's way to its runtime: choose another name")
    if name.startswith("_") or name in RESERVED:
        return None
    if inspect.isasyncgenfunction(member):
        raise SpecInvalid(where, member, "a message answers once; hand out a memory channel for a stream")
    if inspect.iscoroutinefunction(member) or hasattr(member, _OPTIONS):
        options: MessageOptions | None = getattr(member, _OPTIONS, None)
        if options is not None:
            return MessageSpec(name, options.on_caller_gone == "cancel", options.raises)
        return inherited or MessageSpec(name, cancel_when_gone=False, raises=())
    if inspect.isfunction(member):
        raise SpecInvalid(
            where, member, "public methods are messages: make it `async def`, or private (leading underscore)"
        )
    if inherited is not None:
        raise SpecInvalid(where, member, "hides a message of the base class by something that is no message")
    return None
