"""Fakes: stand-ins for actors that a test does without, with the messages of the real class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

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
        By message: what it answers. An exception is raised; a function, sync or async, is called with the message's
        arguments; anything else is the answer. A message without one crashes the fake, with an AssertionError that
        names it.

    Raises
    ------
    SpecInvalid
        A name is no message of the class.
    """

    def __init__(self, cls: type[A], /, **answers: object) -> None:
        unknown = sorted(set(answers) - set(cls.__messages__))
        if unknown:
            known = ", ".join(sorted(cls.__messages__)) or "none"
            raise SpecInvalid("Fake", unknown[0], f"a message of {cls.__name__}, of which there are: {known}")
        self.calls: list[Call] = []
        self.answers: dict[str, object] = dict(answers)
        self._cls = cls

    def spec(self) -> ActorSpec[A]:
        """A child of the real class's name, for a runtime, a supervisor or `App.override`. It has no lifespan."""
        body: dict[str, Any] = {name: self._message(name) for name in self._cls.__messages__}
        body["__init__"] = _no_arguments
        body["lifespan"] = Actor.lifespan
        fake = cast("type[A]", type(self._cls.__name__, (self._cls,), body))
        return child(fake).options(name=snake_case(self._cls.__name__))

    def called(self, message: str) -> list[Call]:
        """The calls of one message so far, in order."""
        return [call for call in self.calls if call.message == message]

    def _message(self, name: str) -> Callable[..., Any]:
        async def answer(_actor: A, *args: Any, **kwargs: Any) -> Any:
            self.calls.append(Call(name, args, kwargs))
            assert name in self.answers, f"the fake {self._cls.__name__} was sent {name!r} and has no answer to that"
            value = self.answers[name]
            if isinstance(value, BaseException):
                raise value
            if callable(value):
                value = value(*args, **kwargs)
                return await value if inspect.isawaitable(value) else value
            return value

        return answer


def _no_arguments(_actor: Actor) -> None:
    """The constructor of fakes."""
