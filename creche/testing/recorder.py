"""A recorder of a runtime's events, which tests can ask and wait on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar

import trio

from ..runtime.events import Event
from ..runtime.runtime import Runtime

E = TypeVar("E", bound=Event)


class Recorder:
    """All events of a runtime from now on, in order. As a context manager it records until the end of the block."""

    def __init__(self, runtime: Runtime) -> None:
        self.events: list[Event] = []
        self._more = trio.Event()
        self._unsubscribe: Callable[[], None] = runtime.events.subscribe(self._record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __repr__(self) -> str:
        return "\n".join(map(str, self.events))

    def close(self) -> None:
        """Record no more. Idempotent."""
        self._unsubscribe()

    def of(self, kind: type[E], path: str | None = None) -> list[E]:
        """Those of one kind so far, of the node at `path` if one is given."""
        return [event for event in self.events if isinstance(event, kind) and path in (None, event.path)]

    async def wait_for(self, kind: type[E], path: str | None = None, *, count: int = 1) -> E:
        """Wait until there are `count` of a kind, and return the one that made it so many."""
        while len(found := self.of(kind, path)) < count:
            await self._more.wait()
        await trio.lowlevel.checkpoint()
        return found[count - 1]

    def _record(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()
        self._more = trio.Event()
