"""Runs of a scenario: one, by seed or plan; many, until something does not hold; and the smallest plan that shows it.

`run` is deterministic: `creche.testing.run` with an injector in between. A plan that fails is shrunk by Hypothesis,
which drops steps and rounds times for as long as the same thing fails.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace

import trio

from ..runtime.checks import require_seconds
from ..runtime.errors import CrecheError, SpecInvalid
from ..runtime.interposition import interposed
from ..runtime.node import one_line, unwrap
from ..runtime.scheduling import Order
from ..testing.deterministic import Trace, run_in
from ..testing.journal import Summary
from .plan import Plan, PlanInvalid, Recipe, Step
from .world import Shared, Violated, World

Scenario = Callable[[World], Awaitable[object]]
PATIENCE = 3600.0  # seconds of virtual time that a scenario may take
ATTEMPTS = 300
_NOT_SHRUNK = """\
# Not shrunk: seed {} held before seed {} failed, and fails since. Something outlives the runs, such as an object of a
# module, so any plan would seem to fail now. Let the scenario make all that it changes.
"""
_NO_FAULT = """\
# It fails without any fault. Should it hold in a new process, something outlives the runs, such as an object of a
# module: let the scenario make all that it changes.
"""
_OBJECTS_UNTIL_COLLECTED = 50_000


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a scenario. `failure` is what did not hold or what the scenario raised; None if all is well."""

    seed: int
    plan: Plan
    failure: Exception | None
    summary: Summary
    trace: Trace


@dataclass(frozen=True, slots=True)
class Finding:
    """A run that failed, the plan that it shrank to, and a test, in Python, that fails in the same way."""

    run: Run
    shrunk: Run
    test: str

    def __str__(self) -> str:
        failure, plan = self.shrunk.failure, self.shrunk.plan
        what = "" if failure is None else one_line(failure)
        steps = f"{len(self.run.plan.steps)} steps, shrunk to {len(plan.steps)}"
        return f"seed {self.run.seed}: {what}\n{steps}:\n{plan}\n\n{self.test}"


@dataclass(frozen=True, slots=True)
class Report:
    """What many runs came to."""

    runs: int
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def per_minute(self) -> float:
        """Runs a minute, shrinking included."""
        return self.runs / self.seconds * 60 if self.seconds else 0.0


def run(
    scenario: Scenario,
    seed: int = 0,
    *,
    plan: Plan | None = None,
    recipe: Recipe | None = None,
    patience: float = PATIENCE,
    steps: bool = False,
) -> Run:
    """One run in virtual time. What goes wrong in it is in the result, not raised.

    Parameters
    ----------
    plan
        What strikes. Default: drawn from the seed and `recipe`. A plan brings its own seed.
    patience
        Seconds of virtual time in which the scenario must end.
    steps
        See `creche.testing.Trace`.

    Raises what `creche.testing.run` raises before anything begins: `NotDeterministic`, ImportError; and `PlanInvalid`
    if the plan, or the recipe, does not fit the scenario's tree.
    """
    seed = seed if plan is None else plan.seed
    with Shared() as shared:
        return _run_in(Order(), scenario, World(seed, recipe, plan, shared), patience, Trace(steps=steps))


def run_live(
    scenario: Scenario,
    seed: int = 0,
    *,
    plan: Plan | None = None,
    recipe: Recipe | None = None,
    patience: float = PATIENCE,
) -> Run:
    """As `run`, but on the real clock, with threads and sockets: the plan follows from the seed, the rest does not."""
    with Shared() as shared:
        world = World(seed if plan is None else plan.seed, recipe, plan, shared)
        return _run(scenario, world, patience, Trace(), trio.run)


def _run_in(order: Order, scenario: Scenario, world: World, patience: float, trace: Trace) -> Run:
    def start(main: Callable[[], Awaitable[None]]) -> None:
        run_in(order, main, world.seed, trace)

    return _run(scenario, world, patience, trace, start)


