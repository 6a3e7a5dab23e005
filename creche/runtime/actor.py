"""The `Actor` base class and the table of its messages.

An actor is a class; its public `async def` methods are its messages; its state is touched by its own task only. The
table is made once per class, and everything that is wrong with a class is reported then, before any actor of it
starts.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from .checks import require_seconds
from .errors import SpecInvalid

if TYPE_CHECKING:
    from .context import ActorContext
    from .slots import BatchItem

OnCallerGone = Literal["finish", "cancel"]
A = TypeVar("A")
T = TypeVar("T")
R = TypeVar("R")
H = TypeVar("H", bound=Callable[..., object])
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

# Names that the runtime gives a meaning of its own. They are overridden, not sent.
RESERVED = frozenset({"context", "lifespan", "config", "validate", "apply", "handover", "dependency_changed"})
ATTEMPTS = 3  # one may be bad luck, such as a kill; what dies three times dies of the message itself
_OPTIONS = "__creche_message__"
_ON_CRASH = "__creche_on_crash__"


@dataclass(frozen=True, slots=True)
class MessageOptions:
    """What `@message(...)` or `@batched(...)` declares. See there."""

    on_caller_gone: OnCallerGone = "finish"
    raises: tuple[type[Exception], ...] = ()
    concurrency: int | None = None
    key: Callable[..., Hashable] | None = None
    batch: int | None = None
    slow_after: float | None = None
    reentrant: bool = False
    idempotent: bool = False
    attempts: int | None = None

    def __post_init__(self) -> None:
        if self.on_caller_gone not in ("finish", "cancel"):
            raise SpecInvalid("on_caller_gone", self.on_caller_gone, "use 'finish' or 'cancel'")
        for kind in self.raises:
            if not _is_exception_class(kind):
                raise SpecInvalid("raises", kind, "name subclasses of Exception")
        for name, count in (("concurrency", self.concurrency), ("limit", self.batch)):
            if count is not None and not (type(count) is int and count >= 1):
                raise SpecInvalid(name, count, "use a whole number, 1 or more")
        for name, flag in (("reentrant", self.reentrant), ("idempotent", self.idempotent)):
            if type(flag) is not bool:
                raise SpecInvalid(name, flag, "True or False")
        self._check_attempts()
        if self.slow_after is not None:
            require_seconds("slow_after", self.slow_after, above_zero=True)
        if self.key is not None and not callable(self.key):
            raise SpecInvalid("key", self.key, "pass a function that takes the message's arguments and returns its key")

    def _check_attempts(self) -> None:
        if self.attempts is not None and not self.idempotent:
            raise SpecInvalid("attempts", self.attempts, "only what is declared idempotent=True is tried again")
        if self.attempts is not None and not (type(self.attempts) is int and self.attempts >= 2):
            raise SpecInvalid("attempts", self.attempts, "a whole number, 2 or more: the first attempt counts")
        if self.idempotent and (self.concurrency is not None or self.reentrant):
            beside = "concurrency" if self.concurrency is not None else "reentrant"
            raise SpecInvalid("idempotent", True, f"only what is handled alone is tried again: leave out {beside}")


@dataclass(frozen=True, slots=True)
class MessageSpec:
    """One row of an actor class's message table, flattened for the hot path."""

    name: str
    cancel_when_gone: bool = False
    raises: tuple[type[Exception], ...] = ()
    concurrency: int = 0  # 0: serial
    batch: int = 0  # 0: one at a time
    key: Callable[..., Hashable] | None = None
    slow_after: float | None = None
    reentrant: bool = False
    special: bool = False  # not for the loop itself: concurrent, batched or idempotent
    attempts: int = 0  # how often it may be handled; 0: once


@dataclass(frozen=True, slots=True)
class Handover:
    """How an actor class hands something over to its successor, and whether also at a crash."""

    give: Callable[[Any], object]
    on_crash: bool


