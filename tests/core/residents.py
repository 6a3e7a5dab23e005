"""Actors that hold all that an actor can hold, alone and in teams, and the proof that they give it back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

import creche
from creche.runtime.component import ComponentHandle, ComponentSpec
from creche.runtime.spec import Spec
from tests.core.support import LONG, Boom, Flag, Probe

LATER = creche.Backoff(first=1, factor=1, jitter=0, free=0)  # restarts come a second after the crash


class Resident(Probe):
    """Has a lifespan with a nursery, background work, a lease and a kept resource, and tells when each begins and ends.

    `trouble` says where it fails; it takes `pause` seconds to be ready and a tenth of a second to leave.
    """

    def __init__(self, log: list[str], trouble: str = "", pause: float = 1.0) -> None:
        super().__init__(log)
        self.trouble = trouble
        self.pause = pause
        self.me = f"{self.context.path}#{self.context.incarnation}"
        if trouble == "init":
            raise Boom
        self.context.keep("port", lambda: log.append(f"make {self.context.path}"), self._close)
        self.context.grant(Flag(log, self.me))
        log.append(f"grant {self.me}")
        self.context.spawn(self._background)
        self.context.after(0.3, self._tick)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        self.log.append(f"enter {self.me}")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                if self.trouble == "enter":
                    raise Boom
                await trio.sleep(self.pause)
                yield
                nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(min(self.pause, 0.1))
            self.log.append(f"leave {self.me}")
        if self.trouble == "leave":
            raise Boom

    async def _background(self) -> None:
        self.log.append(f"begin {self.me}")
        try:
            if self.trouble == "background":
                raise Boom
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.log.append(f"end {self.me}")

    async def _tick(self) -> None:
        self.log.append(f"tick {self.me}")
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self.log.append(f"tock {self.me}")

    def _close(self, _port: object) -> None:
        self.log.append(f"close {self.context.path}")


Make = Callable[[list[str]], Spec[Any]]
PAIRS = {"make": "close", "grant": "revoked", "enter": "leave", "begin": "end", "tick": "tock"}


def prove_balanced(log: list[str]) -> None:
    """All that was begun has been ended, once, and no two incarnations of an actor overlap."""
    held: list[str] = []
    for line in log:
        word, _, whose = line.partition(" ")
        if word in PAIRS:
            path = whose.partition("#")[0]
            assert not [line for line in held if line.startswith(f"{PAIRS[word]} {path}#") and not line.endswith(whose)]
            held.append(f"{PAIRS[word]} {whose}")
        elif line in held:
            held.remove(line)
        else:
            assert word not in PAIRS.values(), f"{line}, twice or without a beginning: {log}"
    assert held == [], f"not ended: {held} in {log}"


def resident(
    log: list[str], name: str = "resident", pause: float = 1.0, **options: Any
) -> Spec[creche.Handle[Resident]]:
    return creche.child(Resident, log, pause=pause).options(name=name, backoff=LATER, **options)


def plain(log: list[str]) -> Spec[creche.Handle[Probe]]:
    return creche.child(Probe, log)


def slow(log: list[str]) -> Spec[creche.Handle[Resident]]:
    """Takes hours to be ready."""
    return resident(log, "slow", pause=LONG)


def team(log: list[str], *more: Spec[Any], pause: float = 1.0) -> Spec[Any]:
    inner = creche.supervisor("inner", resident(log, "two", pause), creche.child(Probe, log))
    return creche.supervisor("team", resident(log, "one", pause), inner, *more)


def component(log: list[str]) -> Spec[Any]:
    return ComponentSpec("component", team(log), ComponentHandle)


def troubled(trouble: str) -> Make:
    return lambda log: creche.child(Resident, log, trouble).options(name="troubled", backoff=LATER)


def team_in_trouble(log: list[str]) -> Spec[Any]:
    return team(log, troubled("enter")(log))
