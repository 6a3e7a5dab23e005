"""Cancel an operation at each of its checkpoints, and prove each time that nothing leaked.

A *scenario* sets the stage, awaits the operation through the `Strike` that it is given, and looks at what is left::

    def test_get_is_cancelled_everywhere() -> None:
        async def scenario(strike: Strike) -> None:
            async with creche.open_runtime("t") as runtime:
                cache = await runtime.start(c.cache.component())
                end = await strike.cancel(cache.get, "key")
                assert end.what in ("value", "cancelled")
                assert await cache.get("other") is None
                await prove_idle(runtime)

        everywhere(scenario)

How it works
------------
`everywhere` runs the scenario again and again, each time in a Trio run of its own: the n-th run strikes at the n-th
*moment* of the operation, until there is a run in which the operation is over before its n-th moment. The operation is
one task; a public `trio.abc.Instrument` sees all steps of all tasks between its first and its last. The moments are

* *before step k* of the operation: it has been rescheduled, so what it waited for has happened, but it has not run yet.
  Such a cancel is late: it comes out at the next checkpoint, if there is one. Before step 1 it has not even begun.
* *after step k* of the operation: it has just parked, or it yields at a checkpoint. The cancel takes it out at once.
* *before and after a step of another task*: the operation is where it was, the world around it moves on. A caller parks
  once for a whole call, while its request is queued, runs and unwinds.

All runs have the same order of tasks up to the strike (see `creche.testing`), so the n-th moment is one definite moment
and a failure comes back; `orders` says how many different orders are tried. Time is virtual, and what is given to
`runtime.run_blocking` runs inline. Where real threads or sockets are at work, which a virtual clock takes for idleness,
say `virtual=False`; then the moments of two runs may differ a little, which harms nothing.

`Strike.hit` does something else than a cancel at the moment, such as a kill. `Strike.armed` is for operations that are
no Trio task, `in_each_run` for what calls `trio.run` itself. `prove_idle` proves that a runtime is as idle as a fresh
one. `everywhere` proves for each run that no task, file descriptor or thread is left, that no runtime, actor or request
is still alive, that nothing went to `sys.unraisablehook`, and that the run did not hang.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import trio

import creche
from creche.runtime.agenda import Alarm
from creche.runtime.cell import Cell
from creche.runtime.companion import Companion
from creche.runtime.envelope import Request
from creche.runtime.mailbox import Mark
from creche.runtime.node import Node, State
from creche.runtime.scheduling import find_trios_random
from creche.runtime.simulation import Simulation, up_to_ten_milliseconds
from creche.supervisors.supervisor import Supervisor
from tests.core.support import Reply, hang_guard, settle

FOREVER = 1e7  # seconds of virtual time in which each run must be over
MOST = 3000  # moments: an operation that has more does not end
MORTAL = (creche.Runtime, creche.Actor, Node, Request)  # nothing of a run may outlive it; what does, holds one of these
Look = Callable[[], object]


class End(Reply):
    """What became of the operation: `what`, and `value` or `error`."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Any = None  # what `look` returned at the moment of the strike; at the end, if there was none


class Strike:
    """A blow at the `moment`-th moment of one operation, counted from 1. Each is used once."""

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.used = False
        self.struck = False  # whether the operation had so many moments
        self.where = "not struck"
        self.what = ""  # the `End.what` of the operation

    async def cancel(self, operation: Callable[..., Awaitable[object]], *args: Any, look: Look = lambda: None) -> End:
        """Await `operation(*args)` in a task of its own, and cancel it at the moment.

        `look` is called just before: it should note what the world looks like, without touching it.
        """
        return await self.hit(None, operation, *args, look=look)

    async def hit(
        self,
        blow: Callable[[], object] | None,
        operation: Callable[..., Awaitable[object]],
        *args: Any,
        look: Look = lambda: None,
    ) -> End:
        """As `cancel`, with another blow: a synchronous function, called between two steps of the scheduler."""
        end = End()
        moments = _Moments(self, end, blow or end.scope.cancel, look)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.follow, operation, args)
            (moments.task,) = nursery.child_tasks
            with self._watching(moments):
                await end.done.wait()
        moments.raise_failure()
        return end

    @contextmanager
    def armed(self, blow: Callable[[], object], look: Look = lambda: None) -> Iterator[End]:
        """For an operation that is no Trio task: strike after the `moment`-th step of any task in the block."""
        end = End()
        moments = _Moments(self, end, blow, look)
        with self._watching(moments):
            yield end
        moments.raise_failure()

    @contextmanager
    def _watching(self, moments: _Moments) -> Iterator[None]:
        assert not self.used, "one operation for each strike"
        self.used = True
        trio.lowlevel.add_instrument(moments)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(moments)
            self.what = moments.end.what
            if not self.struck:
                moments.end.seen = moments.look()