def message(
    *,
    on_caller_gone: OnCallerGone = "finish",
    raises: type[Exception] | tuple[type[Exception], ...] = (),
    concurrency: int | None = None,
    key: Callable[..., Hashable] | None = None,
    slow_after: float | None = None,
    reentrant: bool = False,
    idempotent: bool = False,
    attempts: int | None = None,
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
    concurrency
        How many handlers of this message may run at once, each in a task of its own beside the other messages; they
        interleave at awaits. Further ones wait at the head of the mailbox, and what comes after them waits too.
        Default: serial, one message after the other.
    key
        For actors with ``overflow="latest_by_key"``: takes the message's arguments and returns a hashable. A cast whose
        key waits already replaces the waiting one, in its place.
    slow_after
        After how many seconds its handler is told to be slow, instead of what the actor's options say; see
        `ChildOptions`.
    reentrant
        Let a call in that comes back to this actor along the chain of calls of its own message in hand, and would
        otherwise be a `CallCycle`: it is handled in a task of its own while that message waits for it. All other calls
        wait their turn as ever. What the waiting handler has read may have changed after its await. For calls through
        handles of actors; `Handle.call_many` and pools let nothing in. At most 64 may be in an actor at once.
    idempotent
        To handle it twice does what handling it once does. So if the incarnation dies with it in hand, it is not lost:
        the next incarnation, or in a pool another worker, handles it first. Its caller waits on, and may leave as ever.
        Not for messages with `concurrency` or `reentrant`; one whose reply slot has been taken is not tried again.
    attempts
        How often it may be handled, the first time included. When the last one dies too the message is poison: its
        caller gets `OutcomeUnknown` with the `causes` of all, and it is a dead letter. Default: 3.

    Raises
    ------
    SpecInvalid
        An option has a value that it cannot take.
    """
    declared = raises if isinstance(raises, tuple) else (raises,)
    options = MessageOptions(
        on_caller_gone,
        declared,
        concurrency,
        key,
        slow_after=slow_after,
        reentrant=reentrant,
        idempotent=idempotent,
        attempts=attempts,
    )

    def mark(function: F) -> F:
        setattr(function, _OPTIONS, options)
        return function

    return mark


def batched(
    *,
    limit: int,
    on_caller_gone: OnCallerGone = "finish",
    raises: type[Exception] | tuple[type[Exception], ...] = (),
) -> Callable[[Callable[[A, Sequence[BatchItem[T, R]]], Awaitable[None]]], Callable[[A, T], Coroutine[Any, Any, R]]]:
    """Declare a message that is handled together with all of its kind that are waiting.

    The handler takes a sequence of `BatchItem`; each has the one argument of a call as its `value`, and is its reply
    slot. The message itself is what callers see: ``await handle.ask.get(key)``. ::

        @creche.batched(limit=100)
        async def get(self, items: Sequence[creche.BatchItem[str, bytes]]) -> None:
            found = await self._read([item.value for item in items])
            for item in items:
                item.reply(found[item.value])

    A batch takes what waits at the head of the mailbox without a message of another kind in between, so that order is
    kept. Items that are not answered when the handler ends may be answered later, as deferred replies are.

    Parameters
    ----------
    limit
        The most items of one batch.
    on_caller_gone
        A caller that goes leaves at once in any case. With ``"cancel"`` the handler is cancelled when all of its
        callers have gone; a cast never goes.
    raises
        As in `message`. An answer that leaves the handler is given, in copies, to each item that is not answered yet.

    Raises
    ------
    SpecInvalid
        An option has a value that it cannot take.
    """
    declared = raises if isinstance(raises, tuple) else (raises,)
    options = MessageOptions(on_caller_gone, declared, batch=limit)

    def mark(
        function: Callable[[A, Sequence[BatchItem[T, R]]], Awaitable[None]],
    ) -> Callable[[A, T], Coroutine[Any, Any, R]]:
        setattr(function, _OPTIONS, options)
        # What callers of the message see: one argument, one reply. The loop calls the function as it is.
        return cast("Callable[[A, T], Coroutine[Any, Any, R]]", function)

    return mark


def handover(*, on_crash: bool) -> Callable[[H], H]:
    """Declare when the method `handover` of an actor is called.

    An actor that has such a method, ``def handover(self) -> object``, hands what it returns to its successor, which
    gets it from `ActorContext.handed_over`. It is called when the incarnation ends as planned: with its group or its
    supervisor, by `ActorContext.exit`, for another spec. Not at the final stop, and not at a crash, for what led to the
    crash may be in it.

    Parameters
    ----------
    on_crash
        Call it at crashes and kills, too. A message may have been cut in the middle: what it returns must be fit for
        use at every await.

    Raises
    ------
    SpecInvalid
        `on_crash` is neither True nor False.
    """
    if type(on_crash) is not bool:
        raise SpecInvalid("handover: on_crash", on_crash, "True or False")

    def mark(function: H) -> H:
        setattr(function, _ON_CRASH, on_crash)
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
    __plain__: ClassVar[bool] = True  # nothing but messages: no lifespan of its own, no handover
    __timed__: ClassVar[bool] = False  # some message has a limit of its own
    __reentrant__: ClassVar[bool] = False  # some message is
    __handover__: ClassVar[Handover | None] = None
    __heeds__: ClassVar[bool] = False  # whether it wants to know what becomes of its dependencies

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        table: dict[str, MessageSpec] = {}
        for owner in reversed(cls.__mro__):  # from the most basic class on, mixins that are no actors included
            for name, member in vars(owner).items():
                spec = _message_spec(owner, name, member, table.get(name))
                if spec is not None:
                    table[name] = spec
        cls.__messages__ = table
        cls.__reentrant__ = any(spec.reentrant for spec in table.values())
        cls.__timed__ = any(spec.slow_after is not None for spec in table.values())
        give: Callable[[Any], object] | None = getattr(cls, "handover", None)
        cls.__handover__ = None if give is None else Handover(give, bool(getattr(give, _ON_CRASH, False)))
        cls.__plain__ = cls.lifespan is Actor.lifespan and give is None
        cls.__heeds__ = cls.dependency_changed is not Actor.dependency_changed

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Resources of one incarnation.

        Entered before the first message, left after the last one, also after a crash. The actor is ready when the
        context manager has been entered. An error in it is a crash, or a failed start for the first incarnation. On a
        kill the exit runs cancelled; shield what must still be awaited.
        """
        yield

    async def dependency_changed(self, dependency: object, change: Literal["restarted", "stopped"]) -> None:
        """Override to be told of the actors and components whose handles this actor was constructed with.

        Awaited in turn with the messages and before those that wait, when `dependency` has come up again after a crash,
        or has ended for good. Changes that come while the actor is busy are told once, the last one. An error in it is
        what it would be in the handler of a cast.

        Parameters
        ----------
        dependency
            The handle, the same object that was given as an argument.
        """


def _is_exception_class(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


def _message_spec(owner: type, name: str, member: object, inherited: MessageSpec | None) -> MessageSpec | None:
    where = f"{owner.__qualname__}.{name}"
    if name == "lifespan" and inspect.isasyncgenfunction(member):
        raise SpecInvalid(where, member, "decorate it with @contextlib.asynccontextmanager")
    if name == "dependency_changed" and not _takes_two_arguments(member):
        fix = "the runtime awaits it with two arguments: `async def dependency_changed(self, dependency, change)`"
        raise SpecInvalid(where, member, fix)
    if name == "context" and callable(member):
        raise SpecInvalid(where, member, "`context` is the actor's way to its runtime: choose another name")
    if name.startswith("_") or name in RESERVED:
        if hasattr(member, _OPTIONS) and callable(member):
            raise SpecInvalid(where, member, "declared a message, but its name is private or has another meaning")
        if name == "handover" and not _takes_nothing(member):
            raise SpecInvalid(where, member, "the runtime calls it without arguments: `def handover(self)`, not async")
        return None
    if inspect.isasyncgenfunction(member):
        raise SpecInvalid(where, member, "a message answers once; hand out a memory channel for a stream")
    if inspect.iscoroutinefunction(member) or hasattr(member, _OPTIONS):
        return _row(name, getattr(member, _OPTIONS, None), inherited)
    if inspect.isfunction(member):
        raise SpecInvalid(
            where, member, "public methods are messages: make it `async def`, or private (leading underscore)"
        )
    if inherited is not None:
        raise SpecInvalid(where, member, "hides a message of the base class by something that is no message")
    return None


def _takes_nothing(member: object) -> bool:
    if not inspect.isfunction(member) or inspect.iscoroutinefunction(member):
        return False
    try:
        inspect.signature(member).bind("self")
    except TypeError:
        return False
    return True


def _takes_two_arguments(member: object) -> bool:
    if not inspect.iscoroutinefunction(member):
        return False
    try:
        inspect.signature(member).bind("self", "dependency", "change")
    except TypeError:
        return False
    return True


def _row(name: str, options: MessageOptions | None, inherited: MessageSpec | None) -> MessageSpec:
    if options is not None:
        return MessageSpec(
            name,
            cancel_when_gone=options.on_caller_gone == "cancel",
            raises=options.raises,
            concurrency=options.concurrency or 0,
            batch=options.batch or 0,
            key=options.key,
            slow_after=options.slow_after,
            reentrant=options.reentrant,
            special=options.concurrency is not None or options.batch is not None or options.idempotent,
            attempts=(options.attempts or ATTEMPTS) if options.idempotent else 0,
        )
    if inherited is None or inherited.batch:  # what overrides a batched message without saying so takes one at a time
        return MessageSpec(name)
    return inherited
