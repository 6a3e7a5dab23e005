"""The message service under chaos, in memory: it holds, and what is planted in it is found."""

from __future__ import annotations

import pytest

from creche import chaos
from examples.message_service.chaos import RECIPE, scenario
from tests.examples.planted import PLANTED

PATIENCE = 300.0  # seconds of virtual time


def test_the_service_holds_whatever_strikes() -> None:
    report = chaos.check(scenario, 30, recipe=RECIPE, patience=PATIENCE)
    assert report.runs == 30


def test_a_seed_tells_one_story() -> None:
    one, again = (chaos.run(scenario, 4, recipe=RECIPE, patience=PATIENCE) for _ in range(2))
    assert one.trace.lines == again.trace.lines
    assert one.summary == again.summary
    assert one.summary.restarts > 0


def test_a_seed_tells_the_same_story_after_others() -> None:
    """What the runs of an exploration share, the app and its folder, makes no difference."""

    times = 0

    async def fail_once(world: chaos.World) -> None:
        nonlocal times
        await scenario(world)
        times += 1
        assert times != 3

    (finding,) = chaos.explore(fail_once, range(2, 5), recipe=RECIPE, patience=PATIENCE).findings
    after_others, by_itself = finding.run, chaos.run(scenario, 4, recipe=RECIPE, patience=PATIENCE)
    assert after_others.trace.lines == by_itself.trace.lines
    assert len(by_itself.trace.lines) > 50


# Where the search begins: from 0 on these take 45 and 134 seeds.
FIRST = {"a_dual_write": 40, "counted_without_a_mark": 130}


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.__name__)
def test_a_planted_fault_is_found(planted: chaos.Scenario) -> None:
    first = FIRST.get(planted.__name__, 0)
    report = chaos.explore(planted, range(first, first + 400), recipe=RECIPE, patience=PATIENCE, shrink=False)
    assert report.findings, f"not in {report.runs} seeds"
