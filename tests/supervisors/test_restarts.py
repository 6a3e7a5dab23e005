"""Who is restarted, how often, when, and what happens when it was too often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import Crashed, Escalated, Event, Restarting
from creche.runtime.life import CRASHES_PER_PASS
from creche.runtime.node import State
from creche.runtime.spec import Restart, Spec
from creche.supervisors.spec import SupervisorSpec, supervisor
from creche.supervisors.strategies import Strategy
from tests.core.support import Boom, Gate, Probe, asking, cell_of, kinds, reach, recorded, settle

MANY = creche.Intensity(1000, 1)


class Named(Probe):
    """Notes when it gets ready and when it ends; may fail or hang on given lives."""

    def __init__(self, log: list[str], name: str, *, slow: float = 0, fails: tuple[int, ...] = ()) -> None:
        super().__init__(log)
        self.name, self.slow, self.fails = name, slow, fails

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        life = self.context.incarnation
        self.log.append(f"+{self.name}{life}")
        await trio.sleep(self.slow)
        if life in self.fails:
            raise Boom(f"{self.name}{life} cannot start")
        self.log.append(f"={self.name}{life}")
        try:
            yield
        finally:
            self.log.append(f"-{self.name}{life}")


def group(
    log: list[str], *names: str, strategy: Strategy = "one_for_one", backoff: float = 0, slow: float = 0
) -> SupervisorSpec:
    """A root with named children that wait `backoff` seconds before each restart."""
    delay = creche.Backoff(first=backoff, cap=max(30, backoff), free=0, jitter=0)
    children = [creche.child(Named, log, name, slow=slow).options(name=name, backoff=delay) for name in names]
    return supervisor("root", *children, strategy=strategy, intensity=MANY)


def states(runtime: creche.Runtime) -> str:
    """The children's states, in start order."""
    return " ".join(node.state for node in list(runtime.tree())[1:])


async def test_one_for_one_restarts_one() -> None:
    """one_for_one: the crashed child restarts, its siblings do not notice."""
    log: list[str] = []
    async with creche.open_runtime("t", root=group(log, "a", "b", "c")) as runtime:
        log.clear()
        runtime.kill("root/b", "now")
        await settle()
        assert log == ["-b1", "+b2", "=b2"]


@pytest.mark.parametrize(
    ("restart", "how", "lives"),
    [
        ("permanent", "exit", True),
        ("permanent", "crash", True),
        ("transient", "exit", False),
        ("transient", "crash", True),
        ("temporary", "exit", False),
        ("temporary", "crash", False),
    ],
)
async def test_restart_types(restart: Restart, how: str, lives: bool) -> None:
    """permanent: always restarted; transient: after a crash only; temporary: never."""

    async def leave(probe: Probe) -> None:
        probe.context.exit()

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(restart=restart))
        if how == "crash":
            probe.cast_nowait(Probe.crash)
        else:
            probe.cast_nowait(Probe.run, leave)
        await settle()
        assert (runtime.tree().children != ()) is lives


async def test_temporary_crashes_cost_nothing() -> None:
    """A temporary child that crashes is not charged to the budget."""
    async with creche.open_runtime("t", intensity=creche.Intensity(0, 100)) as runtime:
        for _ in range(5):
            probe = await runtime.start(creche.child(Probe).options(restart="temporary"))
            with pytest.raises(creche.OutcomeUnknown):
                await probe.ask.crash()
        await settle()
        assert runtime.tree().state == "running"


async def test_intensity_is_the_limit(autojump_clock: MockClock) -> None:
    """At most `restarts` restarts within `window` seconds; one more and the supervisor gives up."""
    intensity = creche.Intensity(2, 10)
    with pytest.raises(creche.TreeFailed):
        async with creche.open_runtime("t", intensity=intensity) as runtime:
            probe = await runtime.start(creche.child(Probe).options(backoff=creche.Backoff(free=100)))
            for pause in (6, 6, 6, 6, 1, 1):
                runtime.kill(probe, "now")
                await trio.sleep(pause)
            assert runtime.tree().state == "running"
            runtime.kill(probe, "too often")
            await trio.sleep_forever()


