"""Runs of actors in virtual time, in an order that follows from a seed: the same each time, in each process."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import fields
from functools import partial, wraps
from typing import TypeVar, TypeVarTuple

import trio

from ..runtime.errors import SpecInvalid
from ..runtime.events import Event
from ..runtime.runtime import Runtime
from ..runtime.scheduling import Order
from ..runtime.simulation import BlockingTime, Simulation, up_to_ten_milliseconds

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_ADDRESS = re.compile(r"\b0x[0-9a-f]{4,}\b")
_IN_THE_LEAD = ("time", "path", "incarnation")
_TOO_LONG = ("detail", "stack")  # tracebacks: many lines, with places in files


class Trace:
    """What happened in the runtimes that it follows, as `lines` that runs of one seed have in common to the letter.

    A line has the time in seconds, the runtime and path, the incarnation, the event and its fields; tracebacks are left
    out and memory addresses are blanked. ``str()`` is all of it.

    Parameters
    ----------
    steps
        Record each step of each of Trio's tasks as well. Two runs that differ show where they begin to. For `run` only.
    """

    def __init__(self, *, steps: bool = False) -> None:
        self.steps = steps
        self._lines: list[str] = []
        self._unwritten: list[tuple[float, str, Event | None]] = []  # time, runtime or text, event
        self._facts: dict[type[Event], list[str]] = {}  # of each kind of event

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def lines(self) -> list[str]:
        """So far. They are written when somebody asks, for most traces are never looked at; events do not change."""
        unwritten, self._unwritten = self._unwritten, []
        for time, text, event in unwritten:
            told = text if event is None else self._told(text, event)
            self._lines.append(f"{time:.6f} {_ADDRESS.sub('0x?', told) if '0x' in told else told}")
        return self._lines

    @property
    def digest(self) -> str:
        """A hash of all lines: equal for equal traces."""
        return hashlib.sha256(str(self).encode("utf-8", "backslashreplace")).hexdigest()

    def follow(self, runtime: Runtime) -> Callable[[], None]:
        """Record the runtime's events from now on. Returns a function that ends it.

        `run` does this for all runtimes that are opened in it, from their first event.
        """
        return runtime.events.subscribe(partial(self._record, runtime.name))

    def note(self, text: str) -> None:
        """Add a line of the test's own, such as what became of a call. To be called inside of a Trio run."""
        self._unwritten.append((trio.current_time(), text, None))

    def _record(self, runtime_name: str, event: Event) -> None:
        self._unwritten.append((event.time, runtime_name, event))

    def _told(self, runtime_name: str, event: Event) -> str:
        facts = [f"{name}={getattr(event, name)!r}" for name in self._facts_of(type(event))]
        return " ".join([f"{runtime_name}:{event.path}#{event.incarnation}", event.kind, *facts])

    def _facts_of(self, kind: type[Event]) -> list[str]:
        if kind not in self._facts:
            left_out = {*_IN_THE_LEAD, *_TOO_LONG}
            self._facts[kind] = [field.name for field in fields(kind) if field.name not in left_out]
        return self._facts[kind]


class _Steps(trio.abc.Instrument):
    """Puts each step into a trace. Tasks are numbered as they are spawned, for many have one name."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._spawned = 0
        self._numbers: dict[trio.lowlevel.Task, int] = {}  # of the living

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self._spawned += 1
        self._numbers[task] = self._spawned

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._trace.note(f"task {self._numbers[task]} {task.name}")

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        del self._numbers[task]


def run(
    async_fn: Callable[[*Ts], Awaitable[R]],
    *args: *Ts,
    seed: int = 0,
    trace: Trace | None = None,
    blocking: BlockingTime = up_to_ten_milliseconds,
) -> R:
    """Run ``async_fn(*args)`` under Trio in virtual time, in an order that follows from `seed`. Returns its value.

    The promise: same seed, code, Python and Trio give the same events in the same order, in another process too. The
    clock starts at 0 and jumps ahead whenever all tasks wait. The runtimes that are opened inside, at whatever depth,
    draw from the seed, each a stream of its own unless it is given a seed itself, and run blocking code inline. The
    module `random` is seeded, too.

    Parameters
    ----------
    seed
        Any whole number. Another seed gives another order of tasks, other jitter, other delays.
    trace
        Records the runtimes that are opened inside, from their first event.
    blocking
        How long `Runtime.run_blocking` takes: is called with a `random.Random` for each call and returns seconds of
        virtual time. The code runs at a moment within them that is drawn evenly. Default: evenly from 0 to 0.01.

    Raises
    ------
    NotDeterministic
        Nothing has been started: the self-test, which precedes each run, finds that Trio's order of tasks does not
        follow from the seed, or that virtual time does not jump as it should; or the call comes from inside a Trio run;
        or another thread is in such a run.
    ImportError
        Hypothesis is not installed. It is needed because Trio lets itself be seeded by Hypothesis only.
    SpecInvalid
        `seed` is no whole number.

    Whatever `async_fn` raises comes out as it is. In any case Trio's Random and the module `random` get back the state
    that they had before.
    """
    return run_in(Order(), partial(async_fn, *args), seed, trace, blocking)


def run_in(
    order: Order,
    async_fn: Callable[[], Awaitable[R]],
    seed: int,
    trace: Trace | None,
    blocking: BlockingTime = up_to_ten_milliseconds,
) -> R:
    """As `run`, but for the self-test: that was made with the `order`, once for many runs."""
    if type(seed) is not int:
        raise SpecInvalid("seed", seed, "a whole number")
    stream = f"creche {seed}"
    simulation = Simulation(stream, blocking, (lambda _: None) if trace is None else trace.follow)
    steps = [_Steps(trace)] if trace is not None and trace.steps else []
    with order.follows(stream):
        return simulation.run(async_fn, *steps)


def seeds(
    some: int | Iterable[int], *, blocking: BlockingTime = up_to_ten_milliseconds
) -> Callable[[Callable[..., Awaitable[object]]], Callable[..., None]]:
    """For pytest: an ``async def test_...`` is run by `run` once for each seed, of which each is a test of its own.

    ::

        @testing.seeds(100)
        async def test_no_visitor_is_forgotten() -> None: ...

    Parameters
    ----------
    some
        How many, from 0 on, or which.

    Fixtures are given to the test as ever, but none that needs a running Trio, such as pytest-trio's. An argument
    ``seed`` gets the seed if the test has one.
    """

    def decorate(test: Callable[..., Awaitable[object]]) -> Callable[..., None]:
        import pytest

        wanted = list(inspect.signature(test).parameters.values())
        takes_seed = any(parameter.name == "seed" for parameter in wanted)

        @wraps(test)
        def run_test(*args: object, seed: int, **kwargs: object) -> None:
            given = {**kwargs, "seed": seed} if takes_seed else kwargs
            run(partial(test, *args, **given), seed=seed, blocking=blocking)

        seed_parameter = inspect.Parameter("seed", inspect.Parameter.KEYWORD_ONLY)
        signature = inspect.Signature([*(one for one in wanted if one.name != "seed"), seed_parameter])
        setattr(run_test, "__signature__", signature)  # noqa: B010  # what pytest reads
        del run_test.__wrapped__  # else pytest-trio takes it for asynchronous
        mark = pytest.mark.parametrize("seed", range(some) if isinstance(some, int) else list(some))
        marked: Callable[..., None] = mark(run_test)
        return marked

    return decorate
