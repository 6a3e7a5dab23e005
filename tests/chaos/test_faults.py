"""Each kind of fault does what it says, and strikes when it says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

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


def test_an_action_that_fails_is_the_failure_of_the_run() -> None:
    """But that whom it calls is down is to be expected."""

    async def scenario(world: World) -> None:
        counts: dict[str, int] = {}

        def down() -> None:
            raise creche.ActorStopped("root/x")

        world.action("down", down)
        world.action("wrong", lambda: counts["key"])
        with pytest.raises(creche.SpecInvalid, match="a function, sync or async"):
            world.action("x", 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        async with creche.open_runtime("bench") as runtime, world.unleashed(runtime):
            await trio.sleep(2)

    chaos.replay(scenario, chaos.Plan(0, (chaos.Step(1, "", chaos.Act("down")),)))
    with pytest.raises(chaos.Violated, match="actions of the scenario succeed: wrong: KeyError: 'key'"):
        chaos.replay(scenario, chaos.Plan(0, (chaos.Step(1, "", chaos.Act("wrong")),)))


FOR_ANYBODY = (chaos.Kill(), chaos.Cut(), chaos.Crash())


def test_faults_for_who_has_gone_are_passed_over() -> None:
    async def body(bench: Bench) -> None:
        passing = await bench.runtime.start(creche.child(Worker, []).options(name="passing"))
        await trio.sleep(0.5)
        await bench.runtime.stop(passing)
        await trio.sleep(2)
        assert await bench.worker.ask.work("x") == "x"

    steps = [chaos.Step(1, "root/passing", fault) for fault in FOR_ANYBODY]
    assert under(steps, body).summary.faults == {}


def test_a_target_that_has_never_been_there_is_a_mistake_in_the_plan() -> None:
    async def body(bench: Bench) -> None:
        await trio.sleep(2)

    for fault in FOR_ANYBODY:
        with pytest.raises(chaos.Violated, match="targets are in the tree: 'root/nobody' was not, by 1 s"):
            under([chaos.Step(1, "root/nobody", fault)], body)


@pytest.mark.parametrize(
    ("target", "fault", "match"),
    [
        (PATH, chaos.Crash("wrk"), "a message of this actor: work, other, cut"),
        ("root/sub", chaos.Hang(), "a supervisor has no handlers"),
        ("root/sub", chaos.Cut(), "an actor with the message cut"),
    ],
)
def test_a_plan_that_does_not_fit_the_tree_is_refused(target: str, fault: chaos.Fault, match: str) -> None:
    """Before anything strikes, and as a mistake, which is no finding."""

    async def body(bench: Bench) -> None:
        raise AssertionError("not reached")

    with pytest.raises(chaos.PlanInvalid, match=match):
        under([chaos.Step(1, target, fault)], body)


def test_a_cut_of_a_proxy_resets_its_connections() -> None:
    async def echo(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in stream:
                await stream.send_all(data)

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, echo, [listener])
            async with creche.open_runtime("bench") as runtime:
                proxy = await runtime.start(chaos.tcp_proxy(listener.socket.getsockname()))
                client = await trio.open_tcp_stream(*await proxy.address())
                await client.send_all(b"x")
                assert await client.receive_some() == b"x"
                async with client, world.unleashed(runtime):
                    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
                        await client.receive_some()
            nursery.cancel_scope.cancel()

    one = chaos.run_live(scenario, plan=chaos.Plan(0, (chaos.Step(0.01, "root/tcp_proxy", chaos.Cut()),)))
    assert (one.failure, one.summary.faults, one.summary.dead_letters) == (None, {"cut": 1}, {})