def _run(
    scenario: Scenario,
    world: World,
    patience: float,
    trace: Trace,
    start: Callable[[Callable[[], Awaitable[None]]], None],
) -> Run:
    began = False
    require_seconds("patience", patience, or_never=True)

    async def main() -> None:
        nonlocal began
        began = True
        with interposed(world.injector):
            await world.live(scenario, patience)

    failure: Exception | None = None
    try:
        start(main)
    except Exception as error:
        failure = unwrap(error)
        if not began or isinstance(failure, PlanInvalid):
            raise failure from failure.__cause__
    plan = world.plan or Plan(world.seed)
    return Run(world.seed, plan, world.violation or failure, world.journal.summary(), trace)


def explore(
    scenario: Scenario,
    seeds: Iterable[int],
    *,
    recipe: Recipe | None = None,
    patience: float = PATIENCE,
    findings: int = 1,
    shrink: bool = True,
) -> Report:
    """Run a scenario from one seed after the other, until there are so many `findings` or no more seeds.

    Parameters
    ----------
    recipe
        What the plans are drawn by.
    patience
        Seconds of virtual time in which each run must end.
    findings
        How many are enough.
    shrink
        Look for the smallest plan that fails in the same way: up to 300 runs more for each finding, and two to see
        whether runs are independent of each other.

    Raises as `run`.
    """
    order = Order()  # tested once: that takes as long as a small scenario
    began, runs, found = time.perf_counter(), 0, list[Finding]()

    def by_itself(plan: Plan) -> Run:
        """As whoever pastes the test will run it."""
        with Shared() as own:
            return _run_in(order, scenario, World(plan.seed, None, plan, own), patience, Trace())

    def paste(one: Run) -> str:
        return as_test(scenario, one, patience)

    held: Plan | None = None
    with _rarely_collecting(), Shared() as shared:
        for seed in seeds:
            one = _run_in(order, scenario, World(seed, recipe, None, shared), patience, Trace())
            runs += 1
            if one.failure is None:
                held = one.plan
                continue
            found.append(_finding(one, by_itself, paste, held, shrink=shrink, shared=shared.used))
            if len(found) >= findings:
                break
    return Report(runs, time.perf_counter() - began, tuple(found))


def _finding(
    one: Run,
    by_itself: Callable[[Plan], Run],
    paste: Callable[[Run], str],
    held: Plan | None,
    *,
    shrink: bool,
    shared: bool,
) -> Finding:
    if shared:
        after_others, one = one, by_itself(one.plan)
        if kind_of_failure(one.failure) != kind_of_failure(after_others.failure):
            return _disturbed(after_others)
    if held is not None and by_itself(held).failure is not None:
        return Finding(one, one, paste(one) + _NOT_SHRUNK.format(held.seed, one.seed))
    smallest = shrunk(one, by_itself) if shrink else one
    return Finding(one, smallest, paste(smallest) + ("" if smallest.plan.steps else _NO_FAULT))


def _disturbed(one: Run) -> Finding:
    what = "" if one.failure is None else one_line(one.failure)
    detail = f"seed {one.seed} fails after others, and not in this way by itself, because of what they left: {what}"
    run = replace(one, failure=Violated("no run changes what runs share", detail, one.plan))
    return Finding(run, run, "# There is no test to paste: it is `World.shared` that brings it about.\n")


def check(
    scenario: Scenario, seeds: int | Iterable[int] = 100, *, recipe: Recipe | None = None, patience: float = PATIENCE
) -> Report:
    """For tests: as `explore`, and raises AssertionError with the smallest plan, and a test to paste, at a finding.

    `seeds` is how many, from 0 on, or which.
    """
    if isinstance(seeds, int) and seeds < 1:
        raise SpecInvalid("check: seeds", seeds, "at least 1, or an iterable of seeds")
    report = explore(scenario, range(seeds) if isinstance(seeds, int) else seeds, recipe=recipe, patience=patience)
    for finding in report.findings:
        raise AssertionError(str(finding)) from finding.shrunk.failure
    return report


