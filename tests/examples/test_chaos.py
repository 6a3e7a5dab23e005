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


# Where the search begins: one of them takes some 70 seeds from 0 on.
FIRST = {"an_error_swallowed": 60}


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.__name__)
def test_a_planted_fault_is_found(planted: chaos.Scenario) -> None:
    first = FIRST.get(planted.__name__, 0)
    report = chaos.explore(planted, range(first, first + 400), recipe=RECIPE, patience=PATIENCE, shrink=False)
    assert report.findings, f"not in {report.runs} seeds"
