"""Found in review: from the second background task on, what a handler spawned ran with the handler's own context."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import MockClock

import creche
from creche.runtime.context import baggage, carrying


class Spawner(creche.Actor):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def spawn(self) -> None:
        self.context.spawn(self._look)

    async def look(self) -> list[Any]:
        return self.seen

    async def _look(self) -> None:
        me: creche.Handle[Spawner] = self.context.handle
        await me.ask.look()  # refused as a circle if this task counted as the handler
        self.seen.append((dict(baggage()), creche.current_deadline()))


async def test_every_background_task_has_a_clean_context(autojump_clock: MockClock) -> None:
    """No baggage, no deadline, and no place in the wait-for graph: for the first task and for later ones."""
    async with creche.open_runtime("test") as runtime:
        spawner = await runtime.start(creche.child(Spawner))
        with carrying(trace="abc"):
            for _ in range(3):
                await spawner.within(5).ask.spawn()
                await trio.sleep(1)
        assert await spawner.ask.look() == [({}, float("inf"))] * 3
        assert spawner.statistics().incarnation == 1
