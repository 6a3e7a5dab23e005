"""The wait-for graph: who waits for whom at this moment, and whether one more wait would close a circle.

Theory of operation
-------------------
A *waiter* is a handler at work: a cell, for its serial message in hand, or one activity of a concurrent message. An
*edge* is what it waits for: a call, many calls together, or room for a cast. Edges exist only while somebody waits.

A call that is being handled waits for its handler. One that is queued, or whose reply is deferred, waits until the
actor's task comes to take messages: for its serial message in hand, and for the activities of any concurrent message
whose limit is reached, of which only all together are in the way. So an actor with concurrent messages is in a circle
only if all its handlers of one kind are.

The check runs before anything is sent. All of it happens in one thread, so the graph is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from .envelope import CANCELLING, RUNNING, SETTLED, Request, Together, WaitingCast
from .errors import CallCycle

if TYPE_CHECKING:
    from .intake import Intake

Edge = Request | Together | WaitingCast
Chain = tuple[str, ...] | None
Known = dict["Intake", Chain]


class Waiter(Protocol):
    """A handler at work."""

    @property
    def path(self) -> str: ...

    def edge_to(self, edge: Edge) -> list[Edge]:
        """Note that the handler is about to wait. The caller removes `edge` from the returned list.

        Raises `CallCycle` if what it would wait for waits for this handler already.
        """
        ...

    def waits_for(self) -> Sequence[Edge]:
        """What it waits for at this moment: several things, if it has tasks of its own."""
        ...


def check_for_cycle(waiter: Waiter, edge: Edge) -> None:
    """Raise `CallCycle` if `edge` leads back to `waiter`."""
    chain = _along(edge, waiter, {})
    if chain is not None:
        raise CallCycle((waiter.path, *chain))


def _along(edge: Edge, goal: Waiter, known: Known) -> Chain:
    if isinstance(edge, Together):
        return _first(_along(part, goal, known) for part in edge.parts)
    if edge.state == SETTLED:
        return None
    if isinstance(edge, Request) and edge.state in (RUNNING, CANCELLING):
        return _from_handler(edge.handler(), goal, known)
    return _from_task(edge.cell, goal, known)


def _from_task(cell: Intake, goal: Waiter, known: Known) -> Chain:
    """What a message that waits to be taken waits for."""
    if cell not in known:
        known[cell] = None  # to meet it again on the way leads nowhere new
        known[cell] = _from_handler(cell, goal, known) or _first(
            _if_all([_from_handler(activity, goal, known) for activity in activities])
            for activities in cell.at_their_limit()
        )
    return known[cell]


def _from_handler(handler: Waiter, goal: Waiter, known: Known) -> Chain:
    if handler is goal:
        return (handler.path,)
    chain = _first(_along(edge, goal, known) for edge in handler.waits_for())
    return None if chain is None else (handler.path, *chain)


def _first(chains: Iterable[Chain]) -> Chain:
    return next((chain for chain in chains if chain is not None), None)


def _if_all(chains: Sequence[Chain]) -> Chain:
    return chains[0] if chains and all(chain is not None for chain in chains) else None
