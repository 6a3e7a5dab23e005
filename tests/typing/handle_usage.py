"""How a handle types: checked by mypy and pyright, never run.

A call that must be refused carries an exception for each checker; both report an exception that is not needed, so the
file fails when a wrong call is let through.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, TypeVar, assert_type, overload

import creche
from creche.runtime.spec import ActorSpec
from creche.supervisors.handle import SupervisorHandle
from creche.supervisors.spec import SupervisorSpec

T = TypeVar("T")


class Greeter(creche.Actor):
    def __init__(self, greeting: str, *, loud: bool = False) -> None:
        self.greeting = greeting
        self.loud = loud

    async def greet(self, name: str, times: int = 1) -> str:
        return f"{self.greeting}, {name}" * times

    @creche.message(on_caller_gone="cancel", raises=KeyError)
    async def look_up(self, name: str) -> int | None:
        return len(name)

    @overload
    async def parse(self, raw: bytes) -> bytes: ...
    @overload
    async def parse(self, raw: bytes, kind: type[T]) -> T: ...
    async def parse(self, raw: bytes, kind: type[T] | None = None) -> T | bytes:
        return raw if kind is None else kind()


class Loud(Greeter):
    async def shout(self) -> None: ...


class Store(creche.Actor, Generic[T]):
    def __init__(self, kind: type[T]) -> None:
        self.kind = kind

    async def get(self, key: str) -> T:
        return self.kind()


async def asks(greeter: creche.Handle[Greeter]) -> None:
    """`ask` is typed as the actor: overloads and generics included."""
    assert_type(greeter.ask, Greeter)
    assert_type(await greeter.ask.greet("world"), str)
    assert_type(await greeter.ask.look_up("world"), int | None)
    assert_type(await greeter.ask.parse(b""), bytes)
    assert_type(await greeter.ask.parse(b"", int), int)
    await greeter.ask.greet(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await greeter.ask.greet()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await greeter.ask.shout()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


async def calls(greeter: creche.Handle[Greeter]) -> None:
    """`call` checks the arguments of the method it is given, and returns what the method returns."""
    assert_type(await greeter.call(Greeter.greet, "world"), str)
    assert_type(await greeter.call(Greeter.greet, "world", times=2), str)
    assert_type(await greeter.call(Greeter.look_up, "world"), int | None)
    unsent: Coroutine[Any, Any, str] = greeter.call(Greeter.greet, "world")
    assert_type(await unsent, str)
    await greeter.call(Greeter.greet, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await greeter.call(Greeter.greet)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await greeter.call(Greeter.greet, "a", loud=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def casts(greeter: creche.Handle[Greeter]) -> None:
    """Casts check their arguments and return nothing."""
    assert_type(await greeter.cast(Greeter.greet, "world"), None)
    assert_type(greeter.cast_nowait(Greeter.greet, "world"), None)
    await greeter.cast(Greeter.greet, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    greeter.cast_nowait(Greeter.greet)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def limits(greeter: creche.Handle[Greeter]) -> None:
    """`within` keeps the types."""
    soon = greeter.within(2.0, expires=1.0)
    assert_type(await soon.ask.greet("world"), str)
    assert_type(await soon.call(Greeter.look_up, "world"), int | None)
    assert_type(await soon.cast(Greeter.greet, "world"), None)
    assert_type(soon.cast_nowait(Greeter.greet, "world"), None)
    await soon.call(Greeter.greet, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    greeter.within("soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def specs() -> None:
    """`child` checks the constructor's arguments and knows the actor."""
    assert_type(creche.child(Greeter, "Hello"), ActorSpec[Greeter])
    assert_type(creche.child(Greeter, "Hello", loud=True).options(name="g", mailbox=5), ActorSpec[Greeter])
    assert_type(creche.child(Store[int], int), ActorSpec[Store[int]])
    assert_type(creche.supervisor("s", creche.child(Greeter, "Hello")), SupervisorSpec)
    creche.child(Greeter)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    creche.child(Greeter, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    creche.child(Greeter, "a").options(mailbox="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    creche.child(Greeter, "a").options(timeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    creche.child(Greeter, "a").options(restart="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    creche.child(dict)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def starts(runtime: creche.Runtime) -> None:
    """`runtime.start` gives the handle that belongs to the spec."""
    assert_type(await runtime.start(creche.child(Greeter, "Hello")), creche.Handle[Greeter])
    assert_type(await runtime.start(creche.supervisor("s")), SupervisorHandle)
    store = await runtime.start(creche.child(Store[int], int))
    assert_type(await store.ask.get("key"), int)


async def variance(loud: creche.Handle[Loud], greeter: creche.Handle[Greeter]) -> None:
    """A handle to a subclass is a handle to its base."""
    await asks(loud)
    wrong: creche.Handle[Loud] = greeter  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert_type(wrong, creche.Handle[Loud])


@creche.message(on_caller_gone="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def wrong_option(self: Greeter) -> None: ...


@creche.message(raises=KeyboardInterrupt)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def wrong_error(self: Greeter) -> None: ...


async def children(sessions: creche.DynamicSupervisor, runtime: creche.Runtime) -> None:
    """Dynamic and partition supervisors hand out typed handles."""
    spec = creche.dynamic_supervisor("sessions", max_children=3)
    assert_type(await runtime.start(spec), creche.DynamicSupervisor)
    assert_type(runtime.handle("root/sessions", spec), creche.DynamicSupervisor)
    greeter = await sessions.start(creche.child(Greeter, "Hello"))
    assert_type(greeter, creche.Handle[Greeter])
    await sessions.stop(greeter)
    assert_type(sessions.get("greeter", Greeter), creche.Handle[Greeter] | None)
    await sessions.start(creche.child(Greeter, 3))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    shards = await runtime.start(creche.partition_supervisor("s", creche.child(Greeter, "Hi"), partitions=2))
    assert_type(shards.of("ann"), creche.Handle[Greeter])
    assert_type(shards.all(), tuple[creche.Handle[Greeter], ...])
    shards.of(object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    by_number = creche.partition_supervisor("s", lambda number: creche.child(Greeter, str(number)), partitions=2)
    assert_type((await runtime.start(by_number)).of(1), creche.Handle[Greeter])


async def ends(greeter: creche.Handle[Greeter]) -> None:
    """What becomes of an actor."""
    assert_type(await greeter.wait_stopped(), Exception | None)
    async with greeter.monitor() as events:
        async for event in events:
            assert_type(event, creche.MonitorEvent)


async def names(runtime: creche.Runtime, greeter: creche.Handle[Greeter]) -> None:
    """Names and groups are typed by what is asked for."""
    assert_type(runtime.whereis("x"), creche.Handle[Any] | None)
    assert_type(runtime.whereis("x", Greeter), creche.Handle[Greeter] | None)
    assert_type(runtime.names.whereis("x", Greeter), creche.Handle[Greeter] | None)
    assert_type(runtime.groups.members("x", Greeter), tuple[creche.Handle[Greeter], ...])
    runtime.names.register("x", greeter)
    runtime.groups.join("x", greeter)
    async with runtime.names.watch("x") as holders:
        assert_type(await holders.receive(), creche.Handle[Any] | None)
    async with runtime.groups.watch("x") as changes:
        assert_type((await changes.receive()).joined, tuple[creche.Handle[Any], ...])