def replay(scenario: Scenario, plan: Plan, *, patience: float = PATIENCE) -> Run:
    """Run a scenario under a plan, and raise what goes wrong."""
    one = run(scenario, plan=plan, patience=patience)
    if one.failure is not None:
        raise one.failure
    return one


@contextmanager
def _rarely_collecting() -> Generator[None]:
    """Python's collector comes seldom: a run is short, and a tenth of its time was that."""
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS_UNTIL_COLLECTED, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


# --- shrinking --------------------------------------------------------------------------------------


def shrunk(found: Run, again: Callable[[Plan], Run], attempts: int = ATTEMPTS) -> Run:
    """The run of the smallest plan that Hypothesis finds, within so many attempts, that fails in the same way.

    `again` runs the same under another plan.
    """
    from hypothesis import HealthCheck, Phase, find, settings
    from hypothesis import strategies as st
    from hypothesis.errors import NoSuchExample

    wanted = kind_of_failure(found.failure)
    runs: dict[Plan, Run] = {found.plan: found}

    def fails(plan: Plan) -> bool:
        if plan not in runs and len(runs) <= attempts:
            runs[plan] = again(plan)
        return plan in runs and kind_of_failure(runs[plan].failure) == wanted

    def variants(step: Step) -> st.SearchStrategy[Step | None]:
        moments = sorted({round(step.at, digits) for digits in (0, 1, 2)} | {step.at}, key=lambda at: len(repr(at)))
        kept = [Step(at, step.target, step.fault) for at in moments]
        # Hypothesis shrinks towards the first of the choices, and should rarely begin there.
        return st.sampled_from([None, *kept, *[step] * 6])

    begin = _without_chunks(found.plan, fails)
    plans = st.tuples(*map(variants, begin.steps)).map(
        lambda steps: Plan(found.seed, tuple(sorted((s for s in steps if s is not None), key=lambda s: s.at)))
    )
    quiet = settings(
        max_examples=attempts,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    try:
        return runs[find(plans, fails, settings=quiet)]
    except NoSuchExample:
        return runs[begin]


def _without_chunks(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """Leave out halves, quarters and so on of what is left, while it fails: in few attempts, however long the plan is.

    After ddmin (Zeller and Hildebrandt 2002); single steps are left to Hypothesis.
    """
    size = len(plan.steps) // 2
    while size > 1:
        start = 0
        while start < len(plan.steps):
            shorter = Plan(plan.seed, plan.steps[:start] + plan.steps[start + size :])
            if fails(shorter):
                plan = shorter
            else:
                start += size
        size //= 2
    return plan


class FailedApart(CrecheError):
    """What a run in another process failed of: its kind, and the text, which is all that has come back."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def kind_of_failure(failure: Exception | None) -> str:
    """What two runs have in common that fail in the same way."""
    if failure is None:
        return ""
    if isinstance(failure, FailedApart):
        return failure.kind
    return f"Violated {failure.name}" if isinstance(failure, Violated) else type(failure).__name__


def as_test(scenario: Scenario, found: Run, patience: float = PATIENCE) -> str:
    """A test, in Python, that runs a scenario under the plan of `found`."""
    module: str = getattr(scenario, "__module__", "__main__")
    name: str = getattr(scenario, "__qualname__", "<nameless>")
    source, given = f"from {module} import {name.partition('.')[0]}\n", ""
    if "<" in name or module == "__main__":  # it was made inside a function, as by `scenario_of`, or in a script
        source = "# `scenario` is to be made as where it was explored: give it as a fixture.\n"
        given = name = "scenario"
    more = "" if patience == PATIENCE else f", patience={patience!r}"
    failure = "" if found.failure is None else one_line(found.failure).replace("\\", "/").replace('"', "'")
    indented = found.plan.source().replace("\n", "\n    ")
    return (
        "from creche import chaos\n"
        f"{source}\n\n"
        f"def test_chaos_seed_{str(found.seed).replace('-', 'minus_')}({given}) -> None:\n"
        f'    """{failure}"""\n'
        f"    plan = {indented}\n"
        f"    chaos.replay({name}, plan{more})\n"
    )
