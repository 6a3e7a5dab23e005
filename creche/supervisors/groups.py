"""Group restarts: several children end together because one of them crashed, and come up again in order.

Theory of operation
-------------------
The supervisor's own task restarts groups, one at a time: it pauses the members in reverse order, waits until each is at
rest, sits out the delay, and opens the start gates in order. A crash that comes while a group is being paused joins it;
one that comes while it is being started begins it anew.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import trio

from ..runtime import events
from ..runtime.deadlines import Timer
from ..runtime.node import Node, Parent, State, Want, node_behind
from .children import Children
from .strategies import GROUP_OF

if TYPE_CHECKING:
    from ..runtime.runtime import Runtime
    from .spec import SupervisorSpec


class Groups(Children):
    """The part of a supervisor that restarts children together."""

    __slots__ = ("_group", "_group_until", "_grouping", "_pausing")

    def __init__(self, runtime: Runtime, parent: Parent, name: str, rules: SupervisorSpec) -> None:
        super().__init__(runtime, parent, name, rules)
        self._group: set[str] = set()  # names of the children that are to be restarted together
        self._group_until = 0.0  # the time before which it must not start again
        self._pausing = False
        self._grouping = GROUP_OF.get(rules.strategy)  # None: each restarts by itself

    def _group_of(self, crashed: Node) -> Sequence[str]:
        """The names of those that restart with it, itself included, in start order."""
        assert self._grouping is not None
        return self._grouping(list(self._nodes), crashed.name, self._needs)

    def _needs(self, name: str) -> Collection[str]:
        """The siblings that a child depends on: whose handles it was given, or what they hold, or whom it names."""
        needs = dict.fromkeys(self._nodes[name].spec.depends_on)
        for dependency in self._specs[name].dependencies():
            node: object = node_behind(dependency)
            while isinstance(node, Node):
                if node.parent is self:
                    needs[node.name] = None
                node = node.parent
        return needs

    def _joins(self, group: Sequence[str]) -> bool:
        """Whether a crash belongs to the group that is being paused."""
        return self._pausing and not self._group.isdisjoint(group)

    def _join_group(self, group: Sequence[str], delay: float) -> None:
        """Add the children that restart together to the group, or begin one."""
        self._group.update(group)
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
        for place, node in enumerate(members):
            if self._leaving():
                return
            if self._group:  # a crash meanwhile: its group and the rest of this one are begun anew
                self._group.update(left.name for left in members[place:])
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


def _has_started(node: Node, incarnation: int) -> bool:
    """Whether a node has come out of the start that followed `incarnation`, one way or the other."""
    if node.state in (State.SUSPENDED, State.STOPPED):
        return True
    return node.incarnation > incarnation and node.state is not State.STARTING


def _want_in_group(node: Node) -> Want:
    return Want.PAUSE if node.comes_back else Want.DRAIN
