"""Runs in processes of their own."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from creche import chaos
from creche.chaos.apart import run_apart
from creche.chaos.explore import kind_of_failure
from tests.chaos.scenarios import torn

PLAN = chaos.Plan(7, (chaos.Step(1.0, "", chaos.StepClock(3)),))


def held(plan: chaos.Plan) -> chaos.Run:
    sys.stdout.write("is not for standard output\n")
    return chaos.run(nothing, plan=plan)


async def nothing(world: chaos.World) -> None:
    os.write(1, b"nor is this\n")


def violated(_plan: chaos.Plan) -> chaos.Run:
    return chaos.explore(torn, range(100), shrink=False).findings[0].run


async def wrong(world: chaos.World) -> None:
    raise LookupError("there is no such thing")


def failed(plan: chaos.Plan) -> chaos.Run:
    return chaos.run(wrong, plan=plan)


def dies(_plan: chaos.Plan) -> chaos.Run:
    os._exit(3)


def interrupts(plan: chaos.Plan) -> chaos.Run:
    signal.raise_signal(signal.SIGINT)  # as when Ctrl-C is pressed: whoever waits for us decides
    return held(plan)


def test_what_a_run_came_to_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    one = run_apart(held, PLAN)
    assert (one.seed, one.plan, one.failure, one.summary.calls) == (7, PLAN, None, {})
    assert run_apart(interrupts, PLAN).failure is None
    assert capfd.readouterr().out == ""


def test_failures_are_of_the_same_kind_and_say_the_same() -> None:
    for under in (violated, failed):
        there, here = run_apart(under, PLAN).failure, under(PLAN).failure
        assert kind_of_failure(there) == kind_of_failure(here) != ""
        assert str(here) in str(there)


def test_a_process_that_dies_is_a_failure() -> None:
    one = run_apart(dies, PLAN)
    assert (one.plan, str(one.failure)) == (PLAN, "its process has died, with status 3")
