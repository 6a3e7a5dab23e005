"""The companion task: owner of an incarnation's background work.

A nursery opened inside a handler would be cancelled with that handler's caller, and left open across messages it would
corrupt the stack of cancel scopes. So background work has a task of its own, started on first use from the supervisor's
nursery with clean context variables. If it fails, the incarnation is cancelled with its error; the actor joins it
before it restarts, so that two incarnations never overlap.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from .context import PLACE, Background
from .node import unwrap

if TYPE_CHECKING:
    from .cell import Cell

Job = tuple[Callable[..., Awaitable[object]], tuple[Any, ...]]


class Companion:
    """See above. One per incarnation at most."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._early: list[Job] = []  # spawned before the task has opened its nursery
        self._over = trio.Event()
        self.failure: Exception | None = None
        cell.runtime.clean_context.run(cell.parent.nursery.start_soon, self._run)

    def spawn(self, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        """Start a background task."""
        if self._nursery is None:
            self._early.append((fn, args))
        else:
            self._nursery.start_soon(fn, *args)

    async def join(self) -> None:
        """Cancel all background work and wait until it has ended."""
        self._scope.cancel("the incarnation has ended")
        await self._over.wait()

    async def _run(self) -> None:
        PLACE.set(Background(self._cell))
        try:
            with self._scope:
                await self._hold_nursery()
        except Exception as error:
            self.failure = unwrap(error)
            self._cell.condemn(self.failure)
        finally:
            self._over.set()

    async def _hold_nursery(self) -> None:
        async with trio.open_nursery() as self._nursery:
            for fn, args in self._early:
                self._nursery.start_soon(fn, *args)
            self._early.clear()
            await trio.sleep_forever()
