"""Budgets of children, and what happens when they are spent: escalate, stop, or park and probe."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.errors import IntensityExceeded
from creche.runtime.events import Crashed, DeadLetter, Escalated, Parked, Restarting, Unparked
from creche.runtime.node import State
from creche.supervisors.spec import SupervisorSpec, supervisor
from tests.core.support import Boom, Gate, Probe, asking, cell_of, kinds, reach, recorded, settle
from tests.supervisors.test_restarts import MANY, Named, group, states

AT_ONCE = creche.Backoff(first=0)
STEADY = creche.Backoff(first=10, factor=2, cap=40, jitter=0, free=0, reset_after=5)


def fragile(cls: type[Probe] = Probe, **rules: Any) -> Any:
    """A child that may be restarted twice a minute."""
    options = {"intensity": creche.Intensity(2, 60), "backoff": AT_ONCE, "probe": STEADY, **rules}
    return creche.child(cls).options(**options)


async def crash(probe: creche.Handle[Probe], times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.crash("a bug")


async def test_one_crash_that_restarts_many_is_charged_once() -> None:
    """A group of ten under the default budget of 3: three crashes are three charges, the fourth is one too many."""
    log: list[str] = []
    names = [f"n{n}" for n in range(10)]
    root = supervisor("root", *group(log, *names).children, strategy="one_for_all")
    sub = supervisor("top", root.options(name="sub"), intensity=MANY)
    async with creche.open_runtime("t", root=sub) as runtime:
        for _ in range(3):
            runtime.kill("top/sub/n4", "now")
            await settle()
        assert [runtime.node_of(f"top/sub/{name}").restarts for name in names] == [0, 0, 0, 0, 3, 0, 0, 0, 0, 0]
        assert runtime.node_of("top/sub").incarnation == 1
        assert runtime.node_of("top/sub/n0").incarnation == 4
        runtime.kill("top/sub/n4", "now")
        await settle()
        assert runtime.node_of("top/sub").incarnation == 2


async def test_a_childs_own_budget_spares_its_supervisors(autojump_clock: MockClock) -> None:
    """The crashes of a child with an intensity are charged to it alone."""
    root = supervisor("root", fragile(intensity=creche.Intensity(100, 60)), intensity=creche.Intensity(0, 60))
    async with creche.open_runtime("t", root=root) as runtime:
        await crash(reach(runtime, "root/probe", Probe), 50)
        assert await reach(runtime, "root/probe", Probe).ask.life() == 51


async def test_a_childs_spent_budget_escalates(autojump_clock: MockClock) -> None:
    """`on_exhausted="escalate"`, the default: the supervisor gives up, and says whose budget was spent."""
    sub = supervisor("sub", fragile(), intensity=creche.Intensity(100, 60))
    async with creche.open_runtime("t", root=supervisor("root", sub)) as runtime:
        seen = recorded(runtime)
        probe = reach(runtime, "root/sub/probe", Probe)
        await crash(probe, 3)
        await settle()
        escalated = [event.error for event in seen if isinstance(event, Escalated)]
        assert escalated == ["IntensityExceeded: root/sub: more than 2 restarts of root/sub/probe in 60 s"]
        assert (runtime.node_of("root/sub").incarnation, await probe.ask.life()) == (2, 4)
        await crash(probe, 2)
        assert runtime.node_of("root/sub").incarnation == 2  # its count has begun anew


async def test_healthy_time_resets_a_childs_budget(autojump_clock: MockClock) -> None:
    """An incarnation that was up for `backoff.reset_after` seconds begins the count anew, however long the window."""
    backoff = creche.Backoff(first=0, reset_after=3)
    child = fragile(intensity=creche.Intensity(2, 1000), backoff=backoff, on_exhausted="stop")
    async with creche.open_runtime("t", root=supervisor("root", child)) as runtime:
        probe = reach(runtime, "root/probe", Probe)
        for _ in range(5):
            await crash(probe, 2)
            await trio.sleep(3)
        await crash(probe, 2)
        await trio.sleep(2.9)
        await crash(probe)
        with pytest.raises(creche.ActorStopped):
            await probe.ask.life()


async def test_a_spent_budget_may_stop_the_child(autojump_clock: MockClock) -> None:
    """`on_exhausted="stop"`: it has ended for good, its callers are told the cause, its siblings go on."""
    root = supervisor("root", fragile(on_exhausted="stop"), creche.child(Probe).options(name="other"))
    async with creche.open_runtime("t", root=root) as runtime:
        probe = reach(runtime, "root/probe", Probe)
        await crash(probe, 3)
        with pytest.raises(creche.ActorStopped) as caught:
            await probe.ask.life()
        assert str(caught.value.__cause__) == "a bug"
        assert states(runtime) == "stopped running"
        assert await reach(runtime, "root/other", Probe).ask.life() == 1


async def test_parked_rejects_at_once(autojump_clock: MockClock) -> None:
    """`on_exhausted="park"`: callers, who waits included, get `NotDelivered("parked", retry_after)` at once."""
    root = supervisor("root", fragile(on_exhausted="park"))
    async with creche.open_runtime("t", root=root) as runtime, trio.open_nursery() as nursery:
        probe = reach(runtime, "root/probe", Probe)
        await crash(probe, 2)
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await settle()
        last = asking(nursery, probe.ask.crash, "3")
        await settle()
        waiting = asking(nursery, probe.ask.life)
        await settle()
        gate.opened.set()
        await settle()
        assert isinstance(last.error, creche.OutcomeUnknown)
        for error in (waiting.error, *[await refusal(probe) for _ in range(3)]):
            assert isinstance(error, creche.NotDelivered)
            assert (error.reason, error.retry_after) == ("parked", 10)
        await trio.sleep(4)
        assert (await refusal(probe)).retry_after == 6
        with pytest.raises(creche.NotDelivered, match="parked"):
            probe.cast_nowait(Probe.life)
        assert (trio.current_time(), states(runtime)) == (4, "parked")


async def refusal(probe: creche.Handle[Probe]) -> creche.NotDelivered:
    with pytest.raises(creche.NotDelivered) as caught:
        await probe.ask.life()
    return caught.value


async def test_parked_is_probed(autojump_clock: MockClock) -> None:
    """After the probe's delay one incarnation is tried, and takes messages. If it crashes before it was healthy for
    long enough it is parked again, for longer, and nobody is charged."""
    root = supervisor("root", fragile(on_exhausted="park"), intensity=creche.Intensity(0, 60))
    async with creche.open_runtime("t", root=root) as runtime:
        seen = recorded(runtime)
        probe = reach(runtime, "root/probe", Probe)
        await crash(probe, 3)
        for delay in (10, 20, 40, 40):
            parked = trio.current_time()
            await cell_of(probe).wait_for(State.RUNNING)
            assert trio.current_time() - parked == delay
            await trio.sleep(4.9)
            await crash(probe)
        assert [event.delay for event in seen if isinstance(event, Parked)] == [10, 20, 40, 40, 40]
        assert not [event for event in seen if isinstance(event, (Unparked, Escalated))]


async def test_healthy_time_unparks(autojump_clock: MockClock) -> None:
    """A trial that stays up for `probe.reset_after` seconds ends the parking: its budget is full again."""
    root = supervisor("root", fragile(on_exhausted="park"))
    async with creche.open_runtime("t", root=root) as runtime:
        seen = recorded(runtime)
        probe = reach(runtime, "root/probe", Probe)
        await crash(probe, 3)
        await trio.sleep(10 + 5.1)
        assert [event.time for event in seen if isinstance(event, Unparked)] == [15]
        await crash(probe, 2)
        assert states(runtime) == "running"
        await crash(probe)
        assert states(runtime) == "parked"
        assert kinds(seen, "root/probe").count("Parked") == 2
        assert [event.delay for event in seen if isinstance(event, Parked)] == [10, 10]


async def test_probes_are_jittered_by_the_seed(autojump_clock: MockClock) -> None:
    """The delays of the trials are spread, and the spread is the runtime's."""

    async def delays(seed: int) -> list[float]:
        probing = creche.Backoff(first=10, cap=40, jitter=0.5, free=0)
        root = supervisor("root", fragile(on_exhausted="park", probe=probing))
        async with creche.open_runtime("t", root=root, seed=seed) as runtime:
            seen = recorded(runtime)
            await crash(reach(runtime, "root/probe", Probe), 3)
            return [event.delay for event in seen if isinstance(event, Parked)]

    first, again, other = await delays(1), await delays(1), await delays(2)
    assert first == again != other
    assert 5 <= first[0] <= 15


