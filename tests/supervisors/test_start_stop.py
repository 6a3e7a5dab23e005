"""The order in which a tree comes up and goes down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.errors import NotStarted, SpecInvalid
from creche.runtime.node import State
from creche.runtime.spec import ActorSpec, Spec
from creche.supervisors.supervisor import SupervisorSpec, supervisor
from tests.core.support import Boom, Gate, Probe, asking, kinds, reach, recorded, settle


class Named(Probe):
    """Takes a second to start and a second to end, and notes both."""

    def __init__(self, log: list[str], name: str, fails: bool = False) -> None:
        super().__init__(log)
        self.name, self.fails = name, fails

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.log.append(f"+{self.name}")
        await trio.sleep(1)
        if self.fails:
            raise Boom(f"{self.name} cannot start")
        self.log.append(f"={self.name}")
        yield
        await trio.sleep(1)
        self.log.append(f"-{self.name}")


class Hanging(Probe):
    """Never gets ready."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await trio.Event().wait()
        yield


def tree(log: list[str]) -> SupervisorSpec:
    def named(name: str) -> ActorSpec[Named]:
        return creche.child(Named, log, name).options(name=name)

    return supervisor("root", named("a"), supervisor("sub", named("b"), named("c")), named("d"))


async def test_start_left_to_right_each_ready(autojump_clock: MockClock) -> None:
    """Children start from first to last, depth first, each ready before the next; then the block is entered."""
    log: list[str] = []
    async with creche.open_runtime("t", root=tree(log)):
        assert log == ["+a", "=a", "+b", "=b", "+c", "=c", "+d", "=d"]
        assert trio.current_time() == 4


async def test_stop_right_to_left(autojump_clock: MockClock) -> None:
    """Children stop from last to first, depth first, each ended before the next is asked."""
    log: list[str] = []
    async with creche.open_runtime("t", root=tree(log)) as runtime:
        log.clear()
        seen = recorded(runtime)
    assert log == ["-d", "-c", "-b", "-a"]
    stopped = [event.path for event in seen if event.kind == "Stopped"]
    assert stopped == ["root/d", "root/sub/c", "root/sub/b", "root/sub", "root/a", "root"]


async def test_a_failed_start_rolls_back(autojump_clock: MockClock) -> None:
    """When a child cannot start, those before it are stopped in reverse and those after it never start."""
    log: list[str] = []
    children = [creche.child(Named, log, name, fails=name == "c").options(name=name) for name in ("a", "b", "c", "d")]
    async with creche.open_runtime("t") as runtime:
        with pytest.raises(creche.StartFailed) as caught:
            await runtime.start(supervisor("sub", *children))
        assert log == ["+a", "=a", "+b", "=b", "+c", "-b", "-a"]
        assert caught.value.path == "root/sub"
        inner = caught.value.__cause__
        assert isinstance(inner, creche.StartFailed)
        assert inner.path == "root/sub/c"
        assert repr(inner.__cause__) == "Boom('c cannot start')"
        assert [node.path for node in runtime.tree()] == ["root"]


async def test_a_supervisor_handle_names_it() -> None:
    """`runtime.start` of a supervisor gives a handle to look at, stop or kill; it takes no messages."""
    spec = supervisor("sub", creche.child(Probe))
    handle = spec.new_handle()
    with pytest.raises(NotStarted):
        _ = handle.path
    async with creche.open_runtime("t") as runtime:
        sub = await runtime.start(spec)
        assert sub.path == "root/sub"
        assert "sub" in repr(sub)
        probe = reach(runtime, "root/sub/probe", Probe)
        assert runtime.kill(sub, "now")
        assert await probe.ask.life() == 2
        await runtime.stop(sub)
        with pytest.raises(creche.ActorStopped):
            await probe.ask.life()


def test_siblings_need_different_names() -> None:
    """Two children of one name are refused when the supervisor's spec is made."""
    with pytest.raises(SpecInvalid, match="different names"):
        supervisor("s", creche.child(Probe), creche.child(Probe))
    supervisor("s", creche.child(Probe), creche.child(Probe).options(name="other"))


async def test_dynamic_children_end_for_good(autojump_clock: MockClock) -> None:
    """A child that was started at run time is not brought back by a restart of anything above it; static ones are."""
    async with creche.open_runtime("t", root=supervisor("root", creche.child(Probe))) as runtime:
        await runtime.start(supervisor("sub", creche.child(Probe)))
        inner = reach(runtime, "root/sub/probe", Probe)
        runtime.kill("root/sub", "now")
        assert await inner.ask.life() == 2
        await runtime.stop("root/sub")
        with pytest.raises(creche.ActorStopped):
            await inner.ask.life()
        assert [node.path for node in runtime.tree()] == ["root", "root/probe"]


