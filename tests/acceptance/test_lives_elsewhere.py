"""What went wrong with starts, restarts and stops in other systems, as reported in their trackers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche import testing
from creche.runtime.node import State
from tests.core.support import Boom, Gate, Probe, asking, becomes, cell_of, kinds, reach, recorded, settle

QUICK = creche.Backoff(first=0, free=100, jitter=0)


class SlowToStart(Probe):
    """Gets ready when the gate opens."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await self.gate.hold()
        yield


async def test_kameo_84_a_mailbox_that_is_full_before_the_actor_is_ready_blocks_no_start() -> None:
    """There, a small mailbox and a start that took its time made a deadlock."""
    gate = Gate()
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        starting = asking(nursery, runtime.start, creche.child(SlowToStart, gate).options(name="slow", mailbox=1))
        await gate.entered.wait()
        slow = reach(runtime, "root/slow", Probe)
        replies = [asking(nursery, slow.ask.add) for _ in range(5)]
        await settle()
        gate.opened.set()
        assert await starting.settled() == "value"
        assert [await reply.settled() for reply in replies] == ["value"] * 5


async def test_kameo_377_the_stop_of_a_permanent_child_is_final(autojump_clock: MockClock) -> None:
    """There, it was restarted."""
    root = creche.supervisor("root", creche.child(Probe))
    async with creche.open_runtime("r", root=root) as runtime:
        probe = reach(runtime, "root/probe", Probe)
        await runtime.stop(probe)
        await trio.sleep(60)
        assert cell_of(probe).state is State.STOPPED
        with testing.expect_actor_stopped():
            await probe.ask.add()


class SlowToEnd(Probe):
    """Takes a second to leave, and notes when."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.log.append(f"+{self.context.incarnation}")
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            self.log.append(f"-{self.context.incarnation}")


async def test_kameo_387_a_start_does_not_begin_before_the_end_is_over(autojump_clock: MockClock) -> None:
    """There, the next one's start ran while the last one's stop still did."""
    log: list[str] = []
    async with creche.open_runtime("r") as runtime:
        probe = await runtime.start(creche.child(SlowToEnd, log).options(backoff=QUICK))
        for _ in range(3):
            runtime.kill(probe, "again")
            await probe.ask.add()
    assert log == ["+1", "-1", "+2", "-2", "+3", "-3", "+4", "-4"]


async def test_kameo_392_a_handle_from_before_a_restart_controls_the_living(autojump_clock: MockClock) -> None:
    """There, it killed what was dead already, and stopped nobody."""
    async with creche.open_runtime("r") as runtime:
        old = await runtime.start(creche.child(Probe).options(backoff=QUICK))
        runtime.kill(old, "first")
        assert await old.ask.life() == 2
        assert runtime.kill(old, "second")
        assert await old.ask.life() == 3
        await runtime.stop(old)
        assert cell_of(old).state is State.STOPPED


class Unborn(Probe):
    """Cannot be constructed."""

    def __init__(self) -> None:
        super().__init__()
        raise Boom("cannot be constructed")


async def test_actor_ts_914_a_constructor_that_raises_leaves_no_zombie() -> None:
    """There, it stayed suspended for ever, and nobody was told."""
    async with creche.open_runtime("r") as runtime:
        seen = recorded(runtime)
        with pytest.raises(creche.StartFailed) as caught:
            await runtime.start(creche.child(Unborn))
        assert isinstance(caught.value.__cause__, Boom)
        assert runtime.tree().children == ()
        assert kinds(seen, "root/unborn")[-1] == "Stopped"


async def test_actor_ts_915_a_stop_with_mail_waiting_does_not_spin() -> None:
    """There, it burned a core until the last child had gone."""
    steps = 0

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += 1

    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        for _ in range(10):
            await probe.cast(Probe.add)
        stopping = asking(nursery, runtime.stop, probe)
        await settle()
        instrument = Steps()
        trio.lowlevel.add_instrument(instrument)
        for _ in range(20):
            await settle()
        trio.lowlevel.remove_instrument(instrument)
        assert steps <= 20 * 3  # this task's own
        gate.opened.set()
        assert await stopping.settled() == "value"


async def test_actor_ts_916_a_crash_loop_is_seen(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    """There, it was restarted again and again without a line."""
    async with creche.open_runtime("r") as runtime:
        probe = await runtime.start(creche.child(Probe).options(backoff=QUICK))
        await probe.cast(Probe.crash, "nobody waits for this")
        await probe.ask.add()
    assert "nobody waits for this" in caplog.text


async def test_actor_ts_917_siblings_that_fail_once_each_do_not_spend_one_budget(autojump_clock: MockClock) -> None:
    """There, five of them exhausted it, and two were stopped. Here each child may have a budget of its own."""
    own = creche.Intensity(2, 60)
    children = [
        creche.child(Probe).options(name=f"p{number}", intensity=own, on_exhausted="stop", backoff=QUICK)
        for number in range(5)
    ]
    root = creche.supervisor("root", *children, intensity=creche.Intensity(1000, 1))
    async with creche.open_runtime("r", root=root) as runtime:
        for number in range(5):
            runtime.kill(f"root/p{number}", "once")
            await reach(runtime, f"root/p{number}", Probe).ask.add()
        for _ in range(3):
            runtime.kill("root/p0", "again and again")
            await trio.sleep(0.1)
        states = [runtime.node_of(f"root/p{number}").state for number in range(5)]
        assert states == [State.STOPPED, *[State.RUNNING] * 4]


async def test_actor_ts_918_who_watches_is_told_in_any_case() -> None:
    """There, a watch of something remote was silently none. Here a watch of what has ended is told at once."""
    async with creche.open_runtime("r") as runtime:
        probe = await runtime.start(creche.child(Probe))
        await runtime.stop(probe)
        async with probe.monitor() as feed:
            assert (await feed.receive()).what == "stopped"


class NeverLeaves(Probe):
    """Shields its end from everything."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield
        with trio.CancelScope(shield=True):
            await self.gate.hold()