class Slow(Probe):
    """Takes its time to start, and cannot from the fourth life on."""

    def __init__(self, log: list[str] | None = None) -> None:
        super().__init__(log)
        if self.context.incarnation > 3:
            raise Boom("cannot start")


async def test_a_trial_that_cannot_start_parks_again(autojump_clock: MockClock) -> None:
    """A trial need not get ready to fail."""
    root = supervisor("root", fragile(Slow, on_exhausted="park"))
    async with creche.open_runtime("t", root=root) as runtime:
        seen = recorded(runtime)
        probe = reach(runtime, "root/slow", Slow)
        await crash(probe, 3)
        await trio.sleep(71)
        assert [event.delay for event in seen if isinstance(event, Parked)] == [10, 20, 40, 40]
        assert (await refusal(probe)).retry_after == 39


async def test_casts_outlast_the_parking(autojump_clock: MockClock) -> None:
    """Casts that were accepted before are handled by the trial."""
    root = supervisor("root", fragile(on_exhausted="park"))
    async with creche.open_runtime("t", root=root) as runtime:
        seen = recorded(runtime)
        probe = reach(runtime, "root/probe", Probe)
        log: list[str] = []

        async def note(_: Probe) -> None:
            log.append("handled")

        await crash(probe, 2)
        probe.cast_nowait(Probe.crash, "3")
        probe.cast_nowait(Probe.run, note)
        await settle()
        assert (log, states(runtime)) == ([], "parked")
        await trio.sleep(10.1)
        assert (log, [e.message for e in seen if isinstance(e, DeadLetter)]) == (["handled"], ["crash"])


