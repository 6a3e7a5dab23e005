"""Behaviours: other handlers for an actor's messages, for as long as it is in a certain state.

The loop looks a handler up by name in the actor, so a behaviour is nothing but attributes of the instance in front of
the methods of its class, and costs nothing while there is none. The messages, their options and what callers see stay
those of the class.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .errors import SpecInvalid
from .slow import time_handlers

if TYPE_CHECKING:
    from .actor import Actor

_KNOWN = "__creche_behaviours__"  # of an actor class: {a behaviour's class: the messages that it handles}


def become(actor: Actor, behaviour: object) -> None:
    """From the next message on, let `behaviour` handle those messages that it has methods for.

    All others are handled by the actor itself, whatever was its behaviour before. It lasts until the next `become` or
    `unbecome`, and ends with the incarnation. The handler that is running goes on.

    Parameters
    ----------
    behaviour
        Any object: its public ``async def`` methods that are named as messages of the actor, with the same parameters.
        What it shares with the actor it is given by whoever makes it.

    Raises
    ------
    SpecInvalid
        It handles no message, one that the actor does not have, or one with other parameters.
    RuntimeError
        The incarnation has ended.
    """
    names = _handled_by(type(behaviour), type(actor))
    unbecome(actor)
    for name in names:
        setattr(actor, name, getattr(behaviour, name))
    _put_in_front(actor, names)


def unbecome(actor: Actor) -> None:
    """From the next message on, the actor handles all messages itself. Idempotent. Raises RuntimeError as `become`."""
    actor.context._living()  # pyright: ignore[reportPrivateUsage]
    changed = [name for name in actor.__messages__ if name in vars(actor)]
    for name in changed:
        delattr(actor, name)
    _put_in_front(actor, changed)


def _put_in_front(actor: Actor, names: Iterable[str]) -> None:
    """What stands in front of the actor's own handlers stands in front of these, too."""
    cell = actor.context._living()  # pyright: ignore[reportPrivateUsage]
    interposer = cell.runtime.interposer
    if interposer is not None:
        interposer.in_front_of(actor, names)
    if actor.__timed__ or cell.spec.slow_after is not None:
        time_handlers(cell, actor, names)


def _handled_by(behaviour: type, cls: type[Actor]) -> tuple[str, ...]:
    known: dict[type, tuple[str, ...]] | None = cls.__dict__.get(_KNOWN)
    if known is None:
        known = {}
        type.__setattr__(cls, _KNOWN, known)
    if behaviour not in known:
        known[behaviour] = tuple(_handlers(behaviour, cls))
    return known[behaviour]


def _handlers(behaviour: type, cls: type[Actor]) -> list[str]:
    where = f"become: {behaviour.__qualname__}"
    public = [name for name in dir(behaviour) if not name.startswith("_")]
    names = [name for name in public if inspect.iscoroutinefunction(getattr(behaviour, name))]
    for name in names:
        if name not in cls.__messages__:
            fix = f"it is no message of {cls.__qualname__}: make it private (leading underscore)"
            raise SpecInvalid(f"{where}.{name}", getattr(behaviour, name), fix)
        takes, must_take = _parameters(getattr(behaviour, name)), _parameters(getattr(cls, name))
        if takes != must_take:
            raise SpecInvalid(f"{where}.{name}", takes, f"the message has the parameters {must_take}")
    for name in public:
        if name in cls.__messages__ and name not in names:
            raise SpecInvalid(f"{where}.{name}", getattr(behaviour, name), "a handler is an `async def` method")
    if not names:
        raise SpecInvalid(where, behaviour, f"it has no `async def` method named as a message of {cls.__qualname__}")
    return names


def _parameters(function: Any) -> list[str]:
    """Names, kinds and whether there is a default, `self` left out; annotations may differ in how they are written."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return [str(p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else ...)) for p in parameters]