async def test_actor_ts_920_a_stop_has_one_deadline_and_names_who_misses_it(autojump_clock: MockClock) -> None:
    """There, each phase had its own and the whole had none."""
    gate = Gate()
    async with trio.open_nursery() as nursery:

        async def let_go_later() -> None:
            await trio.sleep(120)
            gate.opened.set()

        nursery.start_soon(let_go_later)
        rules = creche.child(NeverLeaves, gate).options(name="stays", drain=1000, shutdown=10)
        async with creche.open_runtime("r", stop_within=30) as runtime:
            await runtime.start(rules)
            await runtime.start(creche.child(Probe).options(drain=1000))
        assert [report.path for report in runtime.unstopped] == ["root/stays"]
        assert "hold" in runtime.unstopped[0].stack


class FailsAt(Probe):
    """Raises at a point of its life."""

    def __init__(self, points: list[str]) -> None:
        super().__init__()
        self.points = points
        self._pass("constructor")

    def _pass(self, point: str) -> None:
        if point in self.points:
            self.points.remove(point)
            raise Boom(point)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self._pass("start")
        try:
            yield
        finally:
            self._pass("end")


@pytest.mark.parametrize("point", ["constructor", "start", "end"])
async def test_actor_ts_1384_failures_inside_of_a_restart_are_crashes_too(
    point: str, autojump_clock: MockClock
) -> None:
    """There, nobody had tested them."""
    points: list[str] = []
    root = creche.supervisor("root", creche.child(FailsAt, points).options(name="p", backoff=QUICK))
    async with creche.open_runtime("r", root=root) as runtime:
        probe = reach(runtime, "root/p", Probe)
        points.append(point)
        runtime.kill(probe, "a restart begins")
        assert await probe.ask.life() == (3 if point != "end" else 2)
        assert points == []


async def test_suture_34_a_stop_right_after_a_child_was_removed_is_no_timeout(autojump_clock: MockClock) -> None:
    """There, it waited for its whole time, and reported services that had stopped."""
    async with creche.open_runtime("r") as runtime:
        probe = await runtime.start(creche.child(Probe))
        await runtime.stop(probe)
    assert runtime.unstopped == []
    assert trio.current_time() == 0


async def test_suture_35_a_stop_right_after_the_start_is_orderly() -> None:
    """There, a deep tree that was stopped while it started panicked."""
    tree = creche.supervisor("level-0", creche.child(Probe))
    for level in range(1, 100):
        tree = creche.supervisor(f"level-{level}", tree)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with creche.open_runtime("r", root=tree):
            raise AssertionError("not reached")
    async with creche.open_runtime("r", root=tree) as runtime:
        pass
    assert runtime.unstopped == []


async def test_suture_77_a_time_limit_of_the_actors_own_is_an_ordinary_failure(autojump_clock: MockClock) -> None:
    """There, somebody else's context error was taken for an orderly end, and the service was not restarted."""
    async with creche.open_runtime("r") as runtime:
        probe = await runtime.start(creche.child(Probe).options(restart="transient", backoff=QUICK))

        async def wait_too_long(_: Probe) -> None:
            with trio.fail_after(1):
                await trio.sleep_forever()

        with testing.expect_outcome_unknown(trio.TooSlowError):
            await probe.ask.run(wait_too_long)
        assert await probe.ask.life() == 2


