"""Fakes: stand-ins for actors that a test does without, with the messages of the real class."""

from __future__ import annotations

import inspect
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeGuard, TypeVar, cast

from ..runtime.actor import Actor
from ..runtime.errors import SpecInvalid
from ..runtime.spec import ActorSpec, child, snake_case

A = TypeVar("A", bound=Actor)


@dataclass(frozen=True, slots=True)
class Call:
    """A message that a fake was sent."""

    message: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Fake(Generic[A]):
    """A stand-in for actors of class `cls`, typed as they are.

    ::

        payments = testing.Fake(Payments, charge="receipt-1", refund=PaymentDeclined(...))
        handle = await runtime.start(payments.spec())  # Handle[Payments]
        ...
        assert payments.calls == [testing.Call("charge", (5,), {})]

    Parameters
    ----------
    answers
        By message: what it answers. An exception, or a class of exceptions, is raised; a function, sync or async, is
        called with the message's arguments; anything else is the answer. A message without one crashes the fake, with
        an AssertionError that names it. They may be changed in `answers`.

    Arguments that the real class would not take are the caller's TypeError, as ever.

    Raises
    ------
    SpecInvalid
        `cls` is no actor class, or a name is no message of it; that also from `answers` and `called`.
    """

    def __init__(self, cls: type[A], /, **answers: object) -> None:
        if not _is_actor_class(cls):
            raise SpecInvalid("Fake", cls, "a class of actors")
        self.calls: list[Call] = []
        self.answers = _Answers(cls, answers)
        self._cls = cls

    def spec(self) -> ActorSpec[A]:
        """A child of the real class's name, for a runtime, a supervisor or `App.override`. It has no lifespan."""
        body: dict[str, Any] = {name: self._message(name) for name in self._cls.__messages__}
        body["__init__"] = self._constructor()
        body["lifespan"] = Actor.lifespan
        fake = cast("type[A]", type(self._cls.__name__, (self._cls,), body))
        return child(fake).options(name=snake_case(self._cls.__name__))

    def called(self, message: str) -> list[Call]:
        """The calls of one message so far, in order."""
        _require_message(self._cls, message)
        return [call for call in self.calls if call.message == message]

    def _message(self, name: str) -> Callable[..., Any]:
        async def answer(_actor: A, *args: Any, **kwargs: Any) -> Any:
            self.calls.append(Call(name, args, kwargs))
            assert name in self.answers, f"the fake {self._cls.__name__} was sent {name!r} and has no answer to that"
            value = self.answers[name]
            if isinstance(value, BaseException) or is_exception_class(value):
                raise value
            if callable(value):
                value = value(*args, **kwargs)
                return await value if inspect.isawaitable(value) else value
            return value

        return answer

    def _constructor(self) -> Callable[[A], None]:
        def construct(actor: A) -> None:
            for name in self._cls.__messages__:
                setattr(actor, name, self._checked(name, getattr(actor, name)))

        return construct

    def _checked(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        """In front of a message, and no coroutine itself: what it raises is then the caller's mistake, and no crash."""
        batched = self._cls.__messages__[name].batch
        takes = inspect.signature(_one_item if batched else getattr(self._cls, name))

        def check(*args: Any, **kwargs: Any) -> Any:
            try:
                takes.bind(None, *args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{self._cls.__qualname__}.{name}(): {error}") from None
            return answer(*args, **kwargs)

        return check


class _Answers(UserDict[str, object]):
    """Answers by message."""

    def __init__(self, cls: type[Actor], answers: Mapping[str, object]) -> None:
        self._cls = cls
        super().__init__(answers)

    def __setitem__(self, message: str, answer: object) -> None:
        _require_message(self._cls, message)
        super().__setitem__(message, answer)


def _one_item(_actor: object, _value: object, /) -> None:
    """What callers of a batched message pass."""


def is_exception_class(value: object) -> TypeGuard[type[BaseException]]:
    """Whether it is one."""
    return isinstance(value, type) and issubclass(value, BaseException)


def _is_actor_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Actor)


def _require_message(cls: type[Actor], message: str) -> None:
    if message not in cls.__messages__:
        known = ", ".join(sorted(cls.__messages__)) or "none"
        raise SpecInvalid("Fake", message, f"a message of {cls.__name__}, of which there are: {known}")
