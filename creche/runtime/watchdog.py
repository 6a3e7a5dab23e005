"""The watchdog: a thread that notices when nothing else can, because something does not come to a checkpoint.

Theory of operation
-------------------
Code that computes for too long, or blocks, in a task holds up the whole loop, timers included; only another thread can
tell. It sends a question into the loop (`run_sync_soon`) and waits for the answer. If none comes within `stall_after`
seconds it looks at the stack of the loop's thread and at which actor's coroutine is running, and reports both at once,
for the loop may never come back; when it does, the runtime emits the event, `LoopStalled`.

Real time counts, whatever clock the run has: in virtual time the loop answers all the same. A process that was
suspended is not stalled: then this thread has slept for too long as well, and the process has used no processor. (It
may also have been held up by code that does not let go of Python's lock; that uses the processor.)

What the thread reads in the tree may change under its eyes: it is a report, and what cannot be read is left out. The
thread is a daemon, and ends with its runtime.
"""

from __future__ import annotations

import inspect
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from . import events
from .ambient import System
from .checks import require, require_number
from .errors import SpecInvalid
from .unraisable import report_unraisable

if TYPE_CHECKING:
    from .node import Node
    from .runtime import Runtime

_SLACK = 0.1  # seconds: how late a thread may wake on a busy machine
_NOBODY = ("", 0, "")
_UNKNOWN = "(it held Python's lock meanwhile: where it stood is not known)\n"


@dataclass(frozen=True, slots=True)
class Watchdog:
    """How a runtime watches its event loop.

    Parameters
    ----------
    stall_after
        For how many seconds nothing may come to a checkpoint. Real time.
    report
        Called with a text for people as soon as a stall is noticed, in the watchdog's thread: it must not touch Trio.
        Default: it is printed to standard error, for a log whose writer is an actor stands still as well.
    """

    stall_after: float = 2.0
    report: Callable[[str], object] | None = None

    def __post_init__(self) -> None:
        require_number(self, "stall_after")
        require(self, "stall_after", 0 < self.stall_after < float("inf"), "a number of seconds above 0")
        require(self, "report", self.report is None or callable(self.report), "a function that takes a text")


def require_watchdog(value: object) -> None:
    """Raise `SpecInvalid` unless it is a `Watchdog` or None."""
    if value is not None and not isinstance(value, Watchdog):
        raise SpecInvalid("watchdog", value, "creche.Watchdog(stall_after=seconds), or None")


class WatchdogThread:
    """See above. Made and stopped in the loop's thread."""

    def __init__(self, runtime: Runtime, rules: Watchdog) -> None:
        self._runtime = runtime
        self._rules = rules
        self._system = System()
        self._token = trio.lowlevel.current_trio_token()
        self._loop_thread = threading.get_ident()
        self._answered = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"creche watchdog of {runtime.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. It waits for nothing but for this, so it ends at once, unless it is reporting."""
        self._over.set()
        self._answered.set()
        self._thread.join(self._rules.stall_after)

    # --- in the thread ----------------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            while not self._over.wait(self._rules.stall_after):
                self._ask()
        except trio.RunFinishedError:
            pass  # there is nothing to watch any more

    def _ask(self) -> None:
        self._answered.clear()
        asked, used = self._system.stopwatch(), self._system.processor()
        self._token.run_sync_soon(self._answered.set)
        if self._answered.wait(self._rules.stall_after):
            return
        late = self._system.stopwatch() - asked - self._rules.stall_after
        if late > _SLACK and self._system.processor() - used < late / 2:
            return  # the whole process has stood still: ask again
        stack = self._stack()
        path, incarnation, message = self._who()
        if self._answered.is_set():  # in this very moment: what has been read is of something else
            if late <= _SLACK:
                return
            stack, (path, incarnation, message) = _UNKNOWN, _NOBODY
        self._report(
            f"the event loop stands still for {self._system.stopwatch() - asked:.1f} s{_at(path, message)}\n{stack}"
        )
        self._answered.wait()
        if not self._over.is_set():
            seconds = self._system.stopwatch() - asked
            self._token.run_sync_soon(partial(self._tell, path, incarnation, message, seconds, stack))

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]
        return "" if frame is None else "".join(traceback.format_stack(frame))

    def _who(self) -> tuple[str, int, str]:
        try:
            return _running(self._runtime.root) or _NOBODY
        except RuntimeError:  # something has changed while it was looked at
            return _NOBODY

    def _report(self, text: str) -> None:
        report = self._rules.report or _print
        try:
            report(text)
        except Exception as error:
            report_unraisable(error, "Exception ignored in the report of a creche watchdog", report)

    # --- in the loop ------------------------------------------------------------------------------

    def _tell(self, path: str, incarnation: int, message: str, seconds: float, stack: str) -> None:
        hub = self._runtime.events
        if hub.on:
            hub.emit(events.LoopStalled(trio.current_time(), path, incarnation, message, seconds, stack))


def _print(text: str) -> None:
    sys.stderr.write(f"creche: {text}\n")
    sys.stderr.flush()


def _at(path: str, message: str) -> str:
    return "" if not path else f" in {path}" + (f", in the handler of {message}" if message else "")


def _running(node: Node) -> tuple[str, int, str] | None:
    """Of the node, or the one below it, whose code is running in this moment: path, incarnation and message."""
    for child in list(node.children()):
        found = _running(child)
        if found is not None:
            return found
    for task, message in node.at_work():
        if _runs(task):
            return node.path, node.incarnation, message
    return None


def _runs(task: trio.lowlevel.Task) -> bool:
    """Whether the code of a task, or of one in its nurseries, is what the thread of the loop is executing."""
    if inspect.getcoroutinestate(task.coro) == inspect.CORO_RUNNING:
        return True
    return any(_runs(child) for nursery in list(task.child_nurseries) for child in list(nursery.child_tasks))
