"""What actors and supervisors have in common: a place in the tree, a lifecycle, and a parent to answer to."""

from __future__ import annotations

import enum
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, cast

import trio

from .errors import CrecheError, InternalError
from .onlookers import Onlookers

if TYPE_CHECKING:
    from .events import Event
    from .intake import Intake
    from .onlookers import Onlooker
    from .runtime import Runtime
    from .spec import ChildOptions, Spec
    from .waits import Waiter

_GIVEN = "__creche_given__"  # the mark of an exception that a caller has got
_CAUSES = 16  # how deep they are followed: a chain may be a circle
_HISTORY = 16  # crashes remembered per node, as text: a live exception would pin its frames


class State(enum.Enum):
    """Where a node is in its life."""

    __hash__ = object.__hash__  # members are single objects; the hash that Enum gives them is Python code, and slow

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    DOWN = "down"  # crashed, a successor is due
    PARKED = "parked"  # crashed too often, it will be tried again later
    WAITING = "waiting"  # for its group to be restarted
    STOPPING = "stopping"
    SUSPENDED = "suspended"  # its task has ended, its mail is kept, it may run again
    STOPPED = "stopped"  # for good


_S = State
# Who may follow whom. A state that can be left to nothing is the end.
TRANSITIONS: dict[State, frozenset[State]] = {
    _S.NEW: frozenset({_S.STARTING, _S.STOPPED, _S.SUSPENDED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.STOPPING, _S.DOWN, _S.PARKED, _S.WAITING, _S.SUSPENDED, _S.STOPPED}),
    _S.RUNNING: frozenset({_S.STOPPING, _S.DOWN, _S.PARKED, _S.WAITING, _S.SUSPENDED, _S.STOPPED}),
    _S.DOWN: frozenset({_S.STARTING, _S.WAITING, _S.STOPPING, _S.SUSPENDED, _S.STOPPED}),
    _S.PARKED: frozenset({_S.STARTING, _S.WAITING, _S.STOPPING, _S.SUSPENDED, _S.STOPPED}),
    _S.WAITING: frozenset({_S.STARTING, _S.STOPPING, _S.SUSPENDED, _S.STOPPED}),
    _S.STOPPING: frozenset({_S.WAITING, _S.SUSPENDED, _S.STOPPED}),
    _S.SUSPENDED: frozenset({_S.STARTING, _S.STOPPED}),
    _S.STOPPED: frozenset(),
}

AT_REST = frozenset({_S.NEW, _S.WAITING, _S.SUSPENDED, _S.STOPPED})
ALIVE = frozenset({_S.STARTING, _S.RUNNING, _S.STOPPING})  # an incarnation is under way


class Want(enum.IntEnum):
    """What a node has been asked to do. Later members are stronger; a stronger wish replaces a weaker one."""

    NOTHING = 0
    PAUSE = 1  # end the incarnation after the message in hand, keep the mail, wait for the gate
    SUSPEND = 2  # the same, and end the task
    DRAIN = 3  # finish the mail, then end for good


# Members as plain names, for what runs at each start, crash and end: on Python 3.11 one that is read from its class
# takes 50 ns, and a restart reads twenty (measured).
STARTING, RUNNING, DOWN, WAITING = _S.STARTING, _S.RUNNING, _S.DOWN, _S.WAITING
SUSPENDED, STOPPED = _S.SUSPENDED, _S.STOPPED
NOTHING, PAUSE, SUSPEND, DRAIN = Want


class Verdict(enum.Enum):
    """A supervisor's answer to a crash."""

    RESTART = "restart"  # after a delay
    REGROUP = "regroup"  # wait at the gate until the group is restarted
    PARK = "park"  # it has crashed too often: try it again after a longer delay
    SUSPEND = "suspend"  # the supervisor itself is going down
    STOP = "stop"  # this child is done


RESTART, REGROUP, PARK = AGAIN = Verdict.RESTART, Verdict.REGROUP, Verdict.PARK  # there is to be a successor


