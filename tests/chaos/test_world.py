"""What must hold: always, eventually, and without being asked for."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

import creche
from creche import chaos, testing
from creche.chaos.world import World
from creche.testing.journal import percentile


class Sleeper(creche.Actor):
    async def sleep(self, seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    async def refuse(self) -> None:
        raise creche.DomainError(1000, "no")


def violation_of(scenario: chaos.Scenario, patience: float = 3600) -> chaos.Violated:
    found = chaos.run(scenario, plan=chaos.Plan(0, ()), patience=patience).failure
    assert isinstance(found, chaos.Violated), found
    return found


def test_what_must_always_hold_is_looked_at_after_each_event() -> None:
    async def scenario(world: World) -> None:
        held = [True]
        world.always("held", lambda: held[0])
        async with creche.open_runtime("r") as runtime, world.unleashed(runtime):
            held[0] = False
            await trio.sleep(1)
            assert world.violation is None  # nothing has happened
            await runtime.start(creche.child(Sleeper))
            await trio.sleep_forever()

    assert violation_of(scenario).name == "held"


async def wait_until_violated(world: World) -> None:
    await trio.sleep(1)
    assert world.violation is None  # nothing has happened
    await trio.sleep(1)


def test_what_must_always_hold_is_looked_at_before_each_message() -> None:
    """What does not hold for a moment only is seen, too."""

    async def scenario(world: World) -> None:
        held = [True]
        world.always("held", lambda: held[0])
        async with creche.open_runtime("r") as runtime:
            sleeper = await runtime.start(creche.child(Sleeper))
            held[0] = False
            with pytest.raises(trio.Cancelled):
                await sleeper.ask.sleep(0)
            held[0] = True
            await trio.sleep_forever()

    assert violation_of(scenario).name == "held"


@pytest.mark.parametrize("when", ["before", "after", "at the end"])
def test_what_must_always_hold_is_looked_at_all_along(when: str) -> None:
    """Also while nothing strikes."""

    async def scenario(world: World) -> None:
        held = [True]
        world.always("held", lambda: held[0])
        async with creche.open_runtime("r") as runtime:
            if when != "before":
                async with world.unleashed(runtime):
                    await trio.sleep(1)
            if when != "at the end":
                held[0] = False
                await runtime.start(creche.child(Sleeper))
                await trio.sleep_forever()
        held[0] = False

    assert violation_of(scenario).name == "held"


@pytest.mark.parametrize("value", [False, 0, "", ()])
def test_what_is_false_does_not_hold(value: object) -> None:
    async def scenario(world: World) -> None:
        conditions: dict[str, Any] = {"nothing said": lambda: None, "true": lambda: 1, "false": lambda: value}
        for name, condition in conditions.items():
            world.always(name, condition)

    assert violation_of(scenario).name == "false"


def test_two_conditions_cannot_have_one_name() -> None:
    async def scenario(world: World) -> None:
        world.always("x", lambda: True)
        with pytest.raises(creche.SpecInvalid, match="a name of its own"):
            world.always("x", lambda: True)

    chaos.replay(scenario, chaos.Plan(0))


def test_a_condition_that_gives_something_to_await_cannot_be_judged() -> None:
    async def scenario(world: World) -> None:
        async def condition() -> bool:
            return True

        gives_a_coroutine: Any = lambda: condition()  # noqa: E731  # to be typed as anything
        world.always("x", gives_a_coroutine)

    assert "awaits nothing" in str(violation_of(scenario))


def test_an_assertion_says_more() -> None:
    async def scenario(world: World) -> None:
        def condition() -> None:
            raise AssertionError("3 of 2")

        world.always("counted", condition)

    assert str(violation_of(scenario)) == "counted: AssertionError: 3 of 2"


def test_what_cannot_be_judged_does_not_hold() -> None:
    """An error in the hook of an event is told to nobody who asks."""

    async def scenario(world: World) -> None:
        counts = {"sold": 1}
        world.always("counted", lambda: counts["sold"] > 0)
        async with creche.open_runtime("r") as runtime, world.unleashed(runtime):
            counts.clear()
            await runtime.start(creche.child(Sleeper))

    assert str(violation_of(scenario)) == "counted: KeyError: 'sold'"


def test_what_must_always_hold_cannot_wait() -> None:
    async def scenario(world: World) -> None:
        async def condition() -> bool:
            return True

        with pytest.raises(creche.SpecInvalid, match="eventually"):
            world.always("x", condition)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    chaos.replay(scenario, chaos.Plan(0))


def test_eventually_waits_for_what_holds_later() -> None:
    async def scenario(world: World) -> None:
        async def late() -> bool:
            return trio.current_time() >= 3

        def asserted() -> bool:
            assert trio.current_time() >= 5
            return True

        def said() -> None:
            assert trio.current_time() >= 5

        await world.eventually("late", late, within=4)
        await world.eventually("asserted", asserted, within=4)
        await world.eventually("said", said, within=0)
        assert trio.current_time() == pytest.approx(5, abs=0.02)

    chaos.replay(scenario, chaos.Plan(0))


@pytest.mark.parametrize("times", [{"within": 1, "every": 0}, {"within": -1}, {"within": float("inf")}])
def test_eventually_takes_times_in_which_something_can_happen(times: dict[str, float]) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(creche.SpecInvalid, match="a number of seconds"):
            await world.eventually("x", lambda: False, **times)

    chaos.replay(scenario, chaos.Plan(0))


def test_eventually_gives_up_with_the_last_reason() -> None:
    async def scenario(world: World) -> None:
        async def ask() -> bool:
            raise creche.ActorStopped("root/a")

        await world.eventually("answers", ask, within=4)
        raise AssertionError("not reached")

    assert str(violation_of(scenario)).startswith("answers: not within 4 s: ActorStopped: root/a")


def test_a_scenario_that_does_not_end() -> None:
    async def scenario(world: World) -> None:
        await trio.sleep_forever()

    assert violation_of(scenario, patience=60).name == "the scenario ends"


def test_an_error_of_the_scenario_is_found_out_of_its_nurseries() -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery():
            raise LookupError("the scenario's own")

    assert isinstance(chaos.run(scenario).failure, LookupError)


def test_the_journal_has_the_outcome_of_each_call() -> None:
    async def scenario(world: World) -> None:
        async with creche.open_runtime("r") as runtime:
            sleeper = await runtime.start(creche.child(Sleeper))
            await sleeper.ask.sleep(1)
            with pytest.raises(creche.DomainError):
                await sleeper.ask.refuse()
            with pytest.raises(creche.DeadlineExceeded):
                await sleeper.within(1).ask.sleep(2)
            with trio.move_on_after(0.5):
                await sleeper.ask.sleep(2)
            await sleeper.call_many(Sleeper.sleep, [(0,), (0,)])
            with pytest.raises(creche.OutcomeUnknown):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, 5)
                    nursery.start_soon(kill_soon, runtime, sleeper)
                    await sleeper.ask.sleep(2)
            await sleeper.cast(Sleeper.sleep, 10)
            await trio.sleep(1)
            runtime.kill(sleeper, "again")
        assert world.journal.unanswered == 0

    async def kill_soon(runtime: creche.Runtime, sleeper: creche.Handle[Sleeper]) -> None:
        await trio.sleep(1)
        runtime.kill(sleeper, "chaos")

    run = chaos.run(scenario)
    assert run.failure is None or isinstance(run.failure, creche.OutcomeUnknown), run.failure
    assert run.summary.calls == {
        "answer": 1,
        "cancelled": 1,
        "deadline_exceeded": 1,
        "outcome_unknown": 1,
        "value": 3,
    }


def test_calls_to_a_pool_are_in_the_journal_too() -> None:
    async def scenario(world: World) -> None:
        async with creche.open_runtime("r") as runtime:
            pool = await runtime.start(creche.pool("pool", creche.child(Sleeper), size=2))
            async with world.unleashed(runtime), trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(pool.ask.sleep, 1)
                await trio.sleep(0.5)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill_all, runtime)
                with testing.expect_outcome_unknown(creche.Killed):
                    await pool.ask.sleep(5)

    async def kill_all(runtime: creche.Runtime) -> None:
        await trio.sleep(1)
        for number in (1, 2):
            runtime.kill(f"root/pool/worker-{number}", "chaos")

    assert chaos.replay(scenario, chaos.Plan(0)).summary.calls == {"outcome_unknown": 1, "value": 3}


def test_recoveries_are_measured_from_the_crash_to_the_successor() -> None:
    async def scenario(world: World) -> None:
        sleeper = creche.child(Sleeper).options(backoff=creche.Backoff(first=1.5, free=0, jitter=0))
        async with creche.open_runtime("r", root=creche.supervisor("root", sleeper)) as runtime:
            runtime.kill("root/sleeper", "once")
            await trio.sleep(1)
            assert list(world.journal.down) == ["root/sleeper"]
            await trio.sleep(5)
            assert list(world.journal.down) == []

    summary = chaos.replay(scenario, chaos.Plan(0)).summary
    assert (summary.restarts, summary.recovery_p50, summary.recovery_p99) == (1, 1.5, 1.5)


def test_percentiles() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1)) == (50, 99, 100)
    assert percentile([7.0], 0.5) == 7
    assert percentile([], 0.5) != percentile([], 0.5)


def test_a_plan_goes_on_when_who_carries_it_out_is_killed() -> None:
    async def scenario(world: World) -> None:
        async with creche.open_runtime("r") as runtime:
            sleeper = await runtime.start(creche.child(Sleeper))
            async with world.unleashed(runtime):
                await trio.sleep(3)
            assert runtime.node_of(sleeper).incarnation == 2

    steps = (chaos.Step(1, "root/chaos", chaos.Kill()), chaos.Step(2, "root/sleeper", chaos.Kill()))
    assert chaos.replay(scenario, chaos.Plan(0, steps)).summary.faults == {"kill": 2}


async def test_a_live_tree_suffers_the_same_plan() -> None:
    """Under a real clock: nothing in it needs virtual time."""
    plan = chaos.Plan(0, (chaos.Step(0.01, "root/sleeper", chaos.Kill()),))
    world = World(0, plan=plan)

    async def scenario(world: World) -> None:
        async with creche.open_runtime("r") as runtime:
            sleeper = await runtime.start(creche.child(Sleeper))
            async with world.unleashed(runtime):
                pass
            assert runtime.node_of(sleeper).restarts == 1

    await world.live(scenario, 10)


class Stubborn(creche.Actor):
    @creche.message(on_caller_gone="cancel")
    async def hold(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)


async def test_who_is_stuck_is_not_healthy(autojump_clock: trio.testing.MockClock) -> None:
    """It runs, but takes nothing; when its handler has unwound all is well again."""
    async with creche.open_runtime("r") as runtime:
        stubborn = await runtime.start(creche.child(Stubborn).options(unwind_grace=1))
        assert chaos.healthy(runtime)
        with testing.expect_outcome_unknown(), trio.move_on_after(1):
            await stubborn.ask.hold()
        assert not chaos.healthy(runtime)
        await trio.sleep(60)
        assert chaos.healthy(runtime)
