"""The restart loop, shared by actors and supervisors: what runs between two incarnations.

Theory of operation
-------------------
`live` is a node's one task. It loops: wait until a start is allowed (`_admitted`: no delay to sit out, the start gate
open), live one incarnation, and ask the parent what comes next. The question is asked synchronously in the same step in
which the incarnation is recorded as dead, so no cancel and no stop can fall between the two.

An incarnation that has nothing to unwind need not come back to this loop to be judged: a cell judges the crash of a
plain actor where it happens, and a supervisor ends an idle one in its own step (`end_now`). Then the node is in none of
the states of an incarnation (`ALIVE`) any more when `_incarnation` returns, and there is nothing left to decide.

The task parks in one place (`_park`) and is woken in one place (`wake`): whoever clears `_parked` reschedules, so it
happens once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

import trio
from trio.lowlevel import Abort, checkpoint, current_task, wait_task_rescheduled

from . import events
from .deadlines import Timer
from .errors import IncarnationEnded
from .node import (
    AGAIN,
    ALIVE,
    DOWN,
    DRAIN,
    NOTHING,
    PARK,
    PAUSE,
    REGROUP,
    RUNNING,
    STARTING,
    STOPPED,
    SUSPEND,
    WAITING,
    Node,
    State,
    Verdict,
    Want,
    full_text,
    one_line,
)

if TYPE_CHECKING:
    from .node import Parent
    from .runtime import Runtime
    from .spec import ChildOptions

NOT_YET = -1.0
_DOWN = (State.DOWN, State.PARKED)
CRASHES_PER_PASS = 16  # some 10 µs each: what others wait for them is bounded as by the messages per wake (measured)


class Life(Node):
    """A node with a task of its own."""

    __slots__ = ("_began", "_condemned", "_ending", "_exiting", "_held", "_parked", "_ready_at", "_restart_at", "_task")

    def __init__(self, runtime: Runtime, parent: Parent, name: str, options: ChildOptions) -> None:
        super().__init__(runtime, parent, name, options)
        self._task: trio.lowlevel.Task | None = None
        self._parked = False
        self._held = False  # the start gate is closed: the group is being restarted
        self._restart_at = NOT_YET
        self._began = self._ready_at = NOT_YET
        self._condemned: Exception | None = None  # why this incarnation must die
        self._exiting: int = False  # end without taking another message; a cell says more exactly why
        self._ending = False  # some reason to look whether another message may be taken

    # --- to be filled in --------------------------------------------------------------------------

    @abstractmethod
    def _incarnation(self) -> Coroutine[Any, Any, Exception | None]:
        """Live one life. Returns what it died of, or raises it; None if it was asked to end."""

    @abstractmethod
    def _crash_or_bug(self, error: Exception) -> Exception:
        """What `_incarnation` raised: the cause of a crash; if it can only be a bug of ours, it is raised again."""

    async def _wind_up(self, failure: Exception | None) -> Exception | None:
        """The incarnation has ended: see to what it leaves behind. Returns the cause that counts."""
        return failure

    @abstractmethod
    def _abandon(self) -> None:
        """The task is being cancelled from outside: answer for what is in hand."""

    @abstractmethod
    def _went_down(self, delay: float) -> None:
        """The node is down; it will be restarted in `delay` seconds, or, if held or suspended, when others say so."""

    @abstractmethod
    def _ended(self, cause: Exception | None) -> None:
        """The end for good: answer for everything."""

    # --- the task ---------------------------------------------------------------------------------

    def run(self) -> Coroutine[Any, Any, None]:
        """See `Node`."""
        return Life.live(lambda: self)

    @staticmethod
    async def live(next_up: Callable[[], Node | None]) -> None:
        """The task of a node. Which one, it asks when it begins to run; None: there is nobody left to live.

        Trio may run tasks in another order than they were made. Whoever starts several nodes in one go makes as many
        tasks and hands out the nodes in order.
        """
        life = cast("Life | None", next_up())
        if life is None:
            return
        del next_up
        life._task = current_task()
        try:
            while life._may_start() or await life._admitted():
                life._begin(trio.current_time())
                try:
                    failure = await life._incarnation()
                except Exception as error:
                    failure = life._crash_or_bug(error)
                if life.state in ALIVE:  # else its end has been judged in the moment when it came
                    life._after(await life._wind_up(failure), trio.current_time())
                del failure  # this frame is in its traceback: together they would make a cycle at each crash
                if life.state in _DOWN and life.streak % CRASHES_PER_PASS == 0:
                    # Whatever crashes in a row and awaits nothing in between must not starve the others.
                    await checkpoint()
        except BaseException:
            life._abandon()
            life.want = Want.SUSPEND
            raise
        finally:
            life._task = None
            if life.want is Want.DRAIN:
                life.finalize(None)
            elif life.state is not State.STOPPED:
                life.move(State.SUSPENDED)

    def revive(self) -> None:
        """See `Node`."""
        if self.want is Want.SUSPEND:
            self.want = Want.NOTHING
        self._held = False
        self._restart_at = NOT_YET
        self.move(State.STARTING)

    async def _admitted(self) -> bool:
        """Wait until an incarnation may start. False: the task is to end."""
        while not self._may_start():
            if self._is_done():
                return False
            if self.want is Want.PAUSE:
                self.move(State.WAITING)
            await self._park()
        return True

    def _may_start(self) -> bool:
        if self._held or self._is_done():
            return False
        return self._restart_at == NOT_YET or trio.current_time() >= self._restart_at

    def _is_done(self) -> bool:
        return self.want >= SUSPEND or self.state is STOPPED

    def _begin(self, now: float) -> None:
        self.incarnation += 1
        self._began = now
        self._ready_at = NOT_YET
        self._condemned = None
        self._exiting = False
        self._ending = self.want is not NOTHING
        if self.state is not STARTING:
            self.move(STARTING)
        if self.runtime.events.on:
            self.emit(events.Started)

    def _is_ready(self) -> None:
        self._ready_at = trio.current_time()
        if self.state is STARTING:
            self.move(RUNNING)
        self.parent.child_is_ready(self)
        if self.runtime.events.on:
            self.emit(events.Ready, self._ready_at - self._began)

    async def _park(self) -> None:
        self._parked = True
        await wait_task_rescheduled(self._unpark)

    def _unpark(self, _raise_cancel: object) -> Abort:
        self._parked = False
        return Abort.SUCCEEDED

    def wake(self) -> None:
        """Let the node's task look again."""
        if self._parked and self._task is not None:
            self._parked = False
            trio.lowlevel.reschedule(self._task)

    # --- ends -------------------------------------------------------------------------------------

    def _after(self, failure: Exception | None, now: float) -> None:
        """The incarnation has ended: what comes next? Synchronous: nothing can come between a crash and its verdict."""
        if self.want is not NOTHING:
            if failure is not None:
                self.bad_stop(failure)
            if self.want is not DRAIN:
                self._went_down(0.0)
            if self.want is PAUSE:
                self.move(WAITING)
        elif failure is None and self._exiting and self.spec.restart != "permanent":
            self.finalize(None)
        else:
            self._condemned = (
                IncarnationEnded(self.path) if failure is None else failure
            )  # by this, and by nothing else
            self._crash(self._condemned, now)
            self._condemned = None

    def _crash(self, failure: Exception, now: float) -> None:
        was_healthy = self._ready_at != NOT_YET and now - self._ready_at >= self.spec.backoff.reset_after
        self.streak = 1 if was_healthy else self.streak + 1
        self.remember(failure, now)
        if self.runtime.events.on:
            self.emit(events.Crashed, one_line(failure), full_text(failure), self.queued)
        if self._onlookers is not None:
            self.will_move_because_of(failure)
        verdict, delay = self.parent.child_crashed(self, failure, now)
        if verdict in AGAIN:
            self._go_down(verdict, now, delay)
        elif verdict is Verdict.STOP:
            self.finalize(failure)
        else:
            self.want = max(self.want, Want.SUSPEND)
            self._went_down(0.0)

    def _go_down(self, verdict: Verdict, now: float, delay: float) -> None:
        self.restarts += 1
        self._restart_at = now + delay if delay else NOT_YET
        self._held = verdict is REGROUP
        if delay and not self._held:
            Timer(self.runtime.deadlines, self._restart_at, self.wake)
        self._went_down(delay)
        if verdict is PARK:
            self.move(State.PARKED)
            self.refuse_as_parked(self)
        else:
            self.move(WAITING if self._held else DOWN)
        if self.runtime.events.on:
            kind = events.Parked if verdict is PARK else events.Restarting
            self.emit(kind, delay, self.restarts)

    def bad_stop(self, failure: Exception) -> None:
        """An error while being stopped: no crash, but not lost either."""
        self.remember(failure, trio.current_time())
        if self.runtime.events.on:
            self.emit(events.BadStop, one_line(failure), full_text(failure))

    def finalize(self, cause: Exception | None) -> None:
        """See `Node`."""
        if self.state is STOPPED:
            return
        self._ended(cause)
        if self.runtime.events.on:
            self.emit(events.Stopped, "" if cause is None else one_line(cause))
        self.will_move_because_of(cause)
        self.move(STOPPED)

    # --- control ----------------------------------------------------------------------------------

    def ask_to(self, want: Want) -> None:
        """See `Node`."""
        if self.state is State.STOPPED or want <= self.want:
            return
        self.want = want
        self._ending = True
        self._held = self._held or want is Want.PAUSE
        if self.state in (State.RUNNING, State.STARTING):
            self.move(State.STOPPING)
        elif self.state in _DOWN and want is Want.PAUSE:
            self.move(State.WAITING)
        self.wake()

    def open_gate(self) -> None:
        """See `Node`."""
        self._held = False
        self._restart_at = NOT_YET
        if self.want is Want.PAUSE:
            self.want = Want.NOTHING
        self.wake()

    def condemn(self, failure: Exception) -> bool:
        """See `Node`."""
        if self._condemned is not None or self._task is None or self.state not in ALIVE:
            return False
        self._condemned = failure
        self.cancel(one_line(failure))
        return True

    @property
    def condemned(self) -> bool:
        """See `Node`."""
        return self._condemned is not None

    @property
    def leaves_anyway(self) -> bool:
        """See `Node`."""
        return self.want is not Want.NOTHING or self._condemned is not None

    @property
    def task(self) -> trio.lowlevel.Task | None:
        """See `Node`."""
        return self._task

    def restart_in(self) -> float | None:
        """See `Node`."""
        left = self._restart_at - trio.current_time()
        return left if left > 0 and not self._held else None
