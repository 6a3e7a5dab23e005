"""Handlers that take longer than they should: told, or ended, by the deadline heap.

Whoever sets no limit pays nothing: where there is one, the handler is put behind a function of its actor's instance
that starts a timer, as behaviours are put in front of the methods of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import current_task

from . import events
from .deadlines import Timer
from .errors import Killed
from .node import stack_of
from .unraisable import log_slow_handler

if TYPE_CHECKING:
    from .actor import Actor
    from .cell import Cell

Handler = Callable[..., Coroutine[Any, Any, Any]]


def time_handlers(cell: Cell, actor: Actor, names: Iterable[str]) -> None:
    """Put timers in front of those handlers that have a limit."""
    for name in names:
        own = cell.messages[name].slow_after
        limit = cell.spec.slow_after if own is None else own
        if limit is not None:
            setattr(actor, name, _timed(cell, name, limit, getattr(actor, name)))


def _timed(cell: Cell, name: str, limit: float, handler: Handler) -> Handler:
    def handle(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return _run(cell, name, limit, handler(*args, **kwargs))  # a TypeError of wrong arguments comes at once

    return handle


async def _run(cell: Cell, name: str, limit: float, coroutine: Coroutine[Any, Any, Any]) -> Any:
    timer = _Limit(cell, name, limit)
    try:
        return await coroutine
    finally:
        timer.cancel()


class _Limit(Timer):
    """The time of one handler."""

    __slots__ = ("_cell", "_limit", "_name", "_since", "_task", "place")

    def __init__(self, cell: Cell, name: str, limit: float) -> None:
        self._cell = cell
        self._name = name
        self._limit = limit
        self._task = current_task()
        self._since = trio.current_time()
        self.place = cell.path
        super().__init__(cell.deadlines, self._since + limit, self._over)

    def _over(self) -> None:
        cell, seconds = self._cell, trio.current_time() - self._since
        if cell.runtime.events.on:
            cell.emit(events.HandlerSlow, self._name, seconds, stack_of(self._task))
        else:
            log_slow_handler(cell.path, cell.incarnation, self._name, seconds, stack_of(self._task))
        if cell.spec.on_slow == "kill":
            cell.condemn(Killed(f"the handler of {self._name} takes longer than {self._limit:g} s"))