class _Moments(trio.abc.Instrument):
    """Counts the moments of one operation and strikes at the right one."""

    def __init__(self, strike: Strike, end: End, blow: Callable[[], object], look: Look) -> None:
        self.end = end
        self.look = look
        self.task: trio.lowlevel.Task | None = None  # the operation's
        self._strike = strike
        self._blow = blow
        self._left = strike.moment
        self._step = 0  # of the operation's task
        self._pass_begins = False
        self._failure: BaseException | None = None

    def after_io_wait(self, timeout: float) -> None:
        self._pass_begins = True

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        mine = task is self.task
        # Within a pass, "before" is the same moment as "after" the step that came last.
        if self._pass_begins or (mine and not self._step):
            self._moment("before", task, self._step + mine)
        self._pass_begins = False
        self._step += mine

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._moment("after", task, self._step)

    def _moment(self, side: str, task: trio.lowlevel.Task, step: int) -> None:
        if self.end.done.is_set() or (self.task is not None and not step):
            return
        self._left -= 1
        if self._left == 0:
            of_another = "" if task is self.task else f"a step of {task.name}, after "
            self._strike.struck = True
            self._strike.where = f"{side} {of_another}step {step} of the operation"
            try:
                self.end.seen = self.look()
                self._blow()
            except BaseException as error:  # Trio would log it and go on without the instrument
                self._failure = error

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


# --- the runs ---------------------------------------------------------------------------------------------------------


def everywhere(
    scenario: Callable[..., Awaitable[object]], *args: Any, virtual: bool = True, orders: int = 1
) -> Counter[str]:
    """Run `scenario(strike, *args)` once for each moment of its operation, and once without a strike.

    Returns how often the operation ended in which way: the values of `End.what`. What a run raises comes out with a
    note that tells its moment.

    Parameters
    ----------
    virtual
        Whether time is virtual (see above).
    orders
        How many orders of the scheduler's tasks to try.
    """

    def run(strike: Strike) -> None:
        if virtual:
            # As `creche.testing.run`, whose self-test would take longer than the rest if it came before each run.
            simulation = Simulation("everywhere", up_to_ten_milliseconds, lambda _: None)
            simulation.run(partial(_in_time, scenario, strike, args))
        else:
            trio.run(_in_time, scenario, strike, args)

    return in_each_run(run, orders=orders)


def in_each_run(run: Callable[[Strike], object], *, orders: int = 1) -> Counter[str]:
    """As `everywhere`, for what calls `trio.run` itself: `run(strike)` does, once."""
    ends: Counter[str] = Counter()
    with _order_given_back() as of_trio, _crashes_unlogged(), _small_heap(), _all_errors_told() as untold:
        for order in range(orders):
            for strike in moments():
                of_trio.seed(f"order {order}")
                with _noted(strike, order), hang_guard(), _nothing_left(untold):
                    run(strike)
                ends[strike.what] += 1
    return ends


@contextmanager
def _order_given_back() -> Iterator[random.Random]:
    """The Random that Trio's order of tasks follows."""
    of_trio = find_trios_random()
    before = of_trio.getstate()
    try:
        yield of_trio
    finally:
        of_trio.setstate(before)


def moments() -> Iterator[Strike]:
    """A strike for each moment of an operation, and one more that comes too late to hit.

    For scenarios that run in the Trio run of an async test: ``for strike in moments(): await scenario(strike)``.
    """
    for moment in range(1, MOST + 1):
        strike = Strike(moment)
        yield strike
        assert strike.used, "the scenario has not used its strike"
        if not strike.struck:
            return
    raise AssertionError(f"the operation is not over after {MOST} moments")


async def _in_time(scenario: Callable[..., Awaitable[object]], strike: Strike, args: tuple[Any, ...]) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    with trio.fail_after(FOREVER):
        await scenario(strike, *args)
    left = trio.lowlevel.current_statistics().tasks_living - before
    assert left == 0, f"{left} tasks are left"


# --- what must not be left --------------------------------------------------------------------------------------------


async def prove_idle(
    runtime: creche.Runtime, *, background: int = 0, timers: int = 0, unstopped: Collection[str] = ()
) -> None:
    """Assert that a runtime is as idle as a fresh one: all nodes run, and nothing is under way or kept for nobody.

    Waits until no task can run; time that has to pass first is the scenario's to sleep.

    Parameters
    ----------
    background, timers
        How many background tasks and how many timers its actors have when they are idle.
    unstopped
        The paths of those that may have been reported as such.
    """
    await settle()
    nodes = list(_nodes(runtime.root))
    _expect("states", {node.path: node.state for node in nodes}, {node.path: State.RUNNING for node in nodes})
    _prove_tasks(runtime, nodes, background)
    _prove_deadlines(runtime, timers)
    for node in nodes:
        if isinstance(node, Cell):
            _prove_cell(node)
        elif isinstance(node, Supervisor):
            _prove_supervisor(node)
    _expect("reported as unstopped", {report.path for report in runtime.unstopped} - set(unstopped), set())


def _expect(what: str, found: object, expected: object) -> None:
    assert found == expected, f"{what}: {found!r}, expected {expected!r}"


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children():
        yield from _nodes(child)