async def test_escalation_restarts_the_subtree(autojump_clock: MockClock) -> None:
    """A nested supervisor that gives up is restarted by its parent with all its children; their mail and
    handles stay."""
    log: list[str] = []
    children = [creche.child(Named, log, name).options(name=name) for name in ("a", "b")]
    root = supervisor("root", supervisor("sub", *children, intensity=creche.Intensity(0, 5)))
    async with creche.open_runtime("t", root=root) as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        a, b = (reach(runtime, f"root/sub/{name}", Named) for name in ("a", "b"))
        gate = Gate()
        in_hand = asking(nursery, b.ask.hold, gate)
        await gate.entered.wait()
        queued = asking(nursery, b.ask.life)
        log.clear()
        with pytest.raises(creche.OutcomeUnknown):
            await a.ask.crash("too often")
        gate.opened.set()
        assert [await in_hand.settled(), await queued.settled()] == ["value", "value"]
        assert (queued.value, await a.ask.life()) == (2, 2)
        assert log == ["-a1", "held", "-b1", "+a2", "=a2", "+b2", "=b2"]
        assert kinds(seen, "root/sub") == ["Escalated", "Crashed", "Restarting", "Started", "Ready"]
        assert [event.path for event in seen if isinstance(event, Escalated)] == ["root/sub"]


@pytest.mark.parametrize("waits_for_the_crashed", [False, True])
async def test_giving_up_while_a_sibling_starts(waits_for_the_crashed: bool, autojump_clock: MockClock) -> None:
    """A supervisor that gives up ends a start that is under way, which may wait for the very child that crashed."""

    class Needy(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            sibling = reach(self.context.runtime, "root/sub/a", Probe)
            if self.context.incarnation == 1:
                with pytest.raises(creche.OutcomeUnknown):
                    await sibling.ask.crash("too often")
            if waits_for_the_crashed:
                await sibling.ask.life()
            else:
                await trio.sleep(1000)
            yield

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        crashing = creche.child(Probe).options(name="a", down_wait=1000)
        children: list[Spec[Any]] = [crashing, creche.child(Needy).options(name="b")]
        spec = supervisor("sub", *children, intensity=creche.Intensity(0, 5))
        reply = asking(nursery, runtime.start, spec)
        with trio.move_on_after(20) as limit:
            await reply.done.wait()
        if limit.cancelled_caught:
            runtime.kill("root/sub", "let the test end")
        assert not limit.cancelled_caught
        assert await reply.settled() == "StartFailed"


async def test_a_restarted_supervisor_starts_in_order(autojump_clock: MockClock) -> None:
    """When a supervisor restarts, its children start from first to last, each ready before the next, as the
    first time."""
    log: list[str] = []
    children = [creche.child(Named, log, name, slow=1).options(name=name) for name in ("a", "b", "c")]
    async with creche.open_runtime("t", root=supervisor("root", supervisor("sub", *children))) as runtime:
        log.clear()
        runtime.kill("root/sub", "now")
        await runtime.node_of("root/sub").wait_for(State.DOWN, State.STARTING)
        await runtime.node_of("root/sub").wait_for(State.RUNNING)
        assert log[-6:] == ["+a2", "=a2", "+b2", "=b2", "+c2", "=c2"]


async def test_a_restarted_supervisor_has_a_fresh_budget(autojump_clock: MockClock) -> None:
    """The restarts that were charged to one incarnation of a supervisor do not count against the next."""
    sub = supervisor("sub", creche.child(Probe), intensity=creche.Intensity(1, 1000))
    async with creche.open_runtime("t", root=supervisor("root", sub)) as runtime:
        seen = recorded(runtime)
        for victim in ("root/sub/probe", "root/sub", "root/sub/probe"):
            runtime.kill(victim, "now")
            await trio.sleep(1)
        assert not [event for event in seen if isinstance(event, Escalated)]
        assert states(runtime) == "running running"


async def test_a_child_that_cannot_start_fails_its_supervisor(autojump_clock: MockClock) -> None:
    """When a supervisor restarts and a child cannot start, that is the supervisor's crash, and its parent's charge."""
    log: list[str] = []
    children = [
        creche.child(Named, log, "a").options(name="a"),
        creche.child(Named, log, "b", fails=(2,)).options(name="b"),
    ]
    sub = supervisor("sub", *children)
    root = supervisor("root", sub, intensity=creche.Intensity(2, 100))
    async with creche.open_runtime("t", root=root) as runtime:
        seen = recorded(runtime)
        runtime.kill("root/sub", "now")
        await trio.sleep(10)
        crashes = [event.error for event in seen if isinstance(event, Crashed) and event.path == "root/sub"]
        assert len(crashes) == 2
        assert crashes[1].startswith("StartFailed")
        assert states(runtime) == "running running running"


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
async def test_a_killed_supervisor_brings_its_children_back(restart: Restart, autojump_clock: MockClock) -> None:
    """Killing a supervisor is one crash: of it. Its static children are no crashes, and all start again with it."""
    child = creche.child(Probe).options(restart=restart)
    async with creche.open_runtime("t", root=supervisor("root", supervisor("sub", child))) as runtime:
        seen = recorded(runtime)
        assert runtime.kill("root/sub", "now")
        await trio.sleep(10)
        assert states(runtime) == "running running"
        assert [event.path for event in seen if isinstance(event, Crashed)] == ["root/sub"]


async def test_backoff_delays_restarts(autojump_clock: MockClock) -> None:
    """Restarts in a row are delayed more and more, as the child's backoff says; the events tell by how much."""
    backoff = creche.Backoff(first=1, factor=2, cap=5, free=1, jitter=0)
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(backoff=backoff, down_wait=99))
        for _ in range(5):
            runtime.kill(probe, "now")
            await probe.ask.life()
        assert [event.delay for event in seen if isinstance(event, Restarting)] == [0, 1, 2, 4, 5]
        assert trio.current_time() == 12


