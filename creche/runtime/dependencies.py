"""How an actor is told that something it depends on has restarted or stopped.

An incarnation depends on what it was given handles of. It looks at those nodes for as long as it lives (see
`onlookers`), and what becomes of them is put into its lane, as timers are. One notice waits there at most for each
dependency: an actor that is busy while another one crashes in a loop is told once, of the last change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from .agenda import Job
from .node import Node, State, node_behind

if TYPE_CHECKING:
    from .actor import Actor
    from .agenda import Agenda
    from .handling import Handling

DependencyChange = Literal["restarted", "stopped"]


def heed_dependencies(cell: Handling, actor: Actor, handles: list[object]) -> None:
    """Have a new incarnation told of changes behind the handles that it was given."""
    for handle in handles:
        node = node_behind(handle)
        if node is not None and node.state is not State.STOPPED:
            _Notice(cell.agenda(), node, actor.dependency_changed, handle)


class _Notice(Job):
    """Looks at one dependency, and tells the actor."""

    __slots__ = ("_agenda", "_node", "_seen", "_waits_in_lane")

    def __init__(
        self, agenda: Agenda, node: Node, fn: Callable[[object, DependencyChange], Awaitable[object]], handle: object
    ) -> None:
        super().__init__(fn, (handle, "restarted"))
        self._agenda = agenda
        self._node = node
        self._seen = node.incarnation
        self._waits_in_lane = False
        agenda.hold(self)
        node.watch(self)

    def cancel(self) -> None:
        """Part of `Held`."""
        self._agenda.forget(self)
        self._node.unwatch(self)

    def moved(self, node: Node, to: State, cause: Exception | None) -> None:
        """Part of `Onlooker`."""
        if to is State.STOPPED:
            node.unwatch(self)
            self._put("stopped")
        elif to is State.RUNNING and node.incarnation > self._seen:
            self._seen = node.incarnation
            self._put("restarted")

    def _put(self, change: DependencyChange) -> None:
        self.args = (self.args[0], change)
        if not self._waits_in_lane:
            self._waits_in_lane = True
            self._agenda.put(self)

    async def run(self) -> None:
        """See `Job`."""
        self._waits_in_lane = False
        await super().run()