async def test_a_stopped_static_child_stays_stopped(autojump_clock: MockClock) -> None:
    """`runtime.stop` of a static child is final, over restarts of its supervisor too."""
    children = [creche.child(Probe).options(name=name) for name in ("a", "b")]
    async with creche.open_runtime("t", root=supervisor("root", supervisor("sub", *children))) as runtime:
        await runtime.stop("root/sub/a")
        runtime.kill("root/sub", "now")
        assert await reach(runtime, "root/sub/b", Probe).ask.life() == 2
        with pytest.raises(creche.ActorStopped):
            await reach(runtime, "root/sub/a", Probe).ask.life()


async def test_stop_during_the_start_of_a_subtree(autojump_clock: MockClock) -> None:
    """A supervisor that is still starting can be stopped at once: the start under way is cancelled, the rest
    rolled back."""
    log: list[str] = []
    children: list[Spec[Any]] = [creche.child(Named, log, "a").options(name="a"), creche.child(Hanging)]
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        reply = asking(nursery, runtime.start, supervisor("sub", *children))
        await trio.sleep(2)
        await runtime.stop("root/sub")
        assert await reply.settled() in ("StartFailed", "ActorStopped")
        assert log == ["+a", "=a", "-a"]
        assert trio.current_time() == 3


async def test_stop_while_a_supervisor_is_down(autojump_clock: MockClock) -> None:
    """A stop does not wait for a supervisor's backoff; what waits at its children is answered."""
    backoff = creche.Backoff(first=50, cap=50, free=0)
    sub = supervisor("sub", creche.child(Probe).options(down_wait=1000), intensity=creche.Intensity(0, 5))
    root = supervisor("root", sub.options(backoff=backoff))
    async with trio.open_nursery() as nursery:
        async with creche.open_runtime("t", root=root) as runtime:
            probe = reach(runtime, "root/sub/probe", Probe)
            runtime.kill(probe, "too often")
            await runtime.node_of("root/sub").wait_for(State.DOWN)
            reply = asking(nursery, probe.ask.life)
            await settle()
        assert await reply.settled() in ("NotDelivered", "ActorStopped")
        assert trio.current_time() == 0


async def test_stop_while_a_group_waits(autojump_clock: MockClock) -> None:
    """A stop ends a group restart that is under way, in its delay or in its pause."""
    backoff = creche.Backoff(first=50, cap=50, free=0)
    children = [creche.child(Probe).options(name=name, backoff=backoff) for name in ("a", "b")]
    async with creche.open_runtime("t", root=supervisor("root", *children, strategy="rest_for_one")) as runtime:
        seen = recorded(runtime)
        runtime.kill("root/a", "now")
        await settle()
    assert trio.current_time() == 0
    assert kinds(seen, "root/b") == ["Stopped"]


async def test_a_child_that_does_not_end_is_named_and_waited_for(autojump_clock: MockClock) -> None:
    """Only the child that does not end is reported; its siblings wait for it, so the order holds all the same."""

    async def stubborn(probe: Probe) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    log: list[str] = []
    children: list[Spec[Any]] = [
        creche.child(Named, log, "a").options(name="a"),
        creche.child(Probe).options(name="b", drain=1, shutdown=1),
    ]
    async with trio.open_nursery() as nursery:
        async with creche.open_runtime("t", root=supervisor("root", *children), stop_within=1000) as runtime:
            asking(nursery, reach(runtime, "root/b", Probe).ask.run, stubborn)
            await settle()
    assert [unstopped.path for unstopped in runtime.unstopped] == ["root/b"]
    assert log[-1] == "-a"
    assert trio.current_time() == 62


async def test_cells_start_with_the_mail_they_had(autojump_clock: MockClock) -> None:
    """A message that was accepted by a cell before its supervisor's restart is handled after it."""
    log: list[str] = []
    sub = supervisor("sub", creche.child(Probe, log))
    async with creche.open_runtime("t", root=supervisor("root", sub)) as runtime, trio.open_nursery() as nursery:
        probe = reach(runtime, "root/sub/probe", Probe)
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        probe.cast_nowait(Probe.note, "kept")
        runtime.kill("root/sub", "now")
        assert await probe.ask.life() == 2
        assert log == ["kept"]
        assert runtime.node_of(probe) is runtime.node_of("root/sub/probe")
