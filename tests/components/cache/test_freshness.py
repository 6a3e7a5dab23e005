"""Whether a value may be used: the policy alone."""

from __future__ import annotations

import math
import random

import pytest

from creche import SpecInvalid
from creche.components.cache import LoadPolicy
from creche.components.cache.freshness import Verdict, jittered, judge


class Drawn:
    """Chance that is given."""

    def __init__(self, draw: float) -> None:
        self.draw = draw

    def random(self) -> float:
        return self.draw

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.draw


ALMOST_ONE = 1 - 2**-53


@pytest.mark.parametrize(
    ("now", "fresh_until", "cost", "retry_at", "early", "draw", "expected"),
    [
        (0, 10, 1, 0, 1, 0.0, Verdict.USE),  # far from the end
        (0, math.inf, 1, 0, 1, ALMOST_ONE, Verdict.USE),  # without an end
        (9.9, 10, 0, 0, 1, ALMOST_ONE, Verdict.USE),  # a load that costs nothing is not begun early
        (9.9, 10, 1, 0, 0, ALMOST_ONE, Verdict.USE),  # switched off
        (9.9, 10, 1, 0, 1, 0.0, Verdict.USE),  # most callers
        (9.9, 10, 1, 0, 1, 0.5, Verdict.REFRESH),  # one of them
        (9.9, 10, 1, 20, 1, 0.5, Verdict.USE),  # but not soon after a failure
        (5, 40, 1, 0, 1, ALMOST_ONE, Verdict.REFRESH),  # very early is possible
        (3, 40, 1, 0, 1, ALMOST_ONE, Verdict.USE),  # so early it is not
        (10, 10, 1, 0, 1, 0.0, Verdict.LOAD),  # the end itself
        (11, 10, 1, 12, 1, 0.0, Verdict.REST),
        (12, 10, 1, 12, 1, 0.0, Verdict.LOAD),
    ],
)
def test_verdicts(
    now: float, fresh_until: float, cost: float, retry_at: float, early: float, draw: float, expected: Verdict
) -> None:
    """One row for each way out."""
    policy = LoadPolicy(early=early)
    assert judge(now, fresh_until, cost, retry_at, policy, Drawn(draw)) is expected


def test_early_refreshes_come_as_often_as_the_paper_says() -> None:
    """The chance of one caller at a distance of `d` is exp(-d / (cost * beta))."""
    rng = random.Random(1)
    for early, distance in ((1.0, 2.0), (3.0, 2.0), (1.0, 0.5)):
        policy = LoadPolicy(early=early)
        verdicts = [judge(10 - distance, 10, 1.0, 0, policy, rng) for _ in range(20_000)]
        share = verdicts.count(Verdict.REFRESH) / len(verdicts)
        assert share == pytest.approx(math.exp(-distance / early), abs=0.015)


@pytest.mark.parametrize(("jitter", "draw", "expected"), [(0, 0.5, 100), (0.2, 0.0, 80), (0.2, 0.5, 90), (0.2, 1, 100)])
def test_jitter_only_shortens(jitter: float, draw: float, expected: float) -> None:
    """The ttl that was asked for is never exceeded."""
    assert jittered(100, LoadPolicy(jitter=jitter), Drawn(draw)) == pytest.approx(expected)


def test_no_end_has_no_jitter() -> None:
    """Infinity stays what it is."""
    assert jittered(math.inf, LoadPolicy(jitter=0.5), Drawn(0.3)) == math.inf


@pytest.mark.parametrize(
    "values",
    [
        {"jitter": 1},
        {"jitter": -0.1},
        {"jitter": math.nan},
        {"early": -1},
        {"stale_for": -1},
        {"retry_after": "soon"},
        {"soft_timeout": -1},
        {"hard_timeout": 0},
        {"soft_timeout": 5, "hard_timeout": 5},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_when_it_is_made(values: dict[str, float]) -> None:
    """With the name of the field in the error."""
    with pytest.raises(SpecInvalid, match=r"LoadPolicy\.(" + "|".join([*values, "hard_timeout"]) + ")"):
        LoadPolicy(**values)
