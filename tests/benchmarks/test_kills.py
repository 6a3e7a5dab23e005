"""The audit of `benchmarks.kills` can fail: each way in which what was told may be untrue is found."""

from __future__ import annotations

import pytest

from benchmarks.kills import Audit, Disk, Told, audit

ACTOR = "alone-0"


def call_told(outcome: str) -> Told:
    told = Told()
    told.calls[1] = outcome
    return told


def cast_accepted(*, dead: int = 0) -> Told:
    told = Told()
    told.casts[1] = ACTOR
    told.dead[ACTOR] = dead
    return told


def disk(effects: int, finished: int = 0) -> Disk:
    made = Disk()
    made.effects[1] = effects
    made.finished[ACTOR] = finished
    return made


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (disk(1), call_told("value")),
        (disk(0), call_told("not_delivered_crash")),
        (disk(0), call_told("outcome_unknown")),
        (disk(1), call_told("outcome_unknown")),
        (disk(1, finished=1), cast_accepted()),
        (disk(0), cast_accepted(dead=1)),
        (disk(1), cast_accepted(dead=1)),  # killed between its effect and its end
    ],
)
def test_what_is_true_passes(written: Disk, told: Told) -> None:
    """Each outcome with the effects that it allows."""
    assert audit(written, told) == Audit(lost=0, double=0, untrue=0)


@pytest.mark.parametrize(
    ("written", "told", "verdict"),
    [
        (disk(0), call_told("value"), Audit(lost=1, double=0, untrue=0)),
        (disk(2), call_told("value"), Audit(lost=0, double=1, untrue=0)),
        (disk(2), call_told("outcome_unknown"), Audit(lost=0, double=1, untrue=0)),
        (disk(1), call_told("not_delivered_crash"), Audit(lost=0, double=0, untrue=1)),
        (disk(0), cast_accepted(), Audit(lost=1, double=0, untrue=0)),
        (disk(1), cast_accepted(), Audit(lost=1, double=0, untrue=0)),
        (disk(2, finished=1), cast_accepted(), Audit(lost=0, double=1, untrue=0)),
        (disk(1, finished=1), cast_accepted(dead=1), Audit(lost=0, double=0, untrue=1)),
    ],
)
def test_what_is_not_true_is_found(written: Disk, told: Told, verdict: Audit) -> None:
    """A value without an effect, a second effect, a refusal with one, a cast that nobody knows the end of."""
    assert audit(written, told) == verdict
    assert not verdict.clean
