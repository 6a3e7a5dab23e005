"""The wait-for graph: who waits for whom at this moment, and whether one more wait would close a circle.

Theory of operation
-------------------
A *waiter* is a handler at work: a cell, for its serial message in hand, or one activity of a concurrent message. An
*edge* is what it waits for: a call, many calls together, room for a cast, or that an actor has started, a successor
included, or stopped. Edges exist only while somebody waits.

A call that is being handled waits for its handler. One that is queued, or whose reply is deferred, waits until the
actor's task comes to take messages: for its serial message in hand, and for the activities of any concurrent message
whose limit is reached, of which only all together are in the way. So an actor with concurrent messages is in a circle
only if all its handlers of one kind are.

What waits in a pool is taken by whichever worker comes first (`takers`), so it waits only if all of them do; one that
waits for the pool itself is no way out.

A reentrant message is let into an actor beside what is in hand there, if it would close a circle: then it has a handler
of its own (see `flights`), for which whatever waits to be taken waits as well.

The check runs before anything is sent. All of it happens in one thread, so the graph is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from .envelope import CANCELLING, RUNNING, SETTLED, SPILLED, Request, Together, WaitingCast
from .errors import CallCycle

if TYPE_CHECKING:
    from .intake import Intake
    from .node import Node


class Change:
    """A node is to start, or to stop: a handler waits for that.

    It may be calling somebody from its lifespan, and one that is being replaced or stopped from what it has in hand.
    """

    def __init__(self, node: Node, until: Literal["started", "stopped"]) -> None:
        self.node = node
        self.until: Literal["started", "stopped"] = until


Sent = Request | Together | WaitingCast
Edge = Sent | Change
Chain = tuple[str, ...] | None
_NO_WAY_OUT: tuple[str, ...] = ()
T = TypeVar("T")


class Known:
    """What has been found out in one check, so that each part of the graph is walked through once.

    In a fan-out of fan-outs there are exponentially many paths.
    """

    def __init__(self, tasks: dict[Intake, Chain]) -> None:
        self.tasks = tasks
        """For a message that waits to be taken."""
        self.handlers: dict[Waiter, Chain] = {}
        """For all that a handler waits for."""

    def supposing(self, cell: Intake, chain: Chain) -> Known:
        """A copy in which that is known, too. What handlers wait for has to be found out anew there."""
        return Known({**self.tasks, cell: chain})


class Waiter(Protocol):
    """A handler at work."""

    @property
    def path(self) -> str: ...

    def edges(self) -> list[Edge]:
        """What it waits for at this moment, to be added to and removed from."""
        ...

    def edge_to(self, edge: Sent) -> list[Edge]:
        """Note that the handler is about to wait. The caller removes `edge` from the returned list.

        Raises `CallCycle` if what it would wait for waits for this handler already.
        """
        ...

    def waits_for(self) -> Sequence[Edge]:
        """What it waits for at this moment: several things, if it has tasks of its own."""
        ...


def unsent(edges: Iterable[Edge]) -> Iterator[Request | WaitingCast]:
    """Those that still wait to be taken: they may be refused."""
    for edge in _singly(edges):
        if not isinstance(edge, Change) and edge.state <= SPILLED:
            yield edge


def check_for_cycle(waiter: Waiter, edge: Edge) -> None:
    """Raise `CallCycle` if `edge` leads back to `waiter`."""
    chain = _along(edge, waiter, Known({}))
    if chain:
        raise CallCycle((waiter.path, *chain))


def give_up_on(waiter: Waiter, *nodes: Node) -> None:
    """`waiter` is about to wait for the end of `nodes`: what is in hand there shall not wait for `waiter` in vain.

    Its calls that wait to be taken are refused with `CallCycle`, as later ones will be. Raises `CallCycle`, and has
    refused nothing, if one is in hand already.
    """
    hopeless: list[tuple[Request | WaitingCast, CallCycle]] = []
    way = [handler for node in nodes for handler in node.waiters()]
    met = set(way)
    for handler in way:  # it grows meanwhile
        for edge in _singly(handler.waits_for()):
            ahead = list(_at_work_on(edge))
            if waiter in ahead:
                raise CallCycle((waiter.path, handler.path, waiter.path))
            way += [other for other in ahead if other not in met]
            met.update(ahead)
            if not isinstance(edge, Change) and edge.state <= SPILLED and (chain := _along(edge, waiter, Known({}))):
                hopeless.append((edge, CallCycle((handler.path, *chain, handler.path))))
    for edge, error in hopeless:
        edge.fail(error)


def _singly(edges: Iterable[Edge]) -> Iterator[Request | WaitingCast | Change]:
    for edge in edges:
        if isinstance(edge, Together):
            yield from edge.parts
        else:
            yield edge


def _at_work_on(edge: Request | WaitingCast | Change) -> Iterator[Waiter]:
    if isinstance(edge, Change):
        yield from edge.node.waiters()
    elif isinstance(edge, Request) and edge.state in (RUNNING, CANCELLING):
        yield edge.handler()


def _along(edge: Edge, goal: Waiter, known: Known) -> Chain:
    """The paths from what is waited for to `goal`.

    Nearly always each waits for just one other: then the way is followed step by step, however long it is.
    """
    way: list[str] = []
    met: set[Waiter] = set()
    step = edge
    while True:
        if isinstance(step, Together | Change):
            return _joined(way, _several(step, goal, known))
        handler = _handler_in_the_way(step)
        if handler is None:
            return _joined(way, _from_task(step.cell, goal, known)) if step.state != SETTLED else None
        way.append(handler.path)
        if handler is goal:
            return tuple(way)
        if handler in met:
            return None  # a circle of others: not ours
        met.add(handler)
        edges = handler.waits_for()
        if len(edges) != 1:
            return _joined(way, _beyond(handler, goal, known))
        step = edges[0]


def _handler_in_the_way(edge: Request | WaitingCast) -> Waiter | None:
    """The one handler that has to end before the message is answered or taken; None if it is not as simple as that."""
    if isinstance(edge, Request) and edge.state in (RUNNING, CANCELLING):
        return edge.handler()
    if edge.state == SETTLED or edge.cell.at_their_limit() or edge.cell.takers():
        return None
    return edge.cell


def _several(edge: Together | Change, goal: Waiter, known: Known) -> Chain:
    if isinstance(edge, Together):
        return _first(_along(part, goal, known) for part in edge.parts)
    return _first(_from_handler(handler, goal, known) for handler in edge.node.waiters())


def _from_task(cell: Intake, goal: Waiter, known: Known) -> Chain:
    """What a message that waits to be taken waits for."""
    if cell not in known.tasks and cell.takers():
        known.tasks[cell] = _from_takers(cell, goal, known)
    elif cell not in known.tasks:
        known.tasks[cell] = None  # to meet it again on the way leads nowhere new
        known.tasks[cell] = _first(_ways_from_task(cell, goal, known))
    return known.tasks[cell]


def _ways_from_task(cell: Intake, goal: Waiter, known: Known) -> Iterator[Chain]:
    yield _from_handler(cell, goal, known)
    for activities in cell.at_their_limit():
        yield _if_all(cell, activities, _from_handler, goal, known)


def _from_takers(pool: Intake, goal: Waiter, known: Known) -> Chain:
    return _joined([pool.path], _if_all(pool, pool.takers(), _from_task, goal, known))


def _if_all(
    cell: Intake, those: Sequence[T], from_one: Callable[[T, Waiter, Known], Chain], goal: Waiter, known: Known
) -> Chain:
    """What waits at `cell` for any one of several waits for all of them.

    While that is being found out, to come back to the same cell opens no way: `_NO_WAY_OUT`. What is found on the way
    holds only if it turns out that all of them wait.
    """
    trial = known.supposing(cell, _NO_WAY_OUT)
    chains = [from_one(one, goal, trial) for one in those]
    if any(chain is None for chain in chains):
        return None
    known.tasks.update(trial.tasks)
    return _first(chains)


def _from_handler(handler: Waiter, goal: Waiter, known: Known) -> Chain:
    if handler is goal:
        return (handler.path,)
    return _joined([handler.path], _beyond(handler, goal, known))


def _beyond(handler: Waiter, goal: Waiter, known: Known) -> Chain:
    if handler not in known.handlers:
        known.handlers[handler] = None  # a circle of others is not ours
        known.handlers[handler] = _first(_along(edge, goal, known) for edge in handler.waits_for())
    return known.handlers[handler]


def _joined(way: Sequence[str], rest: Chain) -> Chain:
    return (*way, *rest) if rest else rest


def _first(chains: Iterable[Chain]) -> Chain:
    found: Chain = None
    for chain in chains:
        if chain:
            return chain
        found = found if chain is None else chain
    return found
