"""Children, and how they are started and stopped: in order, a run of them in one pass where that is possible.

Theory of operation
-------------------
A supervisor's task holds the nursery that its children run in, so none can outlive it. Children start from first to
last, each ready before the next, and stop from last to first.

What costs is each change of tasks, so there are few. A child that is ready in its first step, as a plain actor is, need
not be waited for: a run of them is started in one pass of the scheduler. Trio may run new tasks in another order than
they were made, so they are made alike, and each takes the next child in order when it begins (`_next_due`). And a child
that only waits for mail is ended in this task's step (`end_now`); its own task is woken just to leave. Either way
others get to run after a number of children.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import checkpoint

from ..runtime import events
from ..runtime.life import Life
from ..runtime.node import AT_REST, Node, Parent, State, Verdict, Want
from ..runtime.spec import Spec, name_of

if TYPE_CHECKING:
    from ..runtime.runtime import Runtime
    from .spec import SupervisorSpec

_AT_REST = {  # by what a child has been asked; only for a group restart is it enough to wait at the gate
    Want.PAUSE: AT_REST,
    Want.SUSPEND: AT_REST - {State.WAITING},
    Want.DRAIN: AT_REST - {State.WAITING},
}
# Some 12 µs each, and some 7: what others wait for them is bounded as by the messages per wake (measured).
STARTS_PER_PASS, ENDS_PER_PASS = 16, 32
ENDED = (State.SUSPENDED, State.STOPPED)
_STARTED = (State.RUNNING, State.DOWN, State.PARKED, State.WAITING, *ENDED)


class Children(Life):
    """The children of a supervisor, in start order."""

    __slots__ = (
        "_awaited",
        "_due",
        "_dynamic",
        "_failure",
        "_finished",
        "_first_starts",
        "_nodes",
        "_nursery",
        "_specs",
        "_start_errors",
        "rules",
    )

    def __init__(self, runtime: Runtime, parent: Parent, name: str, rules: SupervisorSpec) -> None:
        super().__init__(runtime, parent, name, rules.child_options)
        self.rules = rules
        self._nursery: trio.Nursery | None = None
        self._failure: Exception | None = None
        self._awaited: Node | None = None  # the child whose start this task waits for
        self._first_starts: set[Node] = set()
        self._start_errors: dict[Node, Exception] = {}  # of first starts at run time, for those who wait for them
        self._due: deque[Node] = deque()  # children that are being started in one pass, in order
        self._nodes: dict[str, Node] = {}  # name -> child, in start order
        self._dynamic: set[str] = set()  # names of the children started at run time
        self._specs: dict[str, Spec[Any]] = {}  # of the children, for the strategy that asks what they depend on
        self._finished = False  # it shuts itself down because its significant children have ended

    def _build(self, specs: Iterable[Spec[Any]]) -> None:
        try:
            for spec in specs:
                self._adopt(spec, name_of(spec))
        except BaseException:
            for node in self._nodes.values():
                node.finalize(None)  # it may have registered a name
            raise

    def _adopt(self, spec: Spec[Any], name: str) -> Node:
        node = self._nodes[name] = spec.build(self.runtime, self, name)
        if self.rules.strategy == "dependents":
            self._specs[name] = spec
        return node

    def children(self) -> Sequence[Node]:
        """See `Node`."""
        return tuple(self._nodes.values())

    def child(self, name: str) -> Node | None:
        """See `Node`."""
        return self._nodes.get(name)

    @property
    def nursery(self) -> trio.Nursery:
        """Part of `Parent`."""
        assert self._nursery is not None
        return self._nursery

    @abstractmethod
    def child_crashed(self, child: Node, failure: Exception, now: float) -> tuple[Verdict, float]:
        """Part of `Parent`."""

    @abstractmethod
    def child_gives_up(self, child: Node, failure: Exception) -> None:
        """Part of `Parent`."""

    @abstractmethod
    def child_is_ready(self, child: Node) -> None:
        """Part of `Parent`."""

    @abstractmethod
    def _forget(self, child: Node) -> None:
        """A child with a budget or a policy of its own has ended for good."""

    def _leaving(self) -> bool:
        return self._ending or self._failure is not None or self._condemned is not None

    # --- starting ---------------------------------------------------------------------------------

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

    def _spawn(self, node: Node) -> None:
        self._first_starts.add(node)
        node.revive()
        self.runtime.clean_context.run(self.nursery.start_soon, node.run)

    def _abort_start(self) -> None:
        """Do not wait for a child that is still starting: it may start for ever."""
        if self._awaited is not None and self._awaited.state is not State.RUNNING:
            break_off(self._awaited, Want.SUSPEND, "its supervisor is ending")

    # --- stopping ---------------------------------------------------------------------------------

    async def _stop_all(self) -> None:
        def want_of(node: Node) -> Want:
            return Want.DRAIN if self.want is Want.DRAIN or node.name in self._dynamic else Want.SUSPEND

        await self._retire_all(list(self._nodes.values()), want_of)

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
        own = float("inf") if isinstance(node, Children) else node.spec.drain
        return max(0.0, min(own, self.runtime.stop_by - trio.current_time()))

    def child_stopped(self, child: Node) -> None:
        """Part of `Parent`."""
        if child.name in self._dynamic and self._nodes[child.name] is child:
            self._dynamic.remove(child.name)
            self._specs.pop(child.name, None)
            del self._nodes[child.name]
        rules = child.spec
        if rules.intensity is not None or rules.on_exhausted != "escalate":
            self._forget(child)
        if rules.significant and child.ended_by_itself and not self._leaving():
            self._significant_ended(child)

    def _significant_ended(self, child: Node) -> None:
        if self.rules.auto_shutdown == "all_significant":
            others = (node for node in self._nodes.values() if node.spec.significant)
            if any(node.state is not State.STOPPED for node in others if node is not child):
                return
        self._finished = True
        if self.runtime.events.on:
            self.emit(events.AutoShutdown, child.path)
        self.ask_to(Want.DRAIN)

    @property
    def ended_by_itself(self) -> bool:
        """See `Node`."""
        return self._finished or super().ended_by_itself


def _in_start_steps(nodes: Sequence[Node]) -> Iterator[Sequence[Node]]:
    """All in order, split: runs of those that are ready in one step, and others alone."""
    for quick, several in groupby(nodes, lambda node: node.starts_in_one_step):
        limit = STARTS_PER_PASS if quick else 1
        while some := list(islice(several, limit)):
            yield some


def break_off(node: Node, want: Want, reason: str) -> None:
    """End a start. A supervisor ends that of the child it waits for, and stops those before it in order."""
    node.ask_to(want)
    if not isinstance(node, Children):
        node.cancel(reason)