class Parent(Protocol):
    """What a node needs of its supervisor.

    Called synchronously, in the child's task: no await between a crash and its verdict.
    """

    @property
    def path(self) -> str: ...

    @property
    def nursery(self) -> trio.Nursery: ...

    def child_crashed(self, child: Node, failure: Exception, now: float) -> tuple[Verdict, float]:
        """Decide; the number is the delay of a restart in seconds."""
        ...

    def child_gives_up(self, child: Node, failure: Exception) -> None:
        """A child that is a supervisor has begun to stop its own children because of `failure`; it will crash of it."""

    def child_is_ready(self, child: Node) -> None:
        """The child's incarnation has come up."""

    def child_stopped(self, child: Node) -> None:
        """The child has ended for good."""


class Node(ABC):
    """A cell or a supervisor."""

    __slots__ = (
        "_changed",
        "_onlookers",
        "history",
        "incarnation",
        "name",
        "parent",
        "path",
        "restarts",
        "runtime",
        "spec",
        "state",
        "streak",
        "want",
    )

    def __init__(self, runtime: Runtime, parent: Parent, name: str, options: ChildOptions) -> None:
        self.runtime = runtime
        self.parent = parent
        self.name = name
        self.path = f"{parent.path}/{name}" if parent.path else name
        self.spec = options
        self.state: State = State.NEW
        self.want: Want = Want.NOTHING
        self.incarnation: int = 0
        self.restarts: int = 0
        self.streak = 0  # crashes since the last healthy time
        self.history: deque[tuple[float, int, str]] | None = None
        self._changed: trio.Event | None = None
        self._onlookers: Onlookers | None = None

    # --- lifecycle, seen from the supervisor ------------------------------------------------------

    @property
    def starts_in_one_step(self) -> bool:
        """Whether an incarnation is ready, or has failed, in the very step in which it begins: it awaits nothing."""
        return False

    @property
    def comes_back(self) -> bool:
        """Whether a restart of its group brings it back; else it ends with that."""
        return self.spec.restart != "temporary"

    @abstractmethod
    def run(self) -> Coroutine[Any, Any, None]:
        """The node's task: all its incarnations, until it is stopped or suspended."""

    @abstractmethod
    def revive(self) -> None:
        """Called before `run`, each time: what had been asked of a suspended node is forgotten, it is starting.

        At once, not in the task: whoever waits for the start must not see the old state, and what is asked from now on
        must not be forgotten.
        """

    def end_now(self, want: Want) -> bool:
        """End the incarnation in this very step, as wanted, if nothing of it is under way.

        False if something is: `ask_to` and wait. True: it is at rest for good or until it is let start again; its task
        has been woken and has nothing left to do but to leave.
        """
        return False

    @abstractmethod
    def ask_to(self, want: Want) -> None:
        """Ask for an end of the incarnation, politely. Idempotent; never weakens an earlier wish."""

    @abstractmethod
    def cancel(self, reason: str) -> None:
        """Cancel whatever the node is doing. For a node that was asked politely and did not follow."""

    @abstractmethod
    def open_gate(self) -> None:
        """Let a node that waits for its group start again."""

    @abstractmethod
    def finalize(self, cause: Exception | None) -> None:
        """The end for good, of a node whose task has ended."""

    @abstractmethod
    def condemn(self, failure: Exception) -> bool:
        """Make the present incarnation die of `failure`.

        False if there is none, or it is dying of something else already.
        """

    @property
    @abstractmethod
    def condemned(self) -> bool:
        """Whether the present incarnation is dying of a failure."""

    @property
    @abstractmethod
    def leaves_anyway(self) -> bool:
        """Whether this incarnation has been told to end, or ends already."""

    @property
    def final(self) -> bool:
        """Whether it has ended for good."""
        return self.state is State.STOPPED

    @property
    @abstractmethod
    def final_cause(self) -> Exception | None:
        """The failure that ended it for good, without traceback; None while it has not ended, or if none did."""

    @property
    @abstractmethod
    def task(self) -> trio.lowlevel.Task | None:
        """The node's task, if it has one at the moment."""

    @abstractmethod
    def children(self) -> Sequence[Node]:
        """Child nodes in start order."""

    def refuse_as_parked(self, parked: Node) -> None:
        """It, or a supervisor above it, is parked: callers are refused at once."""
        for child in self.children():
            child.refuse_as_parked(parked)

    def restart_in(self) -> float | None:
        """Seconds until the next incarnation may start; None if that is not known."""
        return None

    @property
    def ended_by_itself(self) -> bool:
        """Of one that has stopped: whether nobody had asked it to."""
        return self.want is Want.NOTHING

    def child(self, name: str) -> Node | None:
        """The child of that name, if there is one."""
        return None

    @property
    def intake(self) -> Intake | None:
        """Where messages for it come in; None: it takes none."""
        return None

    def waiters(self) -> Iterator[Waiter]:
        """All handlers that are at work in it and below, lifespans included."""
        for child in self.children():
            yield from child.waiters()

    def at_work(self) -> Iterator[tuple[trio.lowlevel.Task, str]]:
        """The tasks of its own, with the message that each handles; empty: none. For the watchdog."""
        if self.task is not None:
            yield self.task, ""

    @property
    def queued(self) -> int:
        """Messages that wait in the mailbox."""
        return 0

    # --- state ------------------------------------------------------------------------------------

    def move(self, to: State) -> None:
        """Enter a state and tell whoever waits for it."""
        if to is self.state:
            return
        if to not in TRANSITIONS[self.state]:
            raise InternalError(f"{self.path}: no transition from {self.state.value} to {to.value}")
        self.state = to
        if self._changed is not None:
            self._changed.set()
            self._changed = None
        if self._onlookers is not None:
            self._tell(self._onlookers, to)
        if to is STOPPED:
            self.parent.child_stopped(self)

    async def wait_for(self, *states: State) -> State:
        """Park until the node is in one of `states`, and return which."""
        if self.state in states:
            await trio.lowlevel.checkpoint_if_cancelled()
        while self.state not in states:
            await self.wait_for_change()
        return self.state

    async def wait_for_change(self) -> None:
        """Park until the node moves to another state."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def _tell(self, onlookers: Onlookers, to: State) -> None:
        onlookers.tell(self, to)  # somebody may look away meanwhile, and somebody else begin to
        if not onlookers and self._onlookers is onlookers:
            self._onlookers = None

    def watch(self, onlooker: Onlooker) -> None:
        """Tell `onlooker` of each move from now on."""
        if self._onlookers is None:
            self._onlookers = Onlookers()
        self._onlookers.add(onlooker)

    def unwatch(self, onlooker: Onlooker) -> None:
        """Tell it no more. Idempotent."""
        if self._onlookers is not None:
            self._onlookers.remove(onlooker)
            if not self._onlookers:
                self._onlookers = None

    def will_move_because_of(self, cause: Exception | None) -> None:
        """The next move is due to `cause`: whoever looks on is told."""
        if self._onlookers is not None:
            self._onlookers.cause = cast("Exception | None", without_frames(cause))

    def emit(self, kind: Callable[..., Event], *values: object) -> None:
        """Emit an event of this node; ask `runtime.events.on` first."""
        self.runtime.events.emit(kind(trio.current_time(), self.path, self.incarnation, *values))

    # --- crashes ----------------------------------------------------------------------------------

    def remember(self, failure: Exception, now: float) -> None:
        """Put a crash into the history."""
        if self.history is None:
            self.history = deque(maxlen=_HISTORY)
        self.history.append((now, self.incarnation, one_line(failure)))

    def crashes(self) -> Iterator[tuple[float, str]]:
        """The last crashes, oldest first: when (seconds of the runtime's clock), and a line for people."""
        for when, incarnation, text in self.history or ():
            yield when, f"{when - self.runtime.opened_at:.3f} s {self.path}#{incarnation}: {text}"


def node_behind(handle: object) -> Node | None:
    """The node that a handle reaches; None if it is not bound, or no handle at all."""
    node = getattr(handle, "_node", None)
    return node if isinstance(node, Node) else None


def one_line(error: BaseException) -> str:
    """An error's type and the first line of its text."""
    try:
        text = str(error).partition("\n")[0]
    except Exception:  # somebody's __str__ is broken: that must not change what becomes of the crash
        text = "(its text cannot be told)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def unwrap(error: Exception) -> Exception:
    """The leaf of a group that has just one: nurseries wrap single errors too."""
    if not isinstance(error, ExceptionGroup):
        return error
    inner: Sequence[Exception] = cast("ExceptionGroup[Exception]", error).exceptions
    return unwrap(inner[0]) if len(inner) == 1 else cast("Exception", error)


def without_frames(error: BaseException | None, depth: int = _CAUSES) -> BaseException | None:
    """An error of the same type and content, and its causes to some depth, without tracebacks: to be kept for long.

    The frames of a traceback hold everything that was alive when the error was raised.
    """
    if error is None or not depth:
        return None
    twin = _twin(error, depth - 1)
    twin.__cause__ = without_frames(error.__cause__, depth - 1)
    return twin


def fresh_copy(error: Exception) -> Exception:
    """An error of the same type and content for one more caller: shared, it would grow a traceback for each of them."""
    twin = _twin(error)
    twin.__cause__ = error.__cause__ if error.__traceback__ is None else error
    return twin if isinstance(twin, type(error)) else error  # of a type that cannot be copied


def own_copy(error: Exception) -> Exception:
    """The error itself for the first caller that it is given to, a copy for each later one.

    An actor may keep one object and raise it for everybody: its traceback would grow with each caller, and pin the
    frames of all of them.
    """
    if not getattr(error, _GIVEN, False):
        with suppress(Exception):  # of a type that takes no attributes: it stays as it is
            setattr(error, _GIVEN, True)
        return error
    twin = _twin(error)
    twin.__cause__ = error.__cause__
    twin.__traceback__, error.__traceback__ = error.__traceback__, None
    return twin if isinstance(twin, type(error)) else error  # of a type that cannot be copied


def _twin(error: BaseException, depth: int = _CAUSES) -> BaseException:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        inner = [without_frames(one, depth) or CrecheError(one_line(one)) for one in group.exceptions]
        return group.derive(inner)
    for make in (_unmade, _remade):
        try:
            twin = make(error)
            twin.args = error.args
            twin.__dict__.update(error.__dict__)
            if str(twin) == str(error):
                return twin
        except Exception:  # a type that cannot be made in this way
            continue
    return CrecheError(one_line(error))


def _unmade(error: BaseException) -> BaseException:
    """One of the same type, without running its `__init__`."""
    return error.__class__.__new__(error.__class__, *error.args)


def _remade(error: BaseException) -> BaseException:
    """One of the same type, for those that keep what they tell outside of Python's reach."""
    return error.__class__(*error.args)


def full_text(error: Exception) -> str:
    """An error with its traceback and causes, as text. Costs more than the rest of a restart: only for who listens."""
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # a chain of causes that is too long, or somebody's broken method
        return one_line(error)


def still_there(node: Node) -> Iterator[str]:
    """The path and stack of each node at or below `node` that has not ended, for a report of who does not stop."""
    for child in node.children():
        yield from still_there(child)
    if node.task is not None and not node.children():
        yield f"{node.path} [{node.state.value}]\n{stack_of(node.task)}"


def stack_of(task: trio.lowlevel.Task | None) -> str:
    """Where a task stands, outermost frame first, without touching it."""
    if task is None:
        return "(no task)"
    frames = (
        traceback.FrameSummary(f.f_code.co_filename, line, f.f_code.co_name) for f, line in task.iter_await_frames()
    )
    return "".join(traceback.format_list(list(frames)))


class Group(Protocol):
    """What the runtime needs of its root: a node that takes children at run time."""

    async def start_child(self, spec: Spec[Any]) -> Node:
        """Start a child and wait until it is ready. Raises `StartFailed`."""
        ...

    async def stop_child(self, child: Node) -> None:
        """Stop a child for good, gracefully."""

    async def replace_child(self, child: Node, spec: Spec[Any], *, now: bool) -> None:
        """Make a child from another spec, from its next incarnation on. Raises `SpecInvalid` or `StartFailed`."""
