"""Actors and helpers that the tests of the core and of the supervisors share."""

from __future__ import annotations

import gc
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar, cast

import trio
import trio.testing

import creche
from creche.runtime.cell import Cell
from creche.runtime.events import Event
from creche.runtime.node import Node, State

A = TypeVar("A", bound=creche.Actor)
T = TypeVar("T")

LONG = 10_000.0  # seconds of virtual time: longer than anything that a test may wait for


class Boom(Exception):
    """The defect of these tests: no actor declares it."""


class Gate:
    """A place where a handler stands until it is let go."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.opened = trio.Event()

    async def hold(self) -> None:
        self.entered.set()
        await self.opened.wait()


class Flag:
    """A lease that knows whether it is still good."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name
        self.valid = True

    def revoke(self) -> None:
        self.valid = False
        self.log.append(f"revoked {self.name}")


class Probe(creche.Actor):
    """An actor whose handlers are given by the test."""

    def __init__(self, log: list[str] | None = None) -> None:
        self.log = [] if log is None else log
        self.count = 0

    async def note(self, word: str) -> str:
        self.log.append(word)
        return word

    async def add(self) -> int:
        self.count += 1
        return self.count

    async def life(self) -> int:
        return self.context.incarnation

    async def crash(self, text: str = "boom") -> None:
        raise Boom(text)

    async def run(self, body: Callable[[Probe], Awaitable[T]]) -> T:
        return await body(self)

    async def hold(self, gate: Gate, word: str = "held") -> str:
        await gate.hold()
        self.log.append(word)
        return word

    @creche.message(on_caller_gone="cancel")
    async def wait(self, gate: Gate, word: str = "waited") -> str:
        await gate.hold()
        self.log.append(word)
        return word

    @creche.message(on_caller_gone="cancel")
    async def run_for_caller(self, body: Callable[[Probe], Awaitable[T]]) -> T:
        return await body(self)

    @creche.message(raises=Boom)
    async def refuse(self, text: str = "no") -> None:
        raise Boom(text)


class Reply:
    """What became of one `await` in a task of its own."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.what = "pending"  # or "value", "cancelled", or the name of the error's class
        self.value: Any = None
        self.error: Exception | None = None

    async def settled(self) -> str:
        await self.done.wait()
        return self.what

    async def follow(self, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            with self.scope:
                self.value = await fn(*args)
                self.what = "value"
            if self.scope.cancelled_caught:
                self.what = "cancelled"
        except Exception as error:
            self.what, self.error = type(error).__name__, error
        finally:
            self.done.set()


def asking(nursery: trio.Nursery, fn: Callable[..., Awaitable[Any]], *args: Any) -> Reply:
    """Await `fn(*args)` in a task of its own."""
    reply = Reply()
    nursery.start_soon(reply.follow, fn, args)
    return reply


def recorded(runtime: creche.Runtime) -> list[Event]:
    """All events from now on."""
    seen: list[Event] = []
    runtime.events.subscribe(seen.append)
    return seen


def kinds(seen: list[Event], path: str) -> list[str]:
    """The kinds of the events of one node, in order."""
    return [event.kind for event in seen if event.path == path]


def cell_of(target: object) -> Cell:
    """The cell behind a handle."""
    return cast("Cell", cast("Any", target)._node)


def reach(runtime: creche.Runtime, path: str, cls: type[A]) -> creche.Handle[A]:
    """A handle to a static child."""
    return creche.Handle(path, cast("Cell", runtime.node_of(path)))


async def becomes(node: Node, *states: State) -> State:
    """Wait until a node is in one of `states`."""
    return await node.wait_for(*states)


async def settle() -> None:
    """Let everything run that can run without time going on."""
    await trio.testing.wait_all_tasks_blocked()


@contextmanager
def hang_guard(seconds: float = 10.0) -> Iterator[None]:
    """Fail instead of hanging. Real time, far above what a test takes.

    A shield holds off every timeout that Trio has, so all cancel scopes are unshielded and cancelled; whoever does not
    even reach a checkpoint is interrupted where he stands.
    """
    alarms: list[int] = []

    def give_up(number: int, _frame: FrameType | None) -> None:
        alarms.append(number)
        if len(alarms) > 1 or not trio.lowlevel.in_trio_run():
            raise TimeoutError(f"hung for {seconds:g} s")
        trio.lowlevel.current_trio_token().run_sync_soon(_cancel_everything)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if alarms:
        raise TimeoutError(f"hung for {seconds:g} s")


def _cancel_everything() -> None:
    for thing in gc.get_objects():
        if isinstance(thing, trio.CancelScope):
            thing.shield = False
            thing.cancel()
