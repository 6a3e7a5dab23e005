"""What may stand between a runtime and its actors: faults on purpose, and records of what became of each call.

A runtime asks for an `Interposer` once, when it is made, and in production there is none. It gets its say where nodes
and actors are made, so what is on the hot path does not know of it: it may choose a class that records more than `Cell`
does, and put something in front of the messages of an actor that has just been constructed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from .actor import Actor
    from .intake import Intake
    from .runtime import Runtime

I = TypeVar("I", bound="Intake")  # noqa: E741  # an intake


class Interposer(Protocol):
    """See above."""

    def opened(self, runtime: Runtime) -> None:
        """A runtime has been made, its tree is built and does not run yet."""
        ...

    def intake_class(self, cls: type[I]) -> type[I]:
        """The class to make of what takes messages, where it would be `cls`: that one, or a subclass."""
        ...

    def constructed(self, actor: Actor) -> None:
        """An incarnation has been constructed, no message seen. What this raises is a failure of its start."""
        ...

    def in_front_of(self, actor: Actor, names: Iterable[str]) -> None:
        """The handlers of these messages have been exchanged, see `become`: what stood in front of them is gone."""
        ...


def intake_class(runtime: Runtime, cls: type[I]) -> type[I]:
    """The class to make a cell, or the front of a pool, of: `cls`, unless the interposer knows a better one."""
    return cls if runtime.interposer is None else runtime.interposer.intake_class(cls)


INTERPOSER: ContextVar[Interposer | None] = ContextVar("creche.interposer", default=None)


@contextmanager
def interposed(interposer: Interposer) -> Generator[None]:
    """Runtimes that are made within the block get this interposer."""
    token = INTERPOSER.set(interposer)
    try:
        yield
    finally:
        INTERPOSER.reset(token)
