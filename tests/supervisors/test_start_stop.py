"""The order in which a tree comes up and goes down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.context import actor_path
from creche.runtime.errors import NotStarted, SpecInvalid
from creche.runtime.events import Event
from creche.runtime.node import State, Want
from creche.runtime.spec import ActorSpec, Spec
from creche.supervisors.children import ENDS_PER_PASS, STARTS_PER_PASS
from creche.supervisors.spec import SupervisorSpec, supervisor
from tests.core.support import Boom, Gate, Probe, asking, kinds, reach, recorded, settle

MANY = 80  # more than a supervisor starts in one pass
assert MANY > 4 * STARTS_PER_PASS


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


class Numbered(Probe):
    """A plain actor: ready when it has been constructed, which it notes, with how many of its siblings run by then."""

    def __init__(
        self, log: list[tuple[int, int]], number: int, surprise: Callable[[Probe], object] | None = None
    ) -> None:
        super().__init__()
        parent = self.context.runtime.node_of(self.context.path.rpartition("/")[0])
        log.append((number, sum(node.state is State.RUNNING for node in parent.children())))
        if surprise is not None:
            surprise(self)


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


async def test_plain_children_start_in_order() -> None:
    """Each of many plain children is ready before the next is constructed; one that has to wait stands in between."""
    log: list[tuple[int, int]] = []
    children: list[Spec[Any]] = [creche.child(Numbered, log, n).options(name=f"n{n}") for n in range(MANY)]
    children[50] = creche.child(Named, [], "slow").options(name="slow")
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        await runtime.start(supervisor("sub", *children))
        names = [name for event in seen if event.kind in ("Started", "Ready") and (name := event.path[9:])]
        assert names == [f"n{n}" if n != 50 else "slow" for n in range(MANY) for _ in range(2)]
        assert log == [(n, n) for n in range(MANY) if n != 50]


async def test_a_plain_child_that_cannot_start_rolls_back() -> None:
    """When one of many plain children cannot start, those after it are not even constructed, and all is undone."""

    def fail(probe: Probe) -> None:
        raise Boom("n70 cannot start")

    log: list[tuple[int, int]] = []
    children = [creche.child(Numbered, log, n, fail if n == 70 else None).options(name=f"n{n}") for n in range(MANY)]
    async with creche.open_runtime("t") as runtime:
        with pytest.raises(creche.StartFailed) as caught:
            await runtime.start(supervisor("sub", *children))
        assert log == [(n, n) for n in range(71)]
        assert repr(caught.value.__cause__) == "StartFailed('root/sub/n70: failed to start: Boom: n70 cannot start')"
        assert [node.path for node in runtime.tree()] == ["root"]


async def test_a_kill_among_plain_starts() -> None:
    """A supervisor that is killed while it starts many plain children starts no more of them."""

    def kill(probe: Probe) -> None:
        assert probe.context.runtime.kill("root/sub", "not like this")

    log: list[tuple[int, int]] = []
    children = [creche.child(Numbered, log, n, kill if n == 40 else None).options(name=f"n{n}") for n in range(MANY)]
    async with creche.open_runtime("t") as runtime:
        with pytest.raises(creche.StartFailed, match="not like this"):
            await runtime.start(supervisor("sub", *children))
        assert log == [(n, n) for n in range(41)]


async def test_an_actor_serves_until_its_turn_to_stop(autojump_clock: MockClock) -> None:
    """An idle actor is stopped when those to its right have ended, not before; until then it can be reached."""
    children = [creche.child(Probe).options(name=name) for name in ("a", "b", "c", "d")]
    async with creche.open_runtime("t", root=supervisor("root", *children)) as runtime, trio.open_nursery() as nursery:
        a, b, c, d = (reach(runtime, f"root/{name}", Probe) for name in ("a", "b", "c", "d"))
        seen = recorded(runtime)

        async def ask_around(probe: Probe) -> list[int]:
            await trio.sleep(1)
            with pytest.raises(creche.ActorStopped):
                await d.ask.life()
            return [await a.ask.life(), await b.ask.life()]

        asked = asking(nursery, c.ask.run, ask_around)
        await settle()
        nursery.start_soon(runtime.close, 10)
        assert await asked.settled() == "value"
        assert asked.value == [1, 1]
    stopped = [event.path for event in seen if event.kind == "Stopped"]
    assert stopped == ["root/d", "root/c", "root/b", "root/a", "root"]


async def test_an_idle_actor_closes_what_it_kept() -> None:
    """What an actor keeps is closed on its own behalf, also when it was idle; then those to its left are stopped."""
    log: list[str | None] = []

    class Keeping(Probe):
        def __init__(self) -> None:
            super().__init__()
            self.context.keep("port", str, lambda port: log.append(actor_path()))

    children: list[Spec[Any]] = [creche.child(Probe), creche.child(Keeping), creche.child(Probe).options(name="last")]
    async with creche.open_runtime("t", root=supervisor("root", *children)) as runtime:
        runtime.events.subscribe(lambda event: log.append(event.path) if event.kind == "Stopped" else None)
    assert log == ["root/last", "root/keeping", "root/keeping", "root/probe", "root"]


async def test_a_stop_at_the_moment_of_readiness(autojump_clock: MockClock) -> None:
    """A supervisor that is asked to stop just when a child gets ready stops that child as any other: its mail is
    handled."""
    log: list[str] = []

    class Written(Named):
        def __init__(self) -> None:
            super().__init__(log, "a")
            self.context.handle.cast_nowait(Written.note, "mail")

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:

        def stop(event: Event) -> None:
            if event.kind == "Ready" and event.path == "root/sub/written":
                runtime.node_of("root/sub").ask_to(Want.DRAIN)

        runtime.events.subscribe(stop)
        started = asking(nursery, runtime.start, supervisor("sub", creche.child(Written)))
        assert await started.settled() == "StartFailed"
    assert log == ["+a", "=a", "mail", "-a"]


async def test_a_crowd_starves_nobody() -> None:
    """While a supervisor starts and stops many idle children, others run in between."""
    steps: list[int] = []

    async def heartbeat() -> None:
        while True:
            steps.append(1)
            await trio.lowlevel.checkpoint()

    crowd = supervisor("crowd", *(creche.child(Probe).options(name=f"n{n}") for n in range(10 * STARTS_PER_PASS)))
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat)
        await trio.lowlevel.checkpoint()
        before = len(steps)
        handle = await runtime.start(crowd)
        started = len(steps)
        await runtime.stop(handle)
        assert started - before >= 10
        assert len(steps) - started >= 10 * STARTS_PER_PASS // ENDS_PER_PASS
        nursery.cancel_scope.cancel()


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
