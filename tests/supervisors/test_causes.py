"""What a failed tree tells: who crashed how often of what, and who gave up because of it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from trio.testing import MockClock

import creche
from creche.runtime.errors import IntensityExceeded, StartFailed
from creche.runtime.events import BadStop
from creche.supervisors.spec import SupervisorSpec, supervisor
from tests.core.support import Boom, Probe, reach, recorded, settle

AT_ONCE = creche.Backoff(first=0)
HERE = r"at .*test_causes\.py:\d+, in "


class Faulty(Probe):
    """Crashes in more than one way."""

    async def look_up(self) -> None:
        try:
            dict[str, int]()["key"]
        except KeyError as error:
            raise Boom("looked for it in vain") from error

    async def divide(self) -> None:
        raise ZeroDivisionError("by zero\nwith a second line")


def faulty(name: str, **rules: Any) -> Any:
    return creche.child(Faulty).options(name=name, backoff=AT_ONCE, **rules)


async def told(root: SupervisorSpec, crashes: list[tuple[str, str]]) -> list[str]:
    """The lines for a tree in which these actors crash in these ways."""
    with pytest.raises(creche.TreeFailed) as caught:
        async with creche.open_runtime("t", root=root) as runtime:
            for path, how in crashes:
                with pytest.raises(creche.OutcomeUnknown):
                    await getattr(reach(runtime, path, Faulty).ask, how)()
                await settle()
    return creche.cause_tree(caught.value).split("\n")


async def test_a_failed_tree_tells_who_crashed_how_often_of_what(autojump_clock: MockClock) -> None:
    """From the root down to the line of code: `creche.cause_tree`, which is also what the process prints."""
    inner = supervisor("inner", faulty("a"), faulty("b"), intensity=creche.Intensity(3, 60))
    root = supervisor("root", inner, faulty("c"), intensity=creche.Intensity(1, 60))
    a, b = "root/inner/a", "root/inner/b"
    crashes = [("root/c", "divide"), (a, "divide"), (a, "divide"), (a, "crash"), (b, "look_up")]
    *lines, raised, cause, raised_from, last = await told(root, crashes)
    assert lines == [
        "t: the tree has failed",
        "└─ root gave up: more than 1 restart in 60 s",
        "   ├─ root/inner gave up once: more than 3 restarts in 60 s",
        "   │  ├─ root/inner/a crashed 2 times: ZeroDivisionError: by zero",
        "   │  ├─ root/inner/a crashed once: Boom: boom",
        "   │  └─ root/inner/b crashed once: Boom: looked for it in vain",
    ]
    assert re.fullmatch("   │     ├─ " + HERE + "look_up", raised)
    assert cause == "   │     └─ KeyError: 'key'"
    assert re.fullmatch("   │        └─ " + HERE + "look_up", raised_from)
    assert last == "   └─ root/c crashed once: ZeroDivisionError: by zero"


async def test_a_failed_tree_tells_whose_budget_was_spent(autojump_clock: MockClock) -> None:
    """A child's own budget is named with the child."""
    root = supervisor("root", faulty("a", intensity=creche.Intensity(1, 60)), intensity=creche.Intensity(9, 60))
    lines = await told(root, [("root/a", "divide")] * 2)
    assert lines[1] == "└─ root gave up: more than 1 restart of root/a in 60 s"
    assert lines[2] == "   └─ root/a crashed 2 times: ZeroDivisionError: by zero"


class Stubborn(Probe):
    """Fails at its start, or at its end."""

    def __init__(self, log: list[str], name: str, fails: str = "") -> None:
        super().__init__(log)
        self.name, self.fails = name, fails

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.log.append(f"+{self.name}")
        if self.fails == "start":
            raise Boom("no start")
        yield
        self.log.append(f"-{self.name}")
        if self.fails == "end":
            raise Boom("no end")


async def test_a_rolled_back_start_tells_its_causes() -> None:
    """Those that had started are stopped in reverse, through all levels; what fails in that is a `BadStop`, and the
    cause stays the first failure."""
    log: list[str] = []

    def child(name: str, fails: str = "") -> Any:
        return creche.child(Stubborn, log, name, fails).options(name=name)

    sub = supervisor("sub", child("b"), child("c", "end"), child("d", "start"), child("e"))
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        with pytest.raises(creche.StartFailed) as caught:
            await runtime.start(supervisor("top", child("a"), sub))
        assert log == ["+a", "+b", "+c", "+d", "-c", "-b", "-a"]
        assert [event.path for event in seen if isinstance(event, BadStop)] == ["root/top/sub/c"]
        *lines, place = creche.cause_tree(caught.value).split("\n")
        assert lines == [
            "root/top failed to start",
            "└─ root/top/sub failed to start",
            "   └─ root/top/sub/d failed to start",
            "      └─ Boom: no start",
        ]
        assert re.fullmatch(r" {9}└─ " + HERE + "lifespan", place)
        assert runtime.tree().children == ()


async def test_a_tree_that_cannot_start_tells_its_causes() -> None:
    """The same at the root, under the name of the runtime."""
    root = supervisor("root", supervisor("sub", creche.child(Stubborn, [], "a", "start")))
    with pytest.raises(creche.TreeFailed) as caught:
        async with creche.open_runtime("t", root=root):
            raise AssertionError("the body runs")
    lines = creche.cause_tree(caught.value).split("\n")
    assert lines[:3] == [
        "t: the tree has failed",
        "└─ root/sub failed to start",
        "   └─ root/sub/stubborn failed to start",
    ]


def test_a_circle_of_causes_ends() -> None:
    """A chain of causes that leads round to itself is cut."""
    error = Boom("round")
    error.__cause__ = error
    assert 10 < len(creche.cause_tree(error).split("\n")) < 50
    exceeded = IntensityExceeded("root", creche.Intensity(), (), last="root/a")
    exceeded.__cause__ = StartFailed("root/a", "x")
    assert creche.cause_tree(exceeded) == "root gave up: more than 3 restarts in 5 s"