def _prove_tasks(runtime: creche.Runtime, nodes: list[Node], background: int) -> None:
    """In the tree's nurseries there is one task for each node, the one that waits for deadlines, and companions."""
    nurseries = [runtime.nursery, *(node.nursery for node in nodes if isinstance(node, Supervisor))]
    tasks = {task for nursery in nurseries for task in nursery.child_tasks}
    own = {node.task for node in nodes}
    assert own <= tasks, "a node runs outside of its supervisor"
    others = [task for task in tasks - own if not task.name.endswith("Deadlines.run")]
    companions = [node._companion for node in nodes if isinstance(node, Cell) and node._companion is not None]
    assert len(others) <= len(companions), f"tasks that belong to no incarnation: {others}"
    work = [task.name for other in others for nursery in other.child_nurseries for task in nursery.child_tasks]
    assert len(work) == background, f"background work: {work}"


def _prove_deadlines(runtime: creche.Runtime, timers: int) -> None:
    entries = [entry for _, _, entry in runtime.deadlines._heap]
    live = [entry for entry in entries if entry.live()]
    assert len(live) == timers, f"live deadlines: {live}, expected {timers} timers"
    assert all(isinstance(entry, Alarm) for entry in live), f"live deadlines: {live}, expected timers only"
    dead = len(entries) - len(live)
    _expect("count of dead deadlines, by which they are swept out", runtime.deadlines._dead, dead)


def _prove_cell(cell: Cell) -> None:
    mailbox, path = cell._mailbox, cell.path
    tombstones = sum(not isinstance(item, Mark) for item in mailbox.queue)
    _expect(f"mail of {path}", (cell.queued, mailbox.spill), (0, None))
    _expect(f"count of tombstones of {path}", (mailbox._dead, mailbox._dead_spilled), (tombstones, 0))
    _expect(f"count of marks of {path}", mailbox._marks, len(mailbox.queue) - tombstones)
    assert tombstones <= min(32, mailbox.capacity // 2), f"{tombstones} tombstones fill the mailbox of {path}"
    assert not getattr(mailbox, "_by_key", None), f"keys of no message are left at {path}"
    _expect(f"what {path} waits for", list(cell.waits_for()), [])
    _expect(f"stuck and refusal of {path}", (cell.stuck, cell.refusal), (False, None))
    _expect(f"in hand of {path}", (cell._current, cell._cast_in_hand), (None, None))
    _expect(f"in flight of {path}", cell.statistics().in_flight, 0)
    _expect(f"cause of death and patience of {path}", (cell._condemned, cell._patience), (None, None))
    if cell._companion is not None:
        _prove_companion(cell._companion, path)


def _prove_companion(companion: Companion, path: str) -> None:
    if companion.flights is not None:
        _expect(f"batch of {path}", companion.flights.batch, None)
        assert not any(companion.flights._busy.values()), f"concurrent messages of {path} are miscounted"
    if companion.agenda is not None:
        assert not companion.agenda, f"jobs are left in the lane of {path}"


def _prove_supervisor(node: Supervisor) -> None:
    busy_with = node._first_starts, node._start_errors, node._awaited, node._group
    assert not any(busy_with), f"{node.path} still starts or restarts children: {busy_with}"
    assert not node._pausing, f"{node.path} still pauses a group"
    assert set(node._dynamic) <= {child.name for child in node.children()}, f"{node.path} remembers who is gone"


def _alive() -> list[object]:
    """What was made in this run and is still reachable; see `_small_heap`."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), MORTAL)]


def _file_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def _threads() -> list[threading.Thread]:
    """All threads but Trio's idle workers, which it keeps for the next job."""
    return [thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")]


@contextmanager
def _nothing_left(untold: list[str]) -> Iterator[None]:
    files, threads = _file_descriptors(), _threads()
    yield
    for thread in _threads():
        if thread not in threads:
            thread.join(1)  # it may be about to end
    gc.collect()
    assert (_file_descriptors(), _threads()) == (files, threads), "file descriptors or threads are left"
    assert untold == [], f"unraisable errors: {untold}"
    assert (alive := _alive()) == [], f"{len(alive)} of a runtime's objects are still alive, among them {alive[:3]}"


@contextmanager
def _small_heap() -> Iterator[None]:
    """What exists already is put out of the garbage collector's sight: a collection after each run is cheap then."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _crashes_unlogged() -> Iterator[None]:
    """Pytest keeps what is logged, and with the traceback of a crash all that was alive in its frames."""
    logger = logging.getLogger("creche")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _all_errors_told() -> Iterator[list[str]]:
    """The errors that nobody could raise, such as of coroutines that were never awaited, as text."""
    untold: list[str] = []

    def note(unraisable: sys.UnraisableHookArgs) -> None:
        untold.append(f"{unraisable.err_msg}: {unraisable.exc_value!r}")

    before, sys.unraisablehook = sys.unraisablehook, cast("Any", note)
    try:
        yield untold
    finally:
        sys.unraisablehook = before


@contextmanager
def _noted(strike: Strike, order: int) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"struck at moment {strike.moment}, {strike.where} (order {order})")
        raise