async def test_a_crash_loop_starves_nobody() -> None:
    """An actor that crashes again and again without awaiting anything, undelayed, still lets everybody else run."""
    steps: list[int] = []

    class Crashing(Probe):
        def __init__(self) -> None:
            super().__init__()
            if self.context.incarnation <= 300:
                self.context.handle.cast_nowait(Probe.crash)

    async def heartbeat() -> None:
        while True:
            steps.append(1)
            await trio.lowlevel.checkpoint()

    backoff = creche.Backoff(first=0, free=0)
    intensity = creche.Intensity(10_000, 1)
    async with creche.open_runtime("t", intensity=intensity) as runtime, trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat)
        await trio.lowlevel.checkpoint()
        before = len(steps)
        crashing = await runtime.start(creche.child(Crashing).options(backoff=backoff))
        while await crashing.ask.life() <= 300:
            pass
        assert len(steps) - before >= 300 // CRASHES_PER_PASS
        nursery.cancel_scope.cancel()


async def test_a_crash_loop_can_be_stopped() -> None:
    """An actor that crashes again and again, undelayed, is stopped as any other."""

    class Crashing(Probe):
        def __init__(self) -> None:
            super().__init__()
            self.context.handle.cast_nowait(Probe.crash)

    async with creche.open_runtime("t", intensity=creche.Intensity(10**6, 1)) as runtime:
        crashing = await runtime.start(creche.child(Crashing).options(backoff=creche.Backoff(first=0)))
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert cell_of(crashing).restarts > 5 * CRASHES_PER_PASS
        await runtime.stop(crashing)
        assert cell_of(crashing).state is State.STOPPED


async def test_a_kill_out_of_a_hook_hits_no_successor() -> None:
    """A kill by whoever is told of a crash comes too late: the next life is not hit by it."""
    log: list[str] = []
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        probe = await runtime.start(creche.child(Probe, log))
        gate = Gate()

        def kill_again(event: Event) -> None:
            if isinstance(event, Crashed):
                runtime.kill(probe, "once more")

        runtime.events.subscribe(kill_again)
        probe.cast_nowait(Probe.crash)
        probe.cast_nowait(Probe.hold, gate)  # in hand as soon as there is a next life
        await gate.entered.wait()
        await settle()
        gate.opened.set()
        assert await probe.ask.life() == 2
        assert log == ["held"]


async def test_a_crash_waits_for_background_work(autojump_clock: MockClock) -> None:
    """When a handler crashes, the next life begins when the background work of the last has ended."""

    async def body(probe: Probe) -> None:
        async def work() -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)

        probe.context.spawn(work)
        await settle()
        raise Boom("beside background work")

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.run(body)
        assert await probe.ask.life() == 2
        assert trio.current_time() == 3


async def test_healthy_time_resets_the_backoff(autojump_clock: MockClock) -> None:
    """An incarnation that was up for `reset_after` seconds starts the count anew."""
    backoff = creche.Backoff(first=1, free=0, jitter=0, reset_after=10)
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(backoff=backoff))
        for healthy in (0, 9, 10, 0):
            await probe.ask.life()
            await trio.sleep(healthy)
            runtime.kill(probe, "now")
            await settle()
        assert [event.delay for event in seen if isinstance(event, Restarting)] == [1, 2, 1, 2]


async def test_jitter_comes_from_the_seed(autojump_clock: MockClock) -> None:
    """Two runtimes with one seed delay alike."""

    async def delays(seed: int) -> list[float]:
        backoff = creche.Backoff(first=1, free=0, jitter=0.5)
        async with creche.open_runtime("t", intensity=MANY, seed=seed) as runtime:
            seen = recorded(runtime)
            probe = await runtime.start(creche.child(Probe).options(backoff=backoff, down_wait=1000))
            for _ in range(5):
                runtime.kill(probe, "now")
                await probe.ask.life()
            return [event.delay for event in seen if isinstance(event, Restarting)]

    assert await delays(7) == await delays(7) != await delays(8)
