"""Plans: what they follow from, and that they can be stored and pasted."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import creche
from creche import chaos
from creche.chaos.plan import WEIGHTS, Kind, Target, draw

TREE = (Target("root/sub", ()), Target("root/sub/a", ("go", "stop")), Target("root/proxy", ("cut",)))


@example(-27625)  # its last moment was rounded up to the end
@given(st.integers())
def test_a_plan_follows_from_its_seed(seed: int) -> None:
    """And is in order of time, within its time, at targets that there are."""
    plan = draw(seed, TREE, actions=("flap",))
    assert plan == draw(seed, TREE, actions=("flap",))
    moments = [step.at for step in plan.steps]
    assert moments == sorted(moments)
    assert all(0 <= at < chaos.Recipe().lasting for at in moments)
    assert {step.target for step in plan.steps} <= {"", *(target.path for target in TREE)}


def test_a_plan_is_the_same_in_another_process() -> None:
    program = (
        "from creche.chaos.plan import Target, draw;"
        "print(draw(7, (Target('root/a', ('go',)), Target('root/b', ('go', 'cut')))).source())"
    )
    here = draw(7, (Target("root/a", ("go",)), Target("root/b", ("go", "cut")))).source()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here


def test_seeds_give_all_kinds_of_faults() -> None:
    kinds = {step.fault.__struct_config__.tag for seed in range(50) for step in draw(seed, TREE, actions=("a",)).steps}
    assert kinds == set(WEIGHTS)


@given(st.integers(0, 10_000))
def test_a_plan_comes_back_from_json_and_from_its_source(seed: int) -> None:
    plan = draw(seed, TREE, actions=("flap",))
    assert chaos.Plan.from_json(plan.to_json()) == plan
    assert eval(plan.source(), {"chaos": chaos}) == plan  # what a user pastes


def test_a_plan_that_is_wrong_is_refused_with_the_place() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.steps\[0\]\.fault"):
        chaos.Plan.from_json('{"seed": 1, "steps": [{"at": 1, "target": "", "fault": {"type": "explode"}}]}')


@pytest.mark.parametrize(
    ("step", "match"),
    [
        ('{"at": -1, "target": "", "fault": {"type": "kill"}}', r"Step.at = -1.*\$\.steps\[0\]"),
        ('{"at": 1, "target": "", "fault": {"type": "kill", "why": ""}}', "unknown field `why`"),
        ('{"at": 1, "target": "", "fault": {"type": "kill"}, "when": 2}', "unknown field `when`"),
        ('{"at": 1, "target": "", "fault": {"type": "delay", "seconds": -5}}', "Delay.seconds = -5"),
        ('{"at": 1, "target": "", "fault": {"type": "crash", "nth": 0}}', "Crash.nth = 0"),
        ('{"at": 1, "target": "", "fault": {"type": "crash", "message": ""}}', "Crash.message = ''"),
        ('{"at": 1, "target": "", "fault": {"type": "refuse_start", "times": 0}}', "RefuseStart.times = 0"),
    ],
)
def test_steps_that_make_no_sense_are_refused(step: str, match: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=match):
        chaos.Plan.from_json(f'{{"seed": 1, "steps": [{step}]}}')


def test_what_else_a_plan_cannot_be() -> None:
    late, early = (chaos.Step(at, "root/a", chaos.Kill()) for at in (2, 1))
    with pytest.raises(creche.SpecInvalid, match="in order of time: the one before is at 2 s"):
        chaos.Plan(1, (late, early))
    with pytest.raises(creche.SpecInvalid, match=r"not of creche\.chaos\.network"):
        chaos.Step(1, "root/a", chaos.network.Cut(3))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(creche.SpecInvalid, match="finite"):
        chaos.StepClock(float("nan"))
    with pytest.raises(msgspec.ValidationError, match="unknown field `stepz`"):
        chaos.Plan.from_json('{"seed": 1, "stepz": []}')


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"lasting": -1}, "lasting"),
        ({"lasting": float("inf")}, "lasting"),
        ({"weights": {"kill": float("inf")}}, "finite"),
        ({"every": 0}, "every"),
        ({"only": "root/*"}, "only"),
        ({"weights": {"explode": 1}}, "kinds of faults"),
        ({"weights": {"kill": -1}}, "at least 0"),
    ],
)
def test_a_recipe_is_checked(values: dict[str, Any], match: str) -> None:
    with pytest.raises(creche.SpecInvalid, match=match):
        chaos.Recipe(**values)


def test_weights_leave_kinds_out() -> None:
    only_kills: dict[Kind, float] = {kind: 0 for kind in WEIGHTS if kind != "kill"}
    steps = [step for seed in range(20) for step in draw(seed, TREE, chaos.Recipe(weights=only_kills)).steps]
    assert steps
    assert {type(step.fault) for step in steps} == {chaos.Kill}
    assert draw(1, TREE, chaos.Recipe(weights=dict.fromkeys(WEIGHTS, 0.0))).steps == ()


def test_kinds_that_nothing_can_suffer_are_not_drawn() -> None:
    steps = [step for seed in range(50) for step in draw(seed, [Target("root/sub", ())]).steps]
    assert {type(step.fault) for step in steps} == {chaos.Kill, chaos.StepClock}


@pytest.mark.parametrize("kind", ["crash", "cut", "act"])
def test_a_kind_that_nothing_can_suffer_cannot_be_asked_for(kind: Kind) -> None:
    with pytest.raises(chaos.PlanInvalid, match=f"'{kind}'.*can suffer it: it takes"):
        draw(1, [Target("root/sub", ())], chaos.Recipe(weights={kind: 1}))
    draw(1, [Target("root/sub", ())], chaos.Recipe(weights={kind: 0}))


class Idle(creche.Actor):
    async def go(self) -> None:
        """Nothing."""


async def test_targets_are_the_nodes_that_patterns_name_and_the_root_only_by_name() -> None:
    sub = creche.supervisor("sub", creche.child(Idle).options(name="a"), creche.child(Idle).options(name="b"))
    async with creche.open_runtime("r", root=creche.supervisor("root", sub)) as runtime:

        def found(**values: Any) -> list[str]:
            return [target.path for target in chaos.targets_in(runtime, chaos.Recipe(**values))]

        assert found() == ["root/sub", "root/sub/a", "root/sub/b"]
        assert found(never=("*/b",)) == ["root/sub", "root/sub/a"]
        assert found(only=("root", "root/sub/b")) == ["root", "root/sub/b"]
        with pytest.raises(chaos.PlanInvalid, match=r"'\*/c': .* there are root, root/sub, root/sub/a, root/sub/b"):
            found(only=("*/a", "*/c"))
