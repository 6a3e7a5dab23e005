"""The pytest plugin, beside pytest-trio.

In a conftest.py::

    pytest_plugins = ["creche.testing.plugin"]

and ``trio_mode = true`` in pytest's settings. Its fixtures:

runtime
    An open runtime in virtual time. When the test has ended, it stops, and whatever the test leaves behind (a thread, a
    socket, a task, a channel with something in it) is an error.
creche_opening
    What opens it: a function without arguments. A project overrides it by a fixture that returns ``app.open``.
faults
    Lets actors of that runtime crash, be late, hang, or be refused a start; see `Faults`.
recorder
    All events of that runtime; see `Recorder`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pytest
import trio
from trio.abc import Clock, Instrument
from trio.testing import MockClock

from ..runtime.errors import SpecInvalid
from ..runtime.interposition import interposed
from ..runtime.node import Node
from ..runtime.runtime import Runtime
from ..runtime.spec import Bindable
from ..supervisors.app import Running
from ..supervisors.opening import open_runtime
from .faults import Crash, Delay, Hang, InHandler, RefuseStart
from .injector import Injector
from .leaks import leaks_since, look_around, tasks_since
from .recorder import Recorder

R = TypeVar("R")
Message = Callable[..., Awaitable[object]] | str
Opening = Callable[[], AbstractAsyncContextManager[Runtime | Running]]


class Faults:
    """Faults in actors of the fixture `runtime`.

    A target is the handle or the path of an actor; or of a pool, whose messages are counted whichever of the workers
    that it has now handles them. Each item of a batch is a message.

    Raises `SpecInvalid` for what could never strike: a supervisor, an actor of another runtime or one that has stopped
    for good, a path where nothing is, what is no message of the actor.
    """

    def __init__(self, injector: Injector, runtime: Runtime) -> None:
        self._injector = injector
        self._runtime = runtime

    def crash_at(self, target: object, nth: int = 1, message: Message | None = None, *, after: bool = False) -> None:
        """The `nth` message from now on, of those named `message` if one is given, crashes its handler.

        Before it begins, or `after` it has done its work.
        """
        self._arm(target, Crash(_name(message), nth, after))

    def delay(self, target: object, seconds: float, message: Message | None = None, *, nth: int = 1) -> None:
        """That handler begins `seconds` late."""
        self._arm(target, Delay(seconds, _name(message), nth))

    def hang(self, target: object, message: Message | None = None, *, nth: int = 1) -> None:
        """That handler does not begin before `release`."""
        self._arm(target, Hang(float("inf"), _name(message), nth))

    def refuse_start(self, target: object, times: int = 1) -> None:
        """So many next incarnations fail to start, of an actor. A path may be that of one to come."""
        path = self._path_to_come(target)
        if path is None:
            node = self._node_of(target)
            if node.intake is not node:
                what = "a supervisor" if node.intake is None else "a pool"
                raise SpecInvalid("target", target, f"{what} is not refused a start, but {_an_actor_of(node)} may be")
            path = node.path
        self._injector.arm(path, RefuseStart(times))

    def release(self) -> None:
        """What hangs goes on, and what has not struck never will."""
        self._injector.disarm()

    def _arm(self, target: object, fault: InHandler) -> None:
        node = self._node_of(target)
        intake = node.intake
        if intake is None:
            raise SpecInvalid("target", target, f"a supervisor handles no messages: name {_an_actor_of(node)}")
        if fault.message is not None and fault.message not in intake.messages:
            known = ", ".join(sorted(intake.messages)) or "none"
            raise SpecInvalid("message", fault.message, f"a message of {node.path}, of which there are: {known}")
        takers = (node,) if intake is node else node.children()
        self._injector.arm_together([taker.path for taker in takers], fault)

    def _node_of(self, target: object) -> Node:
        if not isinstance(target, (str, Bindable)):
            raise SpecInvalid("target", target, "the handle of an actor, or its path, as in 'root/till'")
        try:
            node = self._runtime.node_of(target)
        except KeyError:
            begin = f"{self._runtime.root.path}/"
            raise SpecInvalid(
                "target", target, f"nothing is there (paths begin with {begin!r}): start it first"
            ) from None
        if node.runtime is not self._runtime:
            fix = f"it is of another runtime, {node.runtime.name!r}: name an actor of the fixture's"
            raise SpecInvalid("target", target, fix)
        if node.final:
            raise SpecInvalid("target", target, "it has stopped for good: name one that runs")
        return node

    def _path_to_come(self, target: object) -> str | None:
        """The path itself, if it is one of an actor that is not there yet."""
        root = self._runtime.root.path
        if not isinstance(target, str) or not target.startswith(f"{root}/"):
            return None
        try:
            return target if self._runtime.node_of(target).final else None
        except KeyError:
            return target


def _name(message: object) -> str | None:
    if message is None or isinstance(message, str):
        return message
    if not inspect.isfunction(message):
        raise SpecInvalid("message", message, "a message, as in Till.sell, or its name")
    return message.__name__


def _an_actor_of(supervisor: Node) -> str:
    """For people: which actor below it they may name."""
    node = supervisor
    while node.children():
        node = node.children()[0]
    return "an actor below it" if node.intake is None else f"an actor below it, as in {node.path!r}"


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Tests with a `runtime` run in virtual time, unless they ask for a clock of their own.

    pytest-trio takes a clock from a test's own arguments only, not from what a fixture asks for; but it lets a mark say
    what runs a test. A plain function with a `runtime` has one of its own project.
    """
    for item in items:
        if "runtime" in getattr(item, "fixturenames", ()) and _is_async(item):
            item.add_marker(pytest.mark.trio(run=partial(_run_in_virtual_time, item)))