@pytest.mark.parametrize("how", ["stop", "leave"])
async def test_parked_can_be_stopped(how: str, autojump_clock: MockClock) -> None:
    """A stop does not wait for the trial."""
    root = supervisor("root", fragile(on_exhausted="park"))
    async with creche.open_runtime("t", root=root) as runtime:
        probe = reach(runtime, "root/probe", Probe)
        await crash(probe, 3)
        if how == "stop":
            await runtime.stop(probe)
    assert trio.current_time() == 0
    with pytest.raises(creche.ActorStopped):
        await probe.ask.life()


def sensitive(policy: Any, **rules: Any) -> SupervisorSpec:
    """A root with a supervisor of two children that may not crash more than twice."""
    children = [creche.child(Probe).options(name=name, backoff=AT_ONCE) for name in "ab"]
    sub = supervisor("sub", *children, intensity=creche.Intensity(2, 60))
    sub = sub.options(on_exhausted=policy, probe=STEADY, **rules)
    return supervisor("root", sub, intensity=creche.Intensity(0, 60))


async def test_a_supervisor_may_be_parked(autojump_clock: MockClock) -> None:
    """`on_exhausted` of a supervisor is for the budget of its children: parked, all below it is refused at once; the
    trial starts all of them."""
    async with creche.open_runtime("t", root=sensitive("park")) as runtime:
        seen = recorded(runtime)
        a, b = (reach(runtime, f"root/sub/{name}", Probe) for name in "ab")
        await crash(a, 2)
        await crash(b)
        await settle()
        assert states(runtime) == "parked suspended suspended"
        for handle in (a, b):
            assert ((await refusal(handle)).reason, (await refusal(handle)).retry_after) == ("parked", 10)
        await trio.sleep(10.1)
        assert (states(runtime), await b.ask.life()) == ("running running running", 2)
        await crash(b, 3)
        assert (await refusal(a)).retry_after == 20
        await trio.sleep(26)
        assert kinds(seen, "root/sub").count("Unparked") == 1
        await crash(b, 3)
        assert (await refusal(a)).retry_after == 10


