"""Exploring: what is found, how small it becomes, and that it can be pasted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

import creche
from creche import chaos
from creche.chaos.explore import shrunk
from creche.chaos.plan import Target, draw
from creche.chaos.world import World
from creche.testing import Trace
from tests.chaos.scenarios import counting, forgetful, torn


def test_a_scenario_that_is_right_holds_for_all_seeds() -> None:
    report = chaos.check(counting, 40)
    assert (report.runs, report.findings) == (40, ())
    assert report.per_minute > 0


def test_same_seed_same_story_also_in_another_process() -> None:
    program = (
        "from creche import chaos; from tests.chaos.scenarios import counting;"
        "print(chaos.run(counting, 11).trace.digest)"
    )
    here = chaos.run(counting, 11).trace.digest
    assert here != chaos.run(counting, 12).trace.digest
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here


def test_a_fault_is_found_and_shrunk_to_one_step() -> None:
    (finding,) = chaos.explore(torn, range(100)).findings
    assert isinstance(finding.run.failure, chaos.Violated)
    assert len(finding.run.plan.steps) > 1
    assert len(finding.shrunk.plan.steps) == 1


def test_what_is_lost_is_found_by_the_patience() -> None:
    (finding,) = chaos.explore(forgetful, range(100), patience=100).findings
    assert str(finding.shrunk.failure).startswith("the scenario ends")
    assert len(finding.shrunk.plan.steps) <= 3 < len(finding.run.plan.steps)


def test_check_raises_with_a_test_to_paste_that_fails_again(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        chaos.check(torn, 100)
    text = str(caught.value)
    pasted = tmp_path / "test_pasted.py"
    pasted.write_text(text[text.index("from creche import chaos") :])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(pasted)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Violated" in done.stdout


SLOW = 20.0  # seconds


async def slow_after_a_crash(world: World) -> None:
    async with creche.open_runtime("r", root=creche.supervisor("root", creche.child(Worker))) as runtime:
        async with world.unleashed(runtime):
            await trio.sleep(10)
        crashed = runtime.node_of("root/worker").restarts > 0
        await trio.sleep(SLOW if crashed else 0)


class Worker(creche.Actor):
    async def work(self) -> None: ...


def test_the_test_to_paste_has_the_patience() -> None:
    (finding,) = chaos.explore(slow_after_a_crash, range(20), patience=SLOW).findings
    assert f"chaos.replay(slow_after_a_crash, plan, patience={SLOW})" in finding.test


class Scenarios:
    @staticmethod
    async def wrong(world: World) -> None:
        raise ValueError(r"C:\new \"x\" ")


def test_the_test_to_paste_is_python_whatever_the_scenario_is() -> None:
    def local() -> chaos.Scenario:
        async def scenario(world: World) -> None:
            await Scenarios.wrong(world)

        return scenario

    for scenario in (Scenarios.wrong, local(), partial(Scenarios.wrong), lambda world: Scenarios.wrong(world)):
        (finding,) = chaos.explore(scenario, [-3]).findings
        compile(finding.test, "pasted", "exec")
        assert "def test_chaos_seed_minus_3(" in finding.test
        how = "import Scenarios\n" if scenario is Scenarios.wrong else "(scenario) -> None:"
        assert how in finding.test


def test_what_outlives_the_runs_is_told_from_what_a_plan_does() -> None:
    """Else every plan would seem to fail, and the smallest is the empty one."""
    broken: list[int] = []

    async def scenario(world: World) -> None:
        if world.seed == 2:
            broken.append(2)
        assert not broken

    (finding,) = chaos.explore(scenario, range(5)).findings
    assert "# Not shrunk: seed 1 held before seed 2 failed, and fails since." in finding.test
    assert finding.shrunk is finding.run
    (first,) = chaos.explore(scenario, range(5)).findings
    assert "# It fails without any fault." in first.test


def test_a_long_plan_is_shrunk_as_well() -> None:
    """To steps of which none can be left out, in few runs."""
    tree = [Target("root/a", ("go",)), Target("root/b", ("go",))]
    plan = draw(1, tree, chaos.Recipe(lasting=400))
    needed = set(plan.steps[:: len(plan.steps) // 3])
    tried: list[chaos.Plan] = []

    def again(plan: chaos.Plan) -> chaos.Run:
        tried.append(plan)
        failure = ValueError() if needed <= set(plan.steps) else None
        return chaos.Run(1, plan, failure, chaos.Journal().summary(), Trace())

    assert len(plan.steps) > 700
    assert set(shrunk(again(plan), again).plan.steps) == needed
    assert len(tried) <= 301


def test_a_plan_that_does_not_fit_is_no_finding() -> None:
    async def scenario(world: World) -> None:
        async with creche.open_runtime("r") as runtime, world.unleashed(runtime):
            raise AssertionError("not reached")

    with pytest.raises(chaos.PlanInvalid, match="nobody"):
        chaos.check(scenario, 5, recipe=chaos.Recipe(only=("root/nobody",)))


def test_runs_that_would_be_none_are_refused() -> None:
    with pytest.raises(creche.SpecInvalid, match="at least 1"):
        chaos.check(counting, 0)
    with pytest.raises(creche.SpecInvalid, match="patience"):
        chaos.run(counting, patience=-1)


def test_shrinking_can_be_left_out() -> None:
    (finding,) = chaos.explore(torn, range(100), shrink=False).findings
    assert finding.shrunk is finding.run


def test_a_plan_that_brings_its_own_seed_is_replayed_with_it() -> None:
    found = chaos.explore(torn, range(100), shrink=False).findings[0].run
    with pytest.raises(chaos.Violated, match="no more than there are keys"):
        chaos.replay(torn, found.plan)


def test_what_runs_share_is_made_once_and_left_after_the_last() -> None:
    told: list[object] = []

    @contextmanager
    def shop(size: int) -> Generator[list[int]]:
        told.append("made")
        yield [size]
        told.append("left")

    async def scenario(world: World) -> None:
        shelf, other = world.shared(shop, 1), world.shared(shop, 2)
        told.append((world.seed, shelf is world.shared(shop, 1), shelf is other))

    assert chaos.explore(scenario, range(2)).findings == ()
    assert told == ["made", "made", (0, True, False), (1, True, False), "left", "left"]
    for _ in range(2):
        told.clear()
        assert chaos.run(scenario, 3).failure is None
        assert told == ["made", "made", (3, True, False), "left", "left"]


def test_what_runs_leave_to_each_other_is_told_from_what_fails_by_itself() -> None:
    """A finding is run by itself before it is shrunk, as its test will be."""

    @contextmanager
    def shop() -> Generator[list[int]]:
        yield []

    async def scenario(world: World) -> None:
        sold = world.shared(shop)
        sold.append(world.seed)
        assert len(sold) < 3
        if world.seed == 7:
            raise ValueError("fails by itself")

    (by_itself,) = chaos.explore(scenario, [7]).findings
    assert isinstance(by_itself.run.failure, ValueError)
    (after_others,) = chaos.explore(scenario, range(5)).findings
    assert "seed 2 fails after others, and not in this way by itself" in str(after_others)
    assert "AssertionError" in str(after_others)
    assert after_others.shrunk is after_others.run


def test_what_runs_share_is_left_when_an_exploration_is_broken_off() -> None:
    left: list[bool] = []

    @contextmanager
    def shop() -> Generator[None]:
        try:
            yield
        finally:
            left.append(True)

    async def scenario(world: World) -> None:
        world.shared(shop)
        if world.seed == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chaos.explore(scenario, range(5))
    assert left == [True]
