"""Group restarts, from the pause to the reopening, whatever comes in between."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import Crashed, Event, GroupRestart, Ready, Started
from creche.runtime.node import State
from creche.supervisors.spec import supervisor
from tests.core.support import Gate, Probe, asking, reach, recorded, settle
from tests.supervisors.test_restarts import MANY, Named, group, states


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
