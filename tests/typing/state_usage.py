"""How state machines, handover and stuck detection type: checked by mypy and pyright, never run. See `handle_usage`."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import assert_type

import trio

import creche
from creche.runtime.timers import Timers
from creche.runtime.wait_graph import Wait, WaitForGraph


class Link(creche.Actor):
    """Uses what a state machine needs."""

    def __init__(self) -> None:
        self.socket: trio.SocketStream | None = None
        assert_type(self.context.handed_over(int), int | None)
        assert_type(self.context.timers, Timers)

    @creche.handover(on_crash=True)
    def handover(self) -> int:
        return 1

    async def send(self, data: bytes) -> int:
        if self.socket is None:
            self.context.stash()  # nothing runs after it, so there is a socket below
        await self.socket.send_all(data)
        return len(data)

    @creche.message(reentrant=True, slow_after=2.0)
    async def look(self, name: str) -> bytes:
        return name.encode()

    async def set_timers(self) -> None:
        timers = self.context.timers
        timers.start("a", 1, self._tick, 5, "word")
        timers.start_at_fixed_rate(("b", 1), 0.5, self._tick, 5, "word")
        timers.start_with_fixed_delay(3, 0.5, self._tick, 5, "word")
        timers.start("a", 1, self._tick, "word", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        timers.start(["a"], 1, self._tick, 5, "word")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert_type(timers.cancel("a"), bool)
        assert_type(timers.active("a"), bool)
        assert_type(timers.due("a"), float | None)

    async def _tick(self, number: int, word: str) -> None: ...


async def use(link: creche.Handle[Link], runtime: creche.Runtime) -> None:
    assert_type(await link.ask.send(b""), int)
    assert_type(await link.ask.look("x"), bytes)
    assert_type(await link.call(Link.look, "x"), bytes)
    await link.ask.look(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    graph = runtime.wait_for_graph()
    assert_type(graph, WaitForGraph)
    for wait in graph:
        assert_type(wait, Wait)
        assert_type(wait.target, str)
    assert_type(graph.behind("root/link"), tuple[str, ...])
    assert_type(link.statistics().stashed, int)


async def watched() -> None:
    async with creche.open_runtime("x", watchdog=creche.Watchdog(stall_after=2, report=print)) as runtime:
        await runtime.start(creche.child(Link).options(slow_after=1.5, on_slow="kill", stash=5))


def wrong() -> None:
    creche.child(Link).options(on_slow="shout")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    creche.message(reentrant="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
