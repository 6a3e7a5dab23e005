"""The pytest plugin, beside pytest-trio.

In a conftest.py::

    pytest_plugins = ["creche.testing.plugin"]

and ``trio_mode = true`` in pytest's settings. Its fixtures:

runtime
    An open runtime in virtual time. When the test has ended, it stops, and whatever the test leaves behind (a thread, a
    socket, a task, a channel with something in it) is an error.
faults
    Lets actors of that runtime crash, be late, hang, or be refused a start; see `Faults`.
recorder
    All events of that runtime; see `Recorder`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from typing import Any, TypeVar

import pytest
import trio
from trio.abc import Clock, Instrument
from trio.testing import MockClock

from ..runtime.interposition import interposed
from ..runtime.runtime import Runtime
from ..supervisors.opening import open_runtime
from .faults import Crash, Delay, Hang, InHandler, RefuseStart
from .injector import Injector
from .leaks import leaks_since, look_around
from .recorder import Recorder

R = TypeVar("R")
Message = Callable[..., Awaitable[object]] | str


class Faults:
    """Faults in actors of the fixture `runtime`. A target is a handle or a path."""

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
        """So many next incarnations fail to start. A path may be that of an actor to come."""
        path = target if isinstance(target, str) else self._runtime.node_of(target).path
        self._injector.arm(path, RefuseStart(times))

    def release(self) -> None:
        """What hangs goes on, and what has not struck never will."""
        self._injector.disarm()

    def _arm(self, target: object, fault: InHandler) -> None:
        self._injector.arm(self._runtime.node_of(target).path, fault)


def _name(message: Message | None) -> str | None:
    return message if message is None or isinstance(message, str) else message.__name__


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Tests with a `runtime` run in virtual time, unless they ask for a clock of their own.

    pytest-trio takes a clock from a test's own arguments only, not from what a fixture asks for; but it lets a mark say
    what runs a test. A plain function with a `runtime` has one of its own project.
    """
    for item in items:
        if "runtime" in getattr(item, "fixturenames", ()) and _is_async(item):
            item.add_marker(pytest.mark.trio(run=_run_in_virtual_time))


def _is_async(item: pytest.Item) -> bool:
    test: Any = getattr(item, "obj", None)
    if hasattr(test, "hypothesis"):
        test = test.hypothesis.inner_test
    return inspect.iscoroutinefunction(test)


def _run_in_virtual_time(
    async_fn: Callable[[], Awaitable[R]], *, clock: Clock | None = None, instruments: Sequence[Instrument] = ()
) -> R:
    own = MockClock(autojump_threshold=0) if clock is None else clock
    return trio.run(async_fn, clock=own, instruments=instruments)


@pytest.fixture
def _injector() -> Injector:
    return Injector()


@pytest.fixture
def _surroundings() -> Generator[None]:
    """From before the runtime opens until after it has closed."""
    before = look_around()
    yield
    left = leaks_since(before)
    assert not left, f"the test has left behind {left}"


@pytest.fixture
async def runtime(_surroundings: None, _injector: Injector) -> AsyncGenerator[Runtime]:
    """See the module."""
    with interposed(_injector):
        opening = open_runtime("test")
    async with opening as opened:
        yield opened
        _injector.disarm()
    assert not opened.unstopped, f"did not stop: {opened.unstopped}"


@pytest.fixture
def faults(runtime: Runtime, _injector: Injector) -> Faults:
    """See the module."""
    return Faults(_injector, runtime)


@pytest.fixture
def recorder(runtime: Runtime) -> Generator[Recorder]:
    """See the module."""
    with Recorder(runtime) as recording:
        yield recording