async def test_a_supervisor_may_be_stopped_by_its_budget(autojump_clock: MockClock) -> None:
    """`on_exhausted="stop"` of a supervisor: it and all below have ended for good, and their callers learn why."""
    async with creche.open_runtime("t", root=sensitive("stop")) as runtime:
        a, b = (reach(runtime, f"root/sub/{name}", Probe) for name in "ab")
        await crash(a, 3)
        await settle()
        with pytest.raises(creche.ActorStopped) as caught:
            await b.ask.life()
        cause = caught.value.__cause__
        assert isinstance(cause, IntensityExceeded)
        assert str(cause.__cause__) == "a bug"
        assert states(runtime) == "stopped stopped stopped"


async def test_a_kill_of_a_supervisor_is_no_spent_budget(autojump_clock: MockClock) -> None:
    """Its policy is about budgets: any other crash of it is its parent's business."""
    root = supervisor("root", *sensitive("park").children, intensity=creche.Intensity(1, 60))
    async with creche.open_runtime("t", root=root) as runtime:
        seen = recorded(runtime)
        runtime.kill("root/sub", "now")
        await settle()
        assert [type(e) for e in seen if e.path == "root/sub" and isinstance(e, (Parked, Restarting))] == [Restarting]
        assert states(runtime) == "running running running"


async def test_a_supervisor_that_restarts_has_parked_nobody(autojump_clock: MockClock) -> None:
    """A new incarnation of the supervisor starts all children, those too that were parked."""
    sub = supervisor("sub", fragile(on_exhausted="park"), intensity=MANY)
    async with creche.open_runtime("t", root=supervisor("root", sub)) as runtime:
        seen = recorded(runtime)
        probe = reach(runtime, "root/sub/probe", Probe)
        await crash(probe, 3)
        runtime.kill("root/sub", "now")
        await settle()
        assert states(runtime) == "running running"
        await crash(probe, 2)
        assert states(runtime) == "running running"
        await trio.sleep(100)
        assert [type(e) for e in seen if isinstance(e, (Parked, Unparked))] == [Parked]


async def test_dependents_of_a_parked_child_go_on(autojump_clock: MockClock) -> None:
    """Who depends on a parked sibling keeps running, and a group restart of what that depends on tries it."""
    log: list[str] = []
    base = creche.child(Named, log, "base").options(name="base")
    tried = creche.child(Named, log, "tried").options(
        name="tried", depends_on=("base",), intensity=creche.Intensity(0, 60), on_exhausted="park", probe=STEADY
    )
    user = creche.child(Named, log, "user").options(name="user", depends_on=("tried",))
    root = supervisor("root", base, tried, user, strategy="dependents", intensity=MANY)
    async with creche.open_runtime("t", root=root) as runtime:
        seen = recorded(runtime)
        runtime.kill("root/tried", "now")
        await settle()
        assert states(runtime) == "running parked running"
        runtime.kill("root/base", "now")
        await settle()
        assert states(runtime) == "running running running"
        assert [event.path for event in seen if isinstance(event, Crashed)] == ["root/tried", "root/base"]
        await trio.sleep(1)
        runtime.kill("root/tried", "on probation")
        await settle()
        assert [event.delay for event in seen if isinstance(event, Parked)] == [10, 20]