async def test_ray_15045_calls_do_not_hang_while_a_crashed_actor_cannot_come_back(autojump_clock: MockClock) -> None:
    """There, they waited for its placement without end."""
    points: list[str] = []
    rules = {"name": "p", "backoff": creche.Backoff(first=1, free=0, jitter=0), "down_wait": 3.0}
    spec = creche.child(FailsAt, points).options(**rules)  # type: ignore[arg-type]
    root = creche.supervisor("root", spec, intensity=creche.Intensity(1000, 1))
    async with creche.open_runtime("r", root=root) as runtime:
        probe = reach(runtime, "root/p", Probe)
        points += ["start"] * 50
        runtime.kill(probe, "and it does not come back")
        with testing.expect_not_delivered("crash"):
            await probe.ask.add()
        assert trio.current_time() == pytest.approx(3, abs=1.1)
        points.clear()
        await becomes(cell_of(probe), State.RUNNING)
        assert await probe.ask.add() == 1


async def test_ray_44719_a_call_that_waits_for_a_slow_start_is_no_attempt(autojump_clock: MockClock) -> None:
    """There, attempts were used up while the constructor still ran. Here it is handled once, when it is there."""
    gate = Gate()
    gate.opened.set()
    root = creche.supervisor("root", creche.child(SlowToStart, gate).options(name="slow", down_wait=1000))
    async with creche.open_runtime("r", root=root) as runtime, trio.open_nursery() as nursery:
        slow = reach(runtime, "root/slow", Probe)
        gate.opened = trio.Event()
        runtime.kill(slow, "now")
        reply = asking(nursery, slow.ask.add)
        await trio.sleep(500)
        gate.opened.set()
        assert (await reply.settled(), reply.value) == ("value", 1)


async def test_faust_301_a_tree_that_gives_up_ends(autojump_clock: MockClock) -> None:
    """There, the supervisor that was to crash hung."""
    root = creche.supervisor("root", creche.child(Probe), intensity=creche.Intensity(0, 5))
    with pytest.raises(creche.TreeFailed) as caught:
        async with creche.open_runtime("r", root=root) as runtime:
            runtime.kill("root/probe", "once is too often")
            await trio.sleep_forever()
    assert "once is too often" in creche.cause_tree(caught.value)


async def test_otpylib_a_group_restart_is_charged_once(autojump_clock: MockClock) -> None:
    """There, one_for_all charged for each sibling, so four of them gave up at the first crash."""
    children = [creche.child(Probe).options(name=f"p{number}", backoff=QUICK) for number in range(10)]
    root = creche.supervisor("root", *children, strategy="one_for_all", intensity=creche.Intensity(3, 5))
    async with creche.open_runtime("r", root=root) as runtime:
        for round_ in range(3):
            runtime.kill("root/p4", "one crash")
            await trio.sleep(0.1)
            assert [runtime.node_of(f"root/p{number}").incarnation for number in range(10)] == [round_ + 2] * 10


async def test_trio_800_one_error_comes_out_as_itself() -> None:
    """There, users met groups of one error at every turn."""
    with pytest.raises(LookupError, match="mine"):
        async with creche.open_runtime("r"):
            raise LookupError("mine")
    with pytest.raises(creche.TreeFailed) as caught:
        async with creche.open_runtime("r", root=creche.supervisor("root", creche.child(Unborn))):
            raise AssertionError("not reached")
    assert not isinstance(caught.value.__cause__, BaseExceptionGroup)


@pytest.mark.parametrize("moment", ["before", "while"])
async def test_trio_1431_and_2258_a_start_in_what_is_being_cancelled_does_not_hang(
    moment: str, autojump_clock: MockClock
) -> None:
    """There, `nursery.start` into a nursery that was cancelled could wait for ever."""
    gate = Gate()
    outcomes: list[str] = []
    async with trio.open_nursery() as nursery:
        async with creche.open_runtime("r", stop_within=5) as runtime:

            async def start() -> None:
                try:
                    await runtime.start(creche.child(SlowToStart, gate))
                except (creche.StartFailed, creche.ActorStopped) as error:
                    outcomes.append(type(error).__name__)

            if moment == "while":
                nursery.start_soon(start)
                await gate.entered.wait()
        if moment == "before":
            await start()
    assert outcomes == ["StartFailed" if moment == "while" else "ActorStopped"]


async def test_thespian_19_no_actor_survives_the_shutdown(autojump_clock: MockClock) -> None:
    """There, one whose timer sent it message after message did."""
    before = testing.look_around(channels=False)

    class Ticking(Probe):
        async def tick(self) -> None:
            self.context.after(0.01, self.tick)
            self.count += 1

    async with creche.open_runtime("r") as runtime:
        ticking = await runtime.start(creche.child(Ticking))
        await ticking.ask.tick()
        await trio.sleep(1)
        assert await ticking.ask.add() > 50
    assert not testing.leaks_since(before, channels=False)
