"""The seam for faults and records between a runtime and its actors, and the wall clock that can be stepped."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TypeVar, cast

import pytest

import creche
import creche.testing
from creche.runtime.intake import Intake
from creche.runtime.interposition import interposed

I = TypeVar("I", bound=Intake)  # noqa: E741


class Echo(creche.Actor):
    async def echo(self, text: str) -> str:
        return text


class Between:
    """Notes what it is told, counts calls, and lets the first construction fail if it is told to."""

    def __init__(self, refuse: int = 0) -> None:
        self.runtimes: list[creche.Runtime] = []
        self.actors: list[creche.Actor] = []
        self.refuse = refuse
        self.exchanged: list[str] = []

    def opened(self, runtime: creche.Runtime) -> None:
        self.runtimes.append(runtime)

    def intake_class(self, cls: type[I]) -> type[I]:
        return cast("type[I]", type("Recorded", (cls,), {"__slots__": ()}))

    def constructed(self, actor: creche.Actor) -> None:
        self.actors.append(actor)
        if self.refuse:
            self.refuse -= 1
            raise RuntimeError("refused")

    def in_front_of(self, actor: creche.Actor, names: Iterable[str]) -> None:
        self.exchanged += names


async def test_an_interposer_sees_the_runtime_each_cell_and_each_incarnation() -> None:
    between = Between()
    with interposed(between):
        opening = creche.open_runtime("r")
    async with opening as runtime:
        echo = await runtime.start(creche.child(Echo))
        runtime.kill(echo, "again")
        assert await echo.ask.echo("x") == "x"
        assert between.runtimes == [runtime]
        assert [type(actor) for actor in between.actors] == [Echo, Echo]
        assert type(runtime.node_of(echo)).__name__ == "Recorded"


async def test_what_it_raises_is_a_failure_of_the_start() -> None:
    with interposed(Between(refuse=1)):
        opening = creche.open_runtime("r")
    async with opening as runtime:
        with pytest.raises(creche.StartFailed, match="refused"):
            await runtime.start(creche.child(Echo))
        await runtime.start(creche.child(Echo))


async def test_runtimes_made_outside_of_the_block_have_none() -> None:
    with interposed(Between()):
        pass
    async with creche.open_runtime("r") as runtime:
        assert runtime.interposer is None


async def test_the_wall_clock_is_the_systems_and_can_be_stepped() -> None:
    async with creche.open_runtime("r") as runtime:
        before = time.time()
        assert before <= runtime.wall_clock() <= time.time()
        runtime.step_wall_clock(-3600)
        assert before - 3600 <= runtime.wall_clock() <= time.time() - 3600
        with pytest.raises(creche.SpecInvalid, match="finite"):
            runtime.step_wall_clock(math.nan)


def test_in_a_deterministic_run_the_wall_clock_is_virtual() -> None:
    async def read() -> float:
        async with creche.open_runtime("r") as runtime:
            return runtime.wall_clock()

    assert creche.testing.run(read) == creche.testing.run(read) < time.time()
