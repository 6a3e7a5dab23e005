"""The handle of a pool: that of an actor, and what only a pool can do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from outcome import Outcome

from ...runtime.actor import Actor
from ...runtime.errors import NotStarted
from ...runtime.handle import Handle, Statistics

if TYPE_CHECKING:
    from ...runtime.node import Node
    from .pool import PoolNode

P = ParamSpec("P")
R = TypeVar("R")
A_co = TypeVar("A_co", covariant=True, bound=Actor)


@dataclass(frozen=True, slots=True)
class PoolStatistics(Statistics):
    """A pool at this moment. What `Statistics` counts is that of all its workers together, past ones included.

    Parameters
    ----------
    size, busy
        Workers; those that have a message in hand or in flight.
    shed
        Calls that were refused because they had waited too long.
    workers
        The statistics of each.
    """

    size: int
    busy: int
    shed: int
    workers: tuple[Statistics, ...]


class Pool(Handle[A_co]):
    """A way to a pool of workers, typed by their class. To senders it is a `Handle`: ``pool.ask.render(...)``.

    Valid across restarts of workers and of the pool, and while it is resized.
    """

    __slots__ = ("_pool",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._pool: PoolNode | None = None

    def __repr__(self) -> str:
        return f"<Pool {self._name} (not started)>" if self._pool is None else f"<Pool {self._pool!r}>"

    @property
    def size(self) -> int:
        """How many workers there are; those that retire do not count."""
        return self._running().size

    def statistics(self) -> PoolStatistics:
        """What waits, who is busy, and what has been done, of the pool and of each worker."""
        return self._running().statistics()

    async def resize(self, size: int) -> None:
        """Have so many workers from now on; also after a restart of the pool.

        Returns when the new ones are ready, or when those that are too many have ended: they finish what they have in
        hand, and what waits goes to others. If cancelled, what has begun goes on.

        Raises
        ------
        SpecInvalid
            It is no number of workers.
        StartFailed
            A worker could not start; those before it stay.
        CallCycle
            A worker's handler asks for it: it would wait for itself.
        ActorStopped
            The pool does not run.
        """
        await self._running().resize(size)

    async def broadcast(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> list[Outcome[R]]:
        """Send a message to every worker, and await all outcomes.

        It waits in each worker's own line, before what the workers share, whatever the routing, and is not for others
        if that worker ends.

        Returns
        -------
        list
            What became of each, in the order of the workers: `outcome.Value` or `outcome.Error`.
        """
        return await self._running().broadcast(method.__name__, args, dict(kwargs))

    async def drain(self) -> None:
        """Stop for good: take nothing new, finish what waits, all workers at once, within the pool's ``drain`` seconds.

        The same as ``runtime.stop(pool)``.
        """
        node = self._running()
        await node.runtime.stop(node)

    @property
    def _node(self) -> Node | None:
        return self._pool

    def _bind(self, node: Node) -> None:
        self._pool = cast("PoolNode", node)
        super()._bind(self._pool.front)

    def _unbind(self) -> None:
        super()._unbind()
        self._pool = None

    def _running(self) -> PoolNode:
        if self._pool is None:
            raise NotStarted(self._name)
        return self._pool
