"""What an actor class must look like: the message table, and what is refused when the class is created."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import creche
from creche.runtime.actor import Actor, MessageSpec, message
from creche.runtime.errors import SpecInvalid


class Base(Actor):
    @message(on_caller_gone="cancel", raises=(KeyError, ValueError))
    async def read(self) -> int:
        return 1

    async def write(self) -> None: ...

    async def _private(self) -> None: ...

    limit = 3

    @property
    def size(self) -> int:
        return 1


def test_public_async_methods_are_messages() -> None:
    """Public `async def` methods are messages; private ones, attributes and properties are the actor's own."""
    assert set(Base.__messages__) == {"read", "write"}
    assert Base.__messages__["read"] == MessageSpec("read", cancel_when_gone=True, raises=(KeyError, ValueError))
    assert Base.__messages__["write"] == MessageSpec("write", cancel_when_gone=False, raises=())


def test_overrides_win_and_keep_the_options_of_their_base() -> None:
    """An override is what runs; it has its base's options unless it declares its own."""

    class Keeps(Base):
        async def read(self) -> int:
            return 2

    class Declares(Base):
        @message(raises=OSError)
        async def read(self) -> int:
            return 3

    assert Keeps.__messages__["read"] == Base.__messages__["read"]
    assert Declares.__messages__["read"] == MessageSpec("read", cancel_when_gone=False, raises=(OSError,))


async def test_overrides_are_reached_through_the_base() -> None:
    """`handle.call(Base.method)` runs the override of the actor that is there."""

    class Special(Base):
        async def read(self) -> int:
            return 2

    async with creche.open_runtime("t") as runtime:
        special = await runtime.start(creche.child(Special))
        assert await special.call(Base.read) == 2


def test_messages_of_all_bases_count() -> None:
    """Messages come from every base and mixin, in the order in which Python resolves methods."""

    class Left(Base):
        async def left(self) -> None: ...

    class Right(Base):
        @message(raises=OSError)
        async def write(self) -> None: ...

        async def right(self) -> None: ...

    class Mixin:
        async def mixed(self) -> None: ...

    class Both(Left, Right, Mixin): ...

    assert set(Both.__messages__) == {"read", "write", "left", "right", "mixed"}
    assert Both.__messages__["write"].raises == (OSError,)


@pytest.mark.parametrize("declared", ["sync", "stream", "hidden", "context", "lifespan"])
def test_wrong_classes_are_refused_when_they_are_created(declared: str) -> None:
    """A public sync method, a stream, a name that collides, a lifespan that is none: SpecInvalid names it and
    the fix."""

    def sync(self: Actor) -> None: ...

    async def stream(self: Actor) -> AsyncIterator[int]:
        yield 1

    async def context(self: Actor) -> None: ...

    members: dict[str, tuple[str, Any]] = {
        "sync": ("sync", sync),
        "stream": ("stream", stream),
        "hidden": ("read", None),
        "context": ("context", context),
        "lifespan": ("lifespan", stream),
    }
    name, member = members[declared]
    with pytest.raises(SpecInvalid, match=name) as caught:
        type("Wrong", (Base,), {name: member})
    assert caught.value.field.endswith(name)


def test_wrong_message_options_are_refused() -> None:
    """`@message` checks its options at once."""
    with pytest.raises(SpecInvalid, match="on_caller_gone"):
        message(on_caller_gone="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for wrong in (KeyboardInterrupt, "ValueError", (ValueError, int)):
        with pytest.raises(SpecInvalid, match="raises"):
            message(raises=wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_plain_actors_are_known() -> None:
    """An actor without a lifespan of its own is served without the scope that one needs."""

    class Plain(Base): ...

    class Holding(Base):
        lifespan = Base.lifespan

    assert Plain.__plain__
    assert Holding.__plain__


@pytest.mark.parametrize("name", ["_private", "apply", "config", "handover"])
def test_a_declared_message_has_a_name_that_can_be_sent(name: str) -> None:
    """`@message` on a private or reserved name would be ignored: it is refused when the class is created."""

    @creche.message()
    async def handler(self: creche.Actor) -> None: ...

    with pytest.raises(creche.SpecInvalid, match="declared a message"):
        type("Wrong", (creche.Actor,), {name: handler})
