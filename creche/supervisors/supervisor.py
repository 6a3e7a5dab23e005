"""The supervisor: a node that starts, watches, restarts and stops its children.

Theory of operation
-------------------
A supervisor's task holds the nursery that its children run in, so none can outlive it. It does three things, in this
order, and between them it parks: start the children from first to last, each ready before the next; restart groups;
stop the children from last to first.

What costs is each change of tasks, so there are few. A child that is ready in its first step, as a plain actor is, need
not be waited for: a run of them is started in one pass of the scheduler. Trio may run new tasks in another order than
they were made, so they are made alike, and each takes the next child in order when it begins (`_next_due`). And a child
that only waits for mail is ended in this task's step (`end_now`); its own task is woken just to leave. Either way
others get to run after a number of children.

Single restarts do not pass through this task. A crashed child asks `child_crashed` synchronously, in its own task, and
is told to restart after a delay, to wait at its start gate for a group restart, to suspend because the supervisor
itself is going down, or that it is done. A group restart (one_for_all, rest_for_one) pauses the group in reverse order,
waits until each is at rest, sits out the delay, and opens the gates in order. A crash that comes while a group is being
paused joins it and is not charged; one that comes while it is being started is charged, as it would be without the
group, else a child that cannot start would be restarted for ever.

Failing: more restarts than the intensity allows, or a child that cannot start while the supervisor starts. Then the
supervisor suspends its children in reverse order (cells keep identity and mail) and crashes itself; its parent decides.
Only a supervisor that is done for good finalizes its children.

A bug in here is never restarted: what leaves `_incarnation` as anything but a recorded failure propagates through the
nurseries to the host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, NoReturn, Self

import trio
from trio.lowlevel import checkpoint

from ..runtime import events
from ..runtime.checks import require, require_one_of, require_type
from ..runtime.context import PLACE
from ..runtime.deadlines import Timer
from ..runtime.errors import ActorStopped, IntensityExceeded, SpecInvalid, StartFailed, Unavailable
from ..runtime.life import Life
from ..runtime.node import AT_REST, Node, Parent, State, Verdict, Want, one_line
from ..runtime.spec import NAME_RULE, ChildOptions, Configs, Layer, Spec, is_name, require_spec
from ..runtime.waits import Start
from .budget import Budget, Intensity
from .handle import SupervisorHandle
from .strategies import FIRST_OF_GROUP, STRATEGIES, Strategy

if TYPE_CHECKING:
    from ..runtime.runtime import Runtime

_AT_REST = {  # by what a child has been asked; only for a group restart is it enough to wait at the gate
    Want.PAUSE: AT_REST,
    Want.SUSPEND: AT_REST - {State.WAITING},
    Want.DRAIN: AT_REST - {State.WAITING},
}
# Some 12 µs each, and some 7: what others wait for them is bounded as by the messages per wake (measured).
STARTS_PER_PASS, ENDS_PER_PASS = 16, 32
_ENDED = (State.SUSPENDED, State.STOPPED)
_STARTED = (State.RUNNING, State.DOWN, State.WAITING, *_ENDED)


@dataclass(frozen=True)
class SupervisorSpec(Spec[SupervisorHandle]):
    """The spec of a supervisor and, in it, of its children in start order. Made by `supervisor`."""

    name: str
    children: tuple[Spec[Any], ...] = ()
    strategy: Strategy = "one_for_one"
    intensity: Intensity = field(default_factory=Intensity)
    rules: ChildOptions = field(default_factory=ChildOptions)

    def __post_init__(self) -> None:
        require_one_of(self, "strategy", STRATEGIES)
        require(self, "name", is_name(self.name), NAME_RULE)
        require_type(self, "intensity", Intensity)
        for child in self.children:
            require_spec(f"supervisor({self.name!r}, ...)", child)
        check_names(self.children)

    @property
    def child_options(self) -> ChildOptions:
        return self.rules

    def default_name(self) -> str:
        return self.name

    def build(self, runtime: Runtime, parent: Parent, name: str) -> Supervisor:
        return Supervisor(runtime, parent, name, self)

    def new_handle(self) -> SupervisorHandle:
        return SupervisorHandle(self.name)

    def with_options(self, options: ChildOptions) -> Self:
        return replace(self, rules=options)

    def configured(self, configs: Configs) -> Self:
        return replace(self, children=tuple(child.configured(configs) for child in self.children))

    def dependencies(self) -> Iterator[object]:
        for child in self.children:
            yield from child.dependencies()

    @property
    def default_layer(self) -> Layer:
        return self.children[0].default_layer if self.children else "service"


def supervisor(
    name: str,
    *children: Spec[Any],
    strategy: Strategy = "one_for_one",
    intensity: Intensity | None = None,
) -> SupervisorSpec:
    """The spec of a supervisor.

    Parameters
    ----------
    children
        Specs in start order; stopped in reverse.
    strategy
        ``one_for_one``: a crashed child restarts alone. ``one_for_all``: all restart with it. ``rest_for_one``: those
        that were started after it do.
    intensity
        How many restarts are too many; default 3 in 5 seconds.

    Raises
    ------
    SpecInvalid
        Something is wrong in it, two children of one name included. Nothing has been started then.
    """
    return SupervisorSpec(name, children, strategy, Intensity() if intensity is None else intensity)


def require_supervisor(where: str, value: object) -> None:
    """Raise `SpecInvalid` unless `value` is the spec of a supervisor."""
    if not isinstance(value, SupervisorSpec):
        raise SpecInvalid(where, value, "pass creche.supervisor('root', creche.child(...), ...)")


def name_of(spec: Spec[Any]) -> str:
    """The name of a child among its siblings."""
    return spec.child_options.name or spec.default_name()


def check_names(specs: Sequence[Spec[Any]]) -> None:
    """Raise `SpecInvalid` if two siblings have one name."""
    taken: set[str] = set()
    for spec in specs:
        name = name_of(spec)
        if name in taken:
            raise SpecInvalid("name", name, "siblings need different names: use .options(name=...)")
        taken.add(name)


def _has_started(node: Node, incarnation: int) -> bool:
    """Whether a node has come out of the start that followed `incarnation`, one way or the other."""
    if node.state in (State.SUSPENDED, State.STOPPED):
        return True
    return node.incarnation > incarnation and node.state is not State.STARTING


def _in_start_steps(nodes: Sequence[Node]) -> Iterator[Sequence[Node]]:
    """All in order, split: runs of those that are ready in one step, and others alone."""
    for quick, several in groupby(nodes, lambda node: node.starts_in_one_step):
        limit = STARTS_PER_PASS if quick else 1
        while some := list(islice(several, limit)):
            yield some


def _break_off(node: Node, want: Want, reason: str) -> None:
    """End a start. A supervisor ends that of the child it waits for, and stops those before it in order."""
    node.ask_to(want)
    if not isinstance(node, Supervisor):
        node.cancel(reason)


def _want_in_group(node: Node) -> Want:
    return Want.DRAIN if node.spec.restart == "temporary" else Want.PAUSE


class Supervisor(Life):
    """See the theory of operation above."""

    __slots__ = (
        "_awaited",
        "_budget",
        "_due",
        "_dynamic",
        "_failure",
        "_first_starts",
        "_group",
        "_group_until",
        "_nodes",
        "_nursery",
        "_pausing",
        "_serial",
        "rules",
    )

    def __init__(self, runtime: Runtime, parent: Parent, name: str, rules: SupervisorSpec) -> None:
        super().__init__(runtime, parent, name, rules.child_options)
        self.rules = rules
        self._budget = Budget(rules.intensity)
        self._nursery: trio.Nursery | None = None
        self._failure: Exception | None = None
        self._serial = 2  # of names made for children whose own name was taken
        self._group: set[str] = set()  # names of the children that are to be restarted together
        self._group_until = 0.0  # the time before which it must not start again
        self._pausing = False
        self._awaited: Node | None = None  # the child whose start this task waits for
        self._first_starts: set[Node] = set()
        self._due: deque[Node] = deque()  # children that are being started in one pass, in order
        self._nodes: dict[str, Node] = {}  # name -> child, in start order
        self._dynamic: set[str] = set()  # names of the children started at run time
        for spec in rules.children:
            name = name_of(spec)
            self._nodes[name] = spec.build(runtime, self, name)

    def __repr__(self) -> str:
        return f"<supervisor {self.path} {self.state.value}, {len(self._nodes)} children, {self.restarts} restarts>"

    def children(self) -> Sequence[Node]:
        """See `Node`."""
        return tuple(self._nodes.values())

    @property
    def nursery(self) -> trio.Nursery:
        """Part of `Parent`."""
        assert self._nursery is not None
        return self._nursery

    # --- one incarnation --------------------------------------------------------------------------

    async def _incarnation(self) -> Exception | None:
        self._failure = None
        self._group.clear()
        self._budget.reset()
        async with trio.open_nursery() as self._nursery:
            if await self._start_all():
                self._is_ready()
                await self._supervise()
            await self._stop_all()
        self._nursery = None
        return self._take_failure()

    def _crash_or_bug(self, error: Exception) -> Exception:
        raise error

    def _take_failure(self) -> Exception | None:
        failure = self._condemned if self._failure is None else self._failure
        self._failure = self._condemned = None
        return failure

    async def _start_all(self) -> bool:
        for nodes in _in_start_steps(list(self._nodes.values())):
            if self._leaving():
                return False
            if len(nodes) == 1:
                await self._start(nodes[0])
            else:
                await self._start_in_one_pass(nodes)
        return not self._leaving()

    async def _start(self, node: Node) -> None:
        if node.state is not State.STOPPED:  # for good, by an explicit stop
            self._awaited = node
            self._spawn(node)
            await node.wait_for(*_STARTED)
            self._awaited = None
            self._first_starts.discard(node)

    async def _start_in_one_pass(self, nodes: Iterable[Node]) -> None:
        self._due.extend(nodes)
        spawn, start_soon, next_due = self.runtime.clean_context.run, self.nursery.start_soon, self._next_due
        for _ in range(len(self._due)):
            spawn(start_soon, Life.live, next_due)
        while self._due and not self._leaving():
            await self._park()
        self._due.clear()

    def _next_due(self) -> Node | None:
        """For whichever of the new tasks runs next: the child that it is to be."""
        if self._leaving() or not self._due:
            return None
        node = self._due.popleft()
        if not self._due:
            self.wake()
        if node.state is State.STOPPED:
            return None
        self._first_starts.add(node)
        node.revive()
        return node

    async def _supervise(self) -> None:
        while not self._leaving():
            if not self._group:
                await self._park()
            else:
                await self._restart_group()

    def _leaving(self) -> bool:
        return self._ending or self._failure is not None or self._condemned is not None

    async def _stop_all(self) -> None:
        def want_of(node: Node) -> Want:
            return Want.DRAIN if self.want is Want.DRAIN or node.name in self._dynamic else Want.SUSPEND

        await self._retire_all(list(self._nodes.values()), want_of)

    def _spawn(self, node: Node) -> None:
        self._first_starts.add(node)
        node.revive()
        self.runtime.clean_context.run(self.nursery.start_soon, node.run)

    # --- stopping children ------------------------------------------------------------------------

    async def _retire_all(self, nodes: Sequence[Node], want_of: Callable[[Node], Want]) -> None:
        """Let children come to rest from last to first, each before the next is asked."""
        for number, node in enumerate(reversed(nodes), 1):
            want = want_of(node)
            if not node.end_now(want):
                await self._retire(node, want)
            elif number % ENDS_PER_PASS == 0:
                await checkpoint()

    async def _retire(self, node: Node, want: Want) -> None:
        """Ask a child to end, cancel it after its drain time, and name it in the report if that does not help either.

        Then wait for it all the same: Trio cannot abandon a task.
        """
        at_rest = _AT_REST[want]
        node.ask_to(want)
        with trio.move_on_after(self._patience_with(node)):
            await node.wait_for(*at_rest)
        if node.state not in at_rest:
            node.cancel(f"asked to {want.name.lower()}, not done in time")
            with trio.move_on_after(node.spec.shutdown):
                await node.wait_for(*at_rest)
        if node.state not in at_rest:
            self.runtime.report_unstopped(node)
            await node.wait_for(*at_rest)
        if want is Want.DRAIN:
            node.finalize(None)

    def _patience_with(self, node: Node) -> float:
        """A supervisor keeps its own children's time; the runtime's limit holds for all."""
        own = float("inf") if isinstance(node, Supervisor) else node.spec.drain
        return max(0.0, min(own, self.runtime.stop_by - trio.current_time()))

    # --- crashes ----------------------------------------------------------------------------------

    def child_crashed(self, child: Node, failure: Exception, now: float) -> tuple[Verdict, float]:
        """Part of `Parent`."""
        if child in self._first_starts:
            return self._first_start_failed(child, failure)
        if self._leaving():
            return Verdict.SUSPEND, 0.0
        if child.spec.restart == "temporary":
            return Verdict.STOP, 0.0
        grouped = self.rules.strategy in FIRST_OF_GROUP
        joins = self._pausing and grouped
        weather = failure if isinstance(failure, Unavailable) else None  # no bug: it costs nothing and is waited out
        if not joins and weather is None and not self._budget.charge(now):
            self._give_up(child, failure)
            return Verdict.SUSPEND, 0.0
        delay = child.spec.backoff.delay(child.streak, self.runtime.random)
        if weather is not None:
            delay = max(delay, weather.retry_after or 0.0)
        if not grouped:
            return Verdict.RESTART, delay
        self._join_group(child, delay)
        return Verdict.REGROUP, delay

    def child_gives_up(self, child: Node, failure: Exception) -> None:
        """Part of `Parent`: it will ask when it has stopped its children."""

    def child_is_ready(self, child: Node) -> None:
        """Part of `Parent`."""
        self._first_starts.discard(child)

    def child_stopped(self, child: Node) -> None:
        """Part of `Parent`."""
        if child.name in self._dynamic and self._nodes[child.name] is child:
            self._dynamic.remove(child.name)
            del self._nodes[child.name]

    def _first_start_failed(self, child: Node, failure: Exception) -> tuple[Verdict, float]:
        if child.name in self._dynamic:
            return Verdict.STOP, 0.0
        child.start_error = None  # nobody asks for it
        if self._failure is None and not self._ending:
            error = StartFailed(child.path, one_line(failure))
            error.__cause__ = failure
            self._fail(error)
        return Verdict.SUSPEND, 0.0

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self.wake()
        self._abort_start()
        self.parent.child_gives_up(self, error)

    def _give_up(self, child: Node, failure: Exception) -> None:
        intensity = self.rules.intensity
        crashes = sorted(crash for node in self._nodes.values() for crash in node.crashes())
        history = tuple(line for _, line in crashes[-16:])
        error = IntensityExceeded(self.path, intensity.restarts, intensity.window, history)
        error.__cause__ = failure
        self._fail(error)
        if self.runtime.events.on:
            self.emit(events.Escalated, one_line(error))

    # --- groups -----------------------------------------------------------------------------------

    def _join_group(self, crashed: Node, delay: float) -> None:
        """Add the children that restart with `crashed` to the group, or begin one."""
        nodes = list(self._nodes.values())
        first = FIRST_OF_GROUP[self.rules.strategy](nodes.index(crashed))
        self._group.update(node.name for node in nodes[first:])
        self._group_until = max(self._group_until, trio.current_time() + delay)
        self.wake()

    async def _restart_group(self) -> None:
        self._pausing = True
        await self._rest_group()
        self._pausing = False
        members = self._members()
        self._group.clear()
        if self._leaving():
            return
        if self.runtime.events.on:
            self.emit(events.GroupRestart, tuple(node.name for node in members))
        for node in members:
            if self._leaving() or self._group:
                return
            await self._reopen(node)

    def _members(self) -> list[Node]:
        """The group in start order. A child that was stopped for good meanwhile is in it no more."""
        return [node for name, node in self._nodes.items() if name in self._group and node.state is not State.STOPPED]

    def _group_is_at_rest(self) -> bool:
        return all(node.state is State.WAITING for node in self._members())

    async def _rest_group(self) -> None:
        """Pause its members from last to first and sit out the delay; again if a crash meanwhile has widened it."""
        while not self._leaving():
            await self._retire_all(self._members(), _want_in_group)
            await self._sit_out()
            if self._group_is_at_rest():
                return

    async def _sit_out(self) -> None:
        while trio.current_time() < self._group_until and not self._leaving():
            alarm = Timer(self.runtime.deadlines, self._group_until, self.wake)
            await self._park()
            alarm.cancel()

    async def _reopen(self, node: Node) -> None:
        """Open one start gate and wait until the child is ready or has crashed again."""
        if node.state is State.WAITING:
            before = node.incarnation
            node.open_gate()
            self._awaited = node
            while not (self._leaving() or _has_started(node, before)):
                await node.wait_for_change()
            self._awaited = None

    # --- children at run time ---------------------------------------------------------------------

    async def start_child(self, spec: Spec[Any]) -> Node:
        """See `Group`. Runs in the caller's task."""
        if self.state is not State.RUNNING or self._leaving():
            raise ActorStopped(self.path)
        node = spec.build(self.runtime, self, self._free_name(spec))
        self._nodes[node.name] = node
        self._dynamic.add(node.name)
        self._spawn(node)
        place = PLACE.get()
        waiter = None if place is None else place.serial
        start, edges = Start(node), [] if waiter is None else waiter.edges()
        edges.append(start)
        try:
            # Not for a state: an actor that crashes as soon as it is ready may be in none for long.
            while node in self._first_starts and node.state not in _ENDED:
                await node.wait_for_change()
        except BaseException:
            self._first_starts.discard(node)
            _break_off(node, Want.DRAIN, "whoever was starting it has been cancelled")
            raise
        finally:
            edges.remove(start)
        if node in self._first_starts:
            self._first_starts.remove(node)
            self._raise_start_failed(node)
        return node

    def _raise_start_failed(self, node: Node) -> NoReturn:
        error, node.start_error = node.start_error, None
        if error is None:
            raise StartFailed(node.path, "it was stopped while it was starting")
        raise StartFailed(node.path, one_line(error)) from error

    async def stop_child(self, child: Node) -> None:
        """See `Group`. Final, also for a permanent child; goes on if the caller leaves."""
        if self._nursery is None:
            child.finalize(None)  # this supervisor is down, and so are its children
        elif not child.end_now(Want.DRAIN):
            self.runtime.clean_context.run(self._nursery.start_soon, self._retire, child, Want.DRAIN)
        await child.wait_for(State.STOPPED)

    def _free_name(self, spec: Spec[Any]) -> str:
        name = name_of(spec)
        if name not in self._nodes:
            return name
        if spec.child_options.name is not None:
            raise SpecInvalid("name", name, f"{self.path} has a child of that name already")
        while f"{name}-{self._serial}" in self._nodes:
            self._serial += 1
        return f"{name}-{self._serial}"

    # --- control ----------------------------------------------------------------------------------

    def ask_to(self, want: Want) -> None:
        """See `Node`."""
        super().ask_to(want)
        if self._ending:
            self._abort_start()

    def _abort_start(self) -> None:
        """Do not wait for a child that is still starting: it may start for ever."""
        if self._awaited is not None and self._awaited.state is not State.RUNNING:
            _break_off(self._awaited, Want.SUSPEND, "its supervisor is ending")

    def cancel(self, reason: str) -> None:
        """See `Node`: all children at once."""
        self._exiting = self._ending = True
        for node in reversed(self._nodes.values()):
            node.ask_to(Want.SUSPEND)
            node.cancel(reason)
        self.wake()

    def _abandon(self) -> None:
        pass  # the nursery has closed: no child is left, and the host finalizes the tree

    def _went_down(self, delay: float) -> None:
        pass  # its children's callers wait at the children

    def _ended(self, cause: Exception | None) -> None:
        for node in reversed(list(self._nodes.values())):
            node.finalize(cause)
