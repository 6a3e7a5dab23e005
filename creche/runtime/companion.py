"""The companion: owner of all that an incarnation does besides its messages in hand.

A nursery opened inside a handler would be cancelled with that handler's caller, and left open across messages it would
corrupt the stack of cancel scopes. So background work and concurrent messages run in a task of their own, started on
first use from the supervisor's nursery with clean context variables. If it fails, the incarnation is cancelled with its
error; the actor joins it before it restarts, so that two incarnations never overlap.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import trio

from .context import PLACE, Background
from .node import unwrap

if TYPE_CHECKING:
    from .agenda import Agenda
    from .flights import Flights
    from .handling import Handling

Job = tuple[Callable[..., Awaitable[object]], tuple[Any, ...]]


class Companion:
    """See above. One per incarnation at most; each part of it is made when something needs it."""

    __slots__ = ("_cell", "_context", "_early", "_nursery", "_over", "_scope", "agenda", "ends", "flights")

    def __init__(self, cell: Handling) -> None:
        self._cell = cell
        self._context = cell.runtime.clean_context
        self._scope: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._early: list[Job] = []  # spawned before the task has opened its nursery
        self._over: trio.Event | None = None
        self.ends = False  # what is started now is cancelled at once
        self.flights: Flights | None = None
        self.agenda: Agenda | None = None

    def spawn(self, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        """Start a background task."""
        # At its end a nursery is open for as long as something is left in it.
        if self._nursery is not None and (not self.ends or self._nursery.child_tasks):
            self._context.run(self._nursery.start_soon, fn, *args)  # a task inherits the context of who starts it
            return
        self._early.append((fn, args))
        if self._over is None:
            self._begin()

    def _begin(self) -> None:
        self.ends = False
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._cell.runtime.clean_context.run(self._cell.parent.nursery.start_soon, self._run, self._scope, self._over)

    def tasks(self) -> list[trio.lowlevel.Task]:
        """The background work, concurrent messages included, by name."""
        running = () if self._nursery is None else self._nursery.child_tasks
        return sorted(running, key=lambda task: task.name)

    async def join(self) -> None:
        """Cancel all background work and wait until it has ended."""
        while self._scope is not None and self._over is not None:  # who spawns once more, in a cleanup, is joined, too
            self._scope.cancel("the incarnation has ended")
            await self._over.wait()

    @property
    def at_work(self) -> bool:
        """Whether there is something to join."""
        return self._over is not None

    def end(self, cause: BaseException | None) -> bool:
        """The incarnation has ended: answer for what is in flight, stop the timers. True: some caller has been told."""
        if self.agenda is not None:
            self.agenda.end()
        return self.flights is not None and self.flights.lose(cause)

    async def _run(self, scope: trio.CancelScope, over: trio.Event) -> None:
        PLACE.set(Background(self._cell))
        self._context = copy_context()
        try:
            with scope:
                await self._hold_nursery()
        except Exception as error:
            self._cell.background_failed(unwrap(error))
        finally:
            self._scope = self._nursery = self._over = None
            if self._early:  # spawned when the nursery had been closed
                self._begin()
            over.set()

    async def _hold_nursery(self) -> None:
        async with trio.open_nursery() as self._nursery:
            for fn, args in self._early:
                self._nursery.start_soon(fn, *args)
            self._early.clear()
            try:
                await trio.sleep_forever()
            finally:
                self.ends = True
