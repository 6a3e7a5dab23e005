"""Each kind of fault does what it says, and strikes when it says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

import creche
from creche import chaos
from creche.chaos.world import World

PATH = "root/sub/worker"


class Worker(creche.Actor):
    """Notes what it has done."""

    def __init__(self, done: list[str]) -> None:
        self.done = done

    async def work(self, what: str) -> str:
        self.done.append(what)
        return what

    async def other(self) -> str:
        return "other"

    async def cut(self) -> None:
        self.done.append("cut")


class Bench:
    """A worker in a tree, under a plan."""

    def __init__(self, world: World, runtime: creche.Runtime, done: list[str]) -> None:
        self.world = world
        self.runtime = runtime
        self.done = done
        self.worker = runtime.handle(PATH, Worker)


def under(plan: list[chaos.Step], body: Callable[[Bench], Awaitable[None]]) -> chaos.Run:
    """Run `body` while the plan is carried out."""

    async def scenario(world: World) -> None:
        done: list[str] = []
        worker = creche.child(Worker, done).options(backoff=creche.Backoff(first=0.01))
        sub = creche.supervisor("sub", worker, intensity=creche.Intensity(100, 1))
        async with creche.open_runtime("bench", root=creche.supervisor("root", sub)) as runtime:
            async with world.unleashed(runtime):
                await body(Bench(world, runtime, done))

    return chaos.replay(scenario, chaos.Plan(0, tuple(plan)))


def test_a_kill() -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(2)
        assert bench.runtime.node_of(bench.worker).incarnation == 2

    assert under([chaos.Step(1, PATH, chaos.Kill())], body).summary.faults == {"kill": 1}


def test_a_kill_of_a_supervisor_hits_all_below_it() -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(2)
        assert bench.runtime.node_of("root/sub").incarnation == 2
        assert await bench.worker.ask.work("x") == "x"

    under([chaos.Step(1, "root/sub", chaos.Kill())], body)


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_in_a_handler_before_or_after_its_work(after: bool) -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(1)
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await bench.worker.ask.work("x")
        assert isinstance(caught.value.__cause__, chaos.FaultInjected)
        assert bench.done == (["x"] if after else [])
        assert await bench.worker.ask.work("y") == "y"

    under([chaos.Step(0, PATH, chaos.Crash(after=after))], body)


def test_a_crash_at_the_nth_handling_of_one_message() -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(1)
        for _ in range(3):
            assert await bench.worker.ask.work("x") == "x"
        await bench.worker.ask.other()
        with pytest.raises(creche.OutcomeUnknown):
            await bench.worker.ask.other()

    under([chaos.Step(0, PATH, chaos.Crash("other", nth=2))], body)


def test_faults_that_wait_at_one_actor_all_count() -> None:
    """The second is the second, whether or not another fault strikes before it."""

    async def body(bench: Bench) -> None:
        await trio.sleep(1)
        for _ in range(2):
            with pytest.raises(creche.OutcomeUnknown):
                await bench.worker.ask.other()
        assert await bench.worker.ask.other() == "other"

    under([chaos.Step(0, PATH, chaos.Crash(nth=1)), chaos.Step(0, PATH, chaos.Crash(nth=2))], body)


def test_two_faults_of_one_moment_strike_one_after_the_other() -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(1)
        for _ in range(2):
            with pytest.raises(creche.OutcomeUnknown):
                await bench.worker.ask.other()
        assert await bench.worker.ask.other() == "other"

    under([chaos.Step(0, PATH, chaos.Crash())] * 2, body)


def test_wrong_arguments_are_still_the_callers_mistake() -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(1)
        with pytest.raises(TypeError, match="work"):
            await bench.worker.ask.work()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        with pytest.raises(creche.OutcomeUnknown):
            await bench.worker.ask.work("x")

    under([chaos.Step(0, PATH, chaos.Crash())], body)


def test_a_delay() -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(1)
        assert await bench.worker.ask.work("x") == "x"
        assert trio.current_time() == 3.5
        assert await bench.worker.ask.work("x") == "x"
        assert trio.current_time() == 3.5

    under([chaos.Step(0, PATH, chaos.Delay(2.5))], body)


def test_a_hang_lasts_as_long_as_it_says() -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(1)
        assert await bench.worker.ask.work("x") == "x"
        assert trio.current_time() == 8

    under([chaos.Step(0, PATH, chaos.Hang(7))], body)


def test_what_hangs_when_the_chaos_is_over_goes_on() -> None:
    async def scenario(world: World) -> None:
        done: list[str] = []
        root = creche.supervisor("root", creche.child(Worker, done))
        async with creche.open_runtime("bench", root=root) as runtime, trio.open_nursery() as nursery:
            worker = runtime.handle("root/worker", Worker)
            async with world.unleashed(runtime):
                await trio.sleep(1)
                nursery.start_soon(worker.ask.work, "x")
                await trio.sleep(1)
                assert done == []
            await trio.testing.wait_all_tasks_blocked()
            assert (done, trio.current_time()) == (["x"], 2)

    chaos.replay(scenario, chaos.Plan(0, (chaos.Step(0, "root/worker", chaos.Hang(3600)),)))


def test_refused_starts() -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(2)
        assert bench.runtime.node_of(bench.worker).incarnation == 4
        assert await bench.worker.ask.work("x") == "x"

    plan = [chaos.Step(0, PATH, chaos.RefuseStart(2)), chaos.Step(1, PATH, chaos.Kill())]
    assert under(plan, body).summary.faults == {"kill": 1, "refuse_start": 2}


def test_a_step_of_the_wall_clock() -> None:
    async def body(bench: Bench) -> None:
        before = bench.runtime.wall_clock()
        await trio.sleep(1)
        assert bench.runtime.wall_clock() == pytest.approx(before - 59)

    under([chaos.Step(0.5, "", chaos.StepClock(-60))], body)


def test_a_cut() -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(1)
        assert bench.done == ["cut"]

    under([chaos.Step(0.5, PATH, chaos.Cut())], body)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_action_of_the_scenario(asynchronous: bool) -> None:
    async def scenario(world: World) -> None:
        flaps: list[float] = []

        async def flap() -> None:
            await trio.sleep(0.25)
            flaps.append(trio.current_time())

        world.action("flap", flap if asynchronous else lambda: flaps.append(trio.current_time()))
        async with creche.open_runtime("bench") as runtime, world.unleashed(runtime):
            await trio.sleep(2)
        assert flaps == [1.25 if asynchronous else 1]

    chaos.replay(scenario, chaos.Plan(0, (chaos.Step(1, "", chaos.Act("flap")),)))


def test_an_action_that_there_is_not_is_refused_before_anything_strikes() -> None:
    async def scenario(world: World) -> None:
        world.action("flap", lambda: None)
        async with creche.open_runtime("bench") as runtime:
            with pytest.raises(creche.SpecInvalid, match="an action of the scenario: flap"):
                async with world.unleashed(runtime):
                    raise AssertionError("not reached")

    chaos.replay(scenario, chaos.Plan(0, (chaos.Step(1, "", chaos.Act("flop")),)))


def test_faults_for_who_is_not_there_are_passed_over() -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(2)
        assert await bench.worker.ask.work("x") == "x"

    steps = [chaos.Step(0, "root/gone", fault) for fault in (chaos.Kill(), chaos.Cut(), chaos.Crash())]
    assert under(steps, body).summary.faults == {}