def _is_async(item: pytest.Item) -> bool:
    test: Any = getattr(item, "obj", None)
    if hasattr(test, "hypothesis"):
        test = test.hypothesis.inner_test
    return inspect.iscoroutinefunction(test)


@dataclass(frozen=True)
class _End:
    """How a test's run has ended."""

    failed: bool = False
    tasks: tuple[str, ...] = ()  # what it has left behind


_END = pytest.StashKey[_End]()


def _run_in_virtual_time(
    item: pytest.Item,
    async_fn: Callable[[], Awaitable[R]],
    *,
    clock: Clock | None = None,
    instruments: Sequence[Instrument] = (),
) -> R:
    async def run() -> R:
        """Around the test and all of its asynchronous fixtures: a task that is left belongs to none of them."""
        before = look_around(channels=False)
        failed = True
        try:
            value = await async_fn()
            failed = False
            return value
        finally:
            item.stash[_END] = _End(failed, await tasks_since(before))

    own = MockClock(autojump_threshold=0) if clock is None else clock
    return trio.run(run, clock=own, instruments=instruments)


@pytest.fixture
def _injector() -> Injector:
    return Injector()


@pytest.fixture
def _surroundings(request: pytest.FixtureRequest) -> Generator[None]:
    """From before the runtime opens until after it has closed."""
    test: pytest.Item = request.node
    test.stash[_END] = _End()
    before = look_around()
    yield
    end = test.stash[_END]
    left = replace(leaks_since(before, channels=not end.failed), tasks=end.tasks)
    if end.failed:  # what the test had may be held by its traceback only
        left = replace(left, descriptors=())
    assert not left, f"the test has left behind {left}"


@pytest.fixture
def creche_opening() -> Opening:
    """See the module."""
    return partial(open_runtime, "test")


@pytest.fixture
async def runtime(_surroundings: None, _injector: Injector, creche_opening: Opening) -> AsyncGenerator[Runtime]:
    """See the module."""
    with interposed(_injector):
        opening = creche_opening()
    async with opening as opened:
        runtime = opened.runtime if isinstance(opened, Running) else opened
        if runtime.interposer is not _injector:
            raise SpecInvalid(
                "creche_opening", creche_opening, "it must make the runtime when called, as app.open does"
            )
        yield runtime
        _injector.disarm()
    assert not runtime.unstopped, f"did not stop: {runtime.unstopped}"


@pytest.fixture
def faults(runtime: Runtime, _injector: Injector) -> Faults:
    """See the module."""
    return Faults(_injector, runtime)


@pytest.fixture
def recorder(runtime: Runtime) -> Generator[Recorder]:
    """See the module."""
    with Recorder(runtime) as recording:
        yield recording
