"""Who is restarted, how often, when, and what happens when it was too often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import Crashed, Escalated, Event, GroupRestart, Ready, Restarting, Started
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


async def test_one_for_all_restarts_all() -> None:
    """one_for_all: whichever child crashes, all end in reverse and start again in order; others join uncharged."""
    log: list[str] = []
    async with creche.open_runtime("t", root=group(log, "a", "b", "c", strategy="one_for_all")) as runtime:
        seen = recorded(runtime)
        log.clear()
        runtime.kill("root/b", "now")
        await settle()
        assert log == ["-b1", "-c1", "-a1", "+a2", "=a2", "+b2", "=b2", "+c2", "=c2"]
        groups = [event.children for event in seen if isinstance(event, GroupRestart)]
        assert groups == [("a", "b", "c")]
        assert [event.path for event in seen if isinstance(event, Crashed)] == ["root/b"]


async def test_idle_members_of_a_group_restart_in_order() -> None:
    """Plain actors that wait for mail end in reverse and come up in order, too; what is sent to them in between is
    handled by their next life."""
    names = ("a", "b", "c", "d")
    children = [creche.child(Probe).options(name=name) for name in names]
    async with creche.open_runtime("t", root=supervisor("root", *children, strategy="one_for_all")) as runtime:
        handles = [reach(runtime, f"root/{name}", Probe) for name in names]
        seen = recorded(runtime)
        lives: list[int] = []

        async def note_life(probe: Probe) -> None:
            lives.append(probe.context.incarnation)

        def write(event: Event) -> None:
            if isinstance(event, GroupRestart):
                for handle in handles:
                    handle.cast_nowait(Probe.run, note_life)

        runtime.events.subscribe(write)
        await handles[0].ask.life()
        assert runtime.kill("root/c", "now")
        await settle()
        starts = [event.path for event in seen if isinstance(event, (Started, Ready))]
        assert starts == [f"root/{name}" for name in names for _ in range(2)]
        assert lives == [2, 2, 2, 2]
        assert states(runtime) == "running running running running"


async def test_rest_for_one_restarts_the_rest() -> None:
    """rest_for_one: the crashed child and those started after it end in reverse and start again in order."""
    log: list[str] = []
    async with creche.open_runtime("t", root=group(log, "a", "b", "c", strategy="rest_for_one")) as runtime:
        seen = recorded(runtime)
        log.clear()
        runtime.kill("root/b", "now")
        await settle()
        assert log == ["-b1", "-c1", "+b2", "=b2", "+c2", "=c2"]
        groups = [event.children for event in seen if isinstance(event, GroupRestart)]
        assert groups == [("b", "c")]
        assert [event.path for event in seen if isinstance(event, Crashed)] == ["root/b"]


async def test_a_group_restart_waits_for_readiness(autojump_clock: MockClock) -> None:
    """In a group restart, too, each child is ready before the next one starts."""
    log: list[str] = []
    root = group(log, "a", "b", "c", strategy="rest_for_one", slow=1)
    async with creche.open_runtime("t", root=root) as runtime:
        log.clear()
        runtime.kill("root/a", "now")
        await trio.sleep(10)
        assert log == ["-a1", "-c1", "-b1", "+a2", "=a2", "+b2", "=b2", "+c2", "=c2"]


@pytest.mark.parametrize("victim", ["a", "b", "c"])
async def test_a_group_restart_waits_out_the_backoff(victim: str, autojump_clock: MockClock) -> None:
    """A group starts again when the crashed child's backoff has passed, the last child of all no earlier than
    others."""
    log: list[str] = []
    root = group(log, "a", "b", "c", strategy="rest_for_one", backoff=5)
    async with creche.open_runtime("t", root=root) as runtime:
        runtime.kill(f"root/{victim}", "now")
        await settle()
        await runtime.node_of(f"root/{victim}").wait_for(State.RUNNING)
        assert trio.current_time() == 5


async def test_a_group_restart_is_told_when_it_happens(autojump_clock: MockClock) -> None:
    """GroupRestart is an event of a restart, not of a stop that comes in between."""
    log: list[str] = []
    root = group(log, "a", "b", strategy="rest_for_one", backoff=5)
    async with creche.open_runtime("t", root=root) as runtime:
        seen = recorded(runtime)
        runtime.kill("root/a", "now")
        await settle()
    assert not [event for event in seen if isinstance(event, GroupRestart)]


@pytest.mark.parametrize("ticks", range(5))
async def test_a_start_in_the_middle_of_a_group_restart(ticks: int, autojump_clock: MockClock) -> None:
    """A child may be started at any moment of a group restart: it comes up, and so does the group."""
    for _ in range(12):
        root = supervisor("root", creche.child(Probe).options(name="a"), strategy="rest_for_one")
        async with creche.open_runtime("t", root=root) as runtime:
            runtime.kill("root/a", "now")
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            made = await runtime.start(creche.child(Probe))
            assert await made.ask.life() in (1, 2)
            assert await reach(runtime, "root/a", Probe).ask.life() == 2
    assert trio.current_time() == 0


async def test_a_group_drops_its_temporary_children() -> None:
    """A temporary member ends for good with its group; the others come back."""
    children = [
        creche.child(Probe).options(name="a"),
        creche.child(Probe).options(name="b", restart="temporary"),
        creche.child(Probe).options(name="c"),
    ]
    async with creche.open_runtime("t", root=supervisor("root", *children, strategy="rest_for_one")) as runtime:
        runtime.kill("root/a", "now")
        await settle()
        assert states(runtime) == "running stopped running"


async def test_a_group_keeps_its_mail(autojump_clock: MockClock) -> None:
    """Siblings that restart with their group finish the message in hand and keep those that wait."""
    log: list[str] = []
    root = group(log, "a", "b", strategy="rest_for_one")
    async with creche.open_runtime("t", root=root) as runtime, trio.open_nursery() as nursery:
        b = reach(runtime, "root/b", Named)
        gate = Gate()
        in_hand = asking(nursery, b.ask.hold, gate)
        await gate.entered.wait()
        queued = asking(nursery, b.ask.life)
        await settle()
        runtime.kill("root/a", "now")
        await settle()
        gate.opened.set()
        assert [await in_hand.settled(), await queued.settled()] == ["value", "value"]
        assert queued.value == 2


async def test_a_group_restart_is_one_charge(autojump_clock: MockClock) -> None:
    """However many children restart together, the budget is charged once for the crash."""
    root = supervisor(
        "root",
        *(creche.child(Probe).options(name=name) for name in ("a", "b", "c")),
        strategy="rest_for_one",
        intensity=creche.Intensity(2, 100),
    )
    async with creche.open_runtime("t", root=root) as runtime:
        for _ in range(2):
            runtime.kill("root/a", "now")
            await trio.sleep(10)
        assert states(runtime) == "running running running"


async def test_a_crash_during_the_pause_joins(autojump_clock: MockClock) -> None:
    """A child further left that crashes while the group ends joins it: all restart, and there is one charge."""
    log: list[str] = []
    children = [creche.child(Named, log, name).options(name=name) for name in ("a", "b", "c")]
    root = supervisor("root", *children, strategy="rest_for_one", intensity=creche.Intensity(1, 100))
    async with creche.open_runtime("t", root=root) as runtime, trio.open_nursery() as nursery:
        gate = Gate()
        asking(nursery, reach(runtime, "root/c", Named).ask.hold, gate)
        await gate.entered.wait()
        log.clear()
        runtime.kill("root/b", "first")
        await settle()
        runtime.kill("root/a", "joins")
        await settle()
        gate.opened.set()
        await trio.sleep(10)
        assert states(runtime) == "running running running"
        assert [entry for entry in log if entry.startswith("=")] == ["=a2", "=b2", "=c2"]


async def test_a_crash_during_the_delay_joins(autojump_clock: MockClock) -> None:
    """A child further left that crashes while the group sits out its delay joins it: nobody is left waiting."""
    log: list[str] = []
    root = group(log, "a", "b", "c", strategy="rest_for_one", backoff=5)
    async with creche.open_runtime("t", root=root) as runtime:
        runtime.kill("root/b", "first")
        await trio.sleep(1)
        runtime.kill("root/a", "joins")
        await trio.sleep(60)
        assert states(runtime) == "running running running"
        assert [entry for entry in log if entry[2:] == "2" and entry[0] == "="] == ["=a2", "=b2", "=c2"]


async def test_a_crash_during_the_reopening_starts_over(autojump_clock: MockClock) -> None:
    """A child that crashes while the group starts again begins the group anew from there."""
    log: list[str] = []
    children = [
        creche.child(Named, log, "a").options(name="a"),
        creche.child(Named, log, "b", slow=1, fails=(2, 3)).options(name="b"),
        creche.child(Named, log, "c").options(name="c"),
    ]
    root = supervisor("root", *children, strategy="rest_for_one", intensity=MANY)
    async with creche.open_runtime("t", root=root) as runtime:
        log.clear()
        runtime.kill("root/a", "now")
        await trio.sleep(60)
        assert states(runtime) == "running running running"
        assert [entry for entry in log if entry[0] == "="] == ["=a2", "=b4", "=c2"]


async def test_a_group_whose_child_cannot_start_gives_up(autojump_clock: MockClock) -> None:
    """A child that cannot start again in its group is charged each time, until the intensity is exceeded."""
    log: list[str] = []
    children = [
        creche.child(Named, log, "a").options(name="a"),
        creche.child(Named, log, "b", fails=tuple(range(2, 100))).options(name="b"),
    ]
    root = supervisor("root", *children, strategy="rest_for_one", intensity=creche.Intensity(5, 1000))
    with pytest.raises(creche.TreeFailed):
        async with creche.open_runtime("t", root=root) as runtime:
            runtime.kill("root/a", "now")
            await trio.sleep_forever()


async def test_an_earlier_child_that_crashes_while_the_group_starts(autojump_clock: MockClock) -> None:
    """The first of the group crashes again while a later one is still starting: all come up in the end."""
    log: list[str] = []
    root = group(log, "a", "b", "c", strategy="rest_for_one", slow=5)
    async with creche.open_runtime("t", root=root) as runtime:
        runtime.kill("root/a", "first")
        await trio.sleep(7)
        runtime.kill("root/a", "again")
        await trio.sleep(60)
        assert states(runtime) == "running running running"


@pytest.mark.parametrize("ticks", range(8))
async def test_a_group_survives_a_stop_of_its_members(ticks: int, autojump_clock: MockClock) -> None:
    """A member may be stopped at any moment of a group restart; the others come up."""
    log: list[str] = []
    root = group(log, "a", "b", "c", strategy="rest_for_one", backoff=5)
    async with creche.open_runtime("t", root=root) as runtime:
        runtime.kill("root/a", "now")
        await trio.sleep(5)
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        await runtime.stop("root/b")
        await trio.sleep(60)
        assert states(runtime) == "running stopped running"


@pytest.mark.parametrize("stopped", ["a", "b", "c"])
async def test_a_group_of_children_made_at_run_time(stopped: str, autojump_clock: MockClock) -> None:
    """The same if the members vanish from the tree when they are stopped: the group is still the right one."""
    async with creche.open_runtime("t", root=supervisor("root", strategy="rest_for_one")) as runtime:
        names = ("a", "b", "c")
        handles = {name: await runtime.start(creche.child(Probe).options(name=name)) for name in names}
        async with trio.open_nursery() as nursery:
            gate = Gate()
            asking(nursery, handles["c"].ask.hold, gate)
            await gate.entered.wait()
            runtime.kill("root/b", "now")
            await settle()
            nursery.start_soon(runtime.stop, handles[stopped])
            await settle()
            gate.opened.set()
        await trio.sleep(60)
        assert states(runtime) == "running running"


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
