"""The strategy `dependents`: a crashed child restarts with the siblings that depend on it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import Crashed, GroupRestart
from creche.runtime.node import State
from creche.runtime.spec import Spec
from creche.supervisors.spec import SupervisorSpec, supervisor
from tests.core.support import Gate, Probe, asking, reach, recorded, settle
from tests.supervisors.test_restarts import MANY, Named, states


def tree(log: list[str], needs: dict[str, tuple[str, ...]], **rules: Any) -> SupervisorSpec:
    """A root whose children depend on each other as `needs` says."""
    children: list[Spec[Any]] = [
        creche.child(Named, log, name).options(name=name, depends_on=on, backoff=AT_ONCE, **rules)
        for name, on in needs.items()
    ]
    return supervisor("root", *children, strategy="dependents", intensity=MANY)


AT_ONCE = creche.Backoff(first=0)
DIAMOND = {"db": (), "cache": ("db",), "log": (), "api": ("cache", "log")}


@pytest.mark.parametrize(
    ("victim", "story"),
    [
        ("db", "-api1 -cache1 -db1 +db2 =db2 +cache2 =cache2 +api2 =api2"),
        ("cache", "-api1 -cache1 +cache2 =cache2 +api2 =api2"),
        ("log", "-api1 -log1 +log2 =log2 +api2 =api2"),
        ("api", "-api1 +api2 =api2"),
    ],
)
async def test_dependents_restart_with_what_they_depend_on(victim: str, story: str) -> None:
    """The crashed child and all that depend on it, over any number of steps, end in reverse and start in order."""
    log: list[str] = []
    async with creche.open_runtime("t", root=tree(log, DIAMOND)) as runtime:
        log.clear()
        runtime.kill(f"root/{victim}", "now")
        await settle()
        assert sorted(log) == sorted(story.split())
        starts = [entry for entry in log if entry[0] in "+="]
        assert starts == [entry for entry in story.split() if entry[0] in "+="]
        ends = [entry for entry in log if entry[0] == "-" and entry != f"-{victim}1"]
        assert ends == [entry for entry in story.split() if entry[0] == "-" and entry != f"-{victim}1"]


class Holder(Probe):
    """Was given the handle of another actor."""

    def __init__(self, other: creche.Handle[Probe], *, log: list[str] | None = None) -> None:
        super().__init__(log)
        self.other = other


async def test_handles_tell_who_depends_on_whom() -> None:
    """A child that was given the handle of a sibling depends on it; no name has to be told."""
    async with creche.open_runtime("t", root=supervisor("root", strategy="dependents", intensity=MANY)) as runtime:
        first = await runtime.start(creche.child(Probe))
        second = await runtime.start(creche.child(Holder, first))
        third = await runtime.start(creche.child(Holder, other=second))
        beside = await runtime.start(creche.child(Probe))
        seen = recorded(runtime)
        runtime.kill(first, "now")
        await settle()
        assert [await handle.ask.life() for handle in (first, second, third, beside)] == [2, 2, 2, 1]
        assert [e.children for e in seen if isinstance(e, GroupRestart)] == [("probe", "holder", "holder-2")]


async def test_a_handle_to_what_a_sibling_holds_is_a_dependency() -> None:
    """What depends on an actor depends on the supervisors above it: it restarts with them, and not with it."""
    inner = creche.child(Probe).options(name="inner")
    root = supervisor("root", supervisor("sub", inner), strategy="dependents", intensity=MANY)
    async with creche.open_runtime("t", root=root) as runtime:
        holder = await runtime.start(creche.child(Holder, reach(runtime, "root/sub/inner", Probe)))
        runtime.kill("root/sub/inner", "below")
        await settle()
        assert await holder.ask.life() == 1
        runtime.kill("root/sub", "the sibling itself")
        await settle()
        assert await holder.ask.life() == 2


async def test_two_groups_at_once_lose_nobody(autojump_clock: MockClock) -> None:
    """A crash in another family while one comes up: all members of both come up in the end."""
    log: list[str] = []
    needs: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",), "c": ("a",), "x": (), "y": ("x",)}
    async with creche.open_runtime("t", root=tree(log, needs)) as runtime:
        for _ in range(30):
            runtime.kill("root/a", "one")
            for _ in range(runtime.random.randrange(12)):
                await trio.lowlevel.checkpoint()
            runtime.kill("root/x", "other")
            await settle()
            assert states(runtime) == "running running running running running"


async def test_a_crash_of_a_stranger_does_not_join(autojump_clock: MockClock) -> None:
    """While a group is being paused, only a crash of its own family is uncharged."""
    log: list[str] = []
    needs: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",), "x": ()}
    root = supervisor("root", *tree(log, needs).children, strategy="dependents", intensity=creche.Intensity(1, 60))
    with pytest.raises(creche.TreeFailed):
        async with creche.open_runtime("t", root=root) as runtime, trio.open_nursery() as nursery:
            gate = Gate()
            asking(nursery, reach(runtime, "root/b", Named).ask.hold, gate)
            await gate.entered.wait()
            runtime.kill("root/a", "one charge")
            await settle()
            assert runtime.node_of("root/b").state is State.STOPPING
            runtime.kill("root/x", "and one more")
            await trio.sleep(1)


async def test_the_last_of_a_chain_restarts_by_itself() -> None:
    """Nobody depends on it: no group, and no other actor notices."""
    log: list[str] = []
    async with creche.open_runtime("t", root=tree(log, DIAMOND)) as runtime:
        seen = recorded(runtime)
        with pytest.raises(creche.OutcomeUnknown):
            await reach(runtime, "root/api", Named).ask.crash("a bug")
        await settle()
        assert not [event for event in seen if isinstance(event, GroupRestart)]
        assert [event.path for event in seen if isinstance(event, Crashed)] == ["root/api"]
