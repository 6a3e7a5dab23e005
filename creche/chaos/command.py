"""``creche chaos``: a plan of faults for an app that runs, or for a scenario in virtual time.

The target is an app, ``module:app``, which is run live for as long as it is told, perhaps with a load; or a scenario,
an async function of a `World`, which is run in virtual time from one seed after the other. The exit status is 0 if all
that must hold did, 1 if not, and 2 if the command cannot be carried out as it was given. Ctrl-C ends the faults and the
load of a live run: what became of it so far is looked at and told. Elsewhere it ends the command, with status 130.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO, cast

import msgspec
import trio

from ..runtime.cli import add_options, imported
from ..runtime.config_fields import parse_duration
from ..runtime.errors import ConfigInvalid, CrecheError
from ..runtime.node import one_line
from ..testing.journal import Summary
from .apart import run_apart
from .explore import ATTEMPTS, Finding, Run, Scenario, as_test, kind_of_failure, run, run_live, shrunk
from .live import Load, Openable, Opened, is_scenario, scenario_of, takes
from .plan import WEIGHTS, Kind, Plan, PlanInvalid, Recipe, Stored
from .world import World

_VIOLATED = 1
_USAGE_ERROR = 2
_INTERRUPTED = 128 + signal.SIGINT
_LASTING = 10.0  # seconds
_TRIES = 3  # to see it once more: a live run is not the same again
_ATTEMPTS_APART = 60  # each takes a process, and if it is live as long as the run


def fill(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.description = "Let faults strike an app that runs, or a scenario in virtual time, and see what holds."
    parser.add_argument("target", help="module:app, or module:scenario for an async function of a creche.chaos.World")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=_count, default=1, help="how many, one run each, until one is violated")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="a plan in JSON instead of one drawn from the seed")
    parser.add_argument("--save-plan", type=Path, metavar="FILE", help="write the last plan there, shrunk or not")
    parser.add_argument("--for", dest="lasting", type=_seconds, metavar="TIME", help="of load and faults")
    parser.add_argument("--every", type=_seconds, default=0.5, metavar="TIME", help="mean time between two faults")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="paths that may be hit")
    parser.add_argument("--never", action="append", default=[], metavar="PATTERN", help="paths that are spared")
    parser.add_argument("--weight", action="append", default=[], type=_weight, metavar="KIND=N", help="0: not at all")
    parser.add_argument("--load", metavar="MODULE:FUNCTION", help="works the app: async, of the world and the app")
    parser.add_argument("--virtual", action="store_true", help="run the app in virtual time: for one without sockets")
    parser.add_argument("--healthy-within", type=_seconds, default=10.0, metavar="TIME")
    parser.add_argument("--patience", type=_seconds, default=3600.0, metavar="TIME", help="for a run in all")
    parser.add_argument("--shrink", action="store_true", help="look for the smallest plan that is violated in this way")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each run")
    add_options(parser)
    parser.set_defaults(command=carry_out)


def carry_out(arguments: argparse.Namespace) -> int:
    """Run; returns the exit status."""
    out = sys.stdout
    # Where lines of JSON are asked for, there is to be nothing else: an app may write its log there, too.
    with redirect_stdout(sys.stderr) if arguments.json else nullcontext():
        try:
            return _carry_out(arguments, out)
        except BaseException as error:
            if not _only_interrupts(error):
                raise
            print("creche chaos: interrupted", file=sys.stderr)
            return _INTERRUPTED


def _carry_out(arguments: argparse.Namespace, out: TextIO) -> int:
    ctrl_c = _CtrlC()
    try:
        job = _job(arguments, ctrl_c)
    except (ValueError, ImportError, AttributeError, TypeError, OSError, CrecheError) as error:
        return _complain(error)
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        try:
            found = smallest = job.run(seed, job.plan)
        except PlanInvalid as error:
            return _complain(error)
        if isinstance(found.failure, ConfigInvalid):
            return _complain(found.failure)
        if arguments.shrink and found.failure is not None and not ctrl_c.came:
            smallest = _smallest(arguments, job, found)
        _tell(arguments.json, job, found, smallest, out)
        if arguments.save_plan is not None:
            arguments.save_plan.write_bytes(smallest.plan.to_json(job.lasting if job.of_app else None))
        if found.failure is not None:
            return _VIOLATED
        if ctrl_c.came:
            break
    return 0


def _complain(error: Exception) -> int:
    print(f"creche chaos: {error}", file=sys.stderr)
    return _USAGE_ERROR


def _only_interrupts(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split(KeyboardInterrupt)[1] is None
    return isinstance(error, KeyboardInterrupt)


class _CtrlC:
    """Ends a live run early. The second one is Python's own again."""

    came = False

    async def wait(self, _world: World, _opened: Opened) -> None:
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            await anext(signals)
            self.came = True


# --- what is to be done ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    scenario: Scenario
    of_app: bool
    live: bool  # on the real clock
    plan: Plan | None
    recipe: Recipe
    lasting: float
    patience: float

    def run(self, seed: int, plan: Plan | None) -> Run:
        way = run_live if self.live else run
        return way(self.scenario, seed, plan=plan, recipe=self.recipe, patience=self.patience)


def _job(arguments: argparse.Namespace, ctrl_c: _CtrlC | None) -> _Job:
    """Raises what says what is wrong with the arguments."""
    stored = None if arguments.plan is None else Stored.from_json(arguments.plan.read_bytes())
    lasting = _lasting(arguments.lasting, stored)
    if arguments.save_plan is not None and not arguments.save_plan.absolute().parent.is_dir():
        raise ValueError(f"--save-plan {arguments.save_plan}: there is no such folder")
    target = _named(arguments.target)
    if of_app := isinstance(target, Openable):
        until = None if arguments.virtual or ctrl_c is None else ctrl_c.wait
        scenario = scenario_of(target, lasting, _load(arguments.load), arguments.healthy_within, until)
    elif is_scenario(target) and arguments.load is None:
        scenario = cast("Scenario", target)
    else:
        raise TypeError(
            f"{arguments.target} is {target!r}, neither a creche.App nor, without --load, an async function of a World"
        )
    return _Job(
        scenario,
        of_app=of_app,
        live=of_app and not arguments.virtual,
        plan=None if stored is None else stored.plan,
        recipe=_recipe(arguments, lasting),
        lasting=lasting,
        patience=arguments.patience,
    )


def _lasting(asked: float | None, stored: Stored | None) -> float:
    """For how long the app is worked: as long as when the plan was found, and not less than until its last step."""
    last = 0.0 if stored is None else stored.plan.lasting
    if asked is not None and asked < last:
        raise ValueError(f"--for {asked:g}: the plan's last step comes after {last:g} s")
    if asked is not None:
        return asked
    return (None if stored is None else stored.lasting) or max(_LASTING, last)


def _load(name: str | None) -> Load | None:
    if name is None:
        return None
    load = _named(name)
    if not takes(load, 2):
        raise TypeError(f"--load {name} is {load!r}, not an async function of a World and of what App.open gives")
    return cast("Load", load)


def _named(target: str) -> object:
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{target!r}: name it as module:attribute, for instance service.main:app")
    if "" not in sys.path:
        sys.path.insert(0, "")
    return getattr(imported(module), attribute)


def _recipe(arguments: argparse.Namespace, lasting: float) -> Recipe:
    weights = dict(arguments.weight)
    if not any({**WEIGHTS, **weights}.values()):
        raise ValueError("--weight: no kind of fault is left")
    return Recipe(
        lasting=lasting,
        every=arguments.every,
        only=tuple(arguments.only) or ("*",),
        never=tuple(arguments.never),
        weights=weights,
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parse_duration(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: a time is a finite number of seconds, not below 0, or as in 300ms")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of at least 1")
    return int(text)


def _weight(text: str) -> tuple[Kind, float]:
    kind, _, weight = text.partition("=")
    try:
        return cast("Kind", kind), float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write it as in kill=5") from None


# --- shrinking ------------------------------------------------------------------------------------


def _smallest(arguments: argparse.Namespace, job: _Job, found: Run) -> Run:
    """The run of the smallest plan that fails in the same way, also in a process of its own; else `found`.

    Ctrl-C ends the search: then it is the smallest so far.
    """
    tried = [found]

    def again(plan: Plan) -> Run:
        tried.append(apart(plan) if job.of_app else job.run(plan.seed, plan))
        return tried[-1]

    apart = partial(run_apart, partial(_again, arguments))
    wanted = kind_of_failure(found.failure)
    try:
        if job.of_app and not any(kind_of_failure(apart(found.plan).failure) == wanted for _ in range(_TRIES)):
            return _not_shrunk(found, "under the same plan, in a process of its own, it has not failed again")
        smallest = shrunk(found, again, _ATTEMPTS_APART if job.of_app else ATTEMPTS)
        if not job.of_app and kind_of_failure(apart(smallest.plan).failure) != wanted:
            return _not_shrunk(found, "something outlives the runs, such as an object of a module, and makes all fail")
        return smallest
    except BaseException as error:
        if not _only_interrupts(error):
            raise
        print("creche chaos: interrupted; the smallest plan so far:", file=sys.stderr)
        alike = [run for run in tried if kind_of_failure(run.failure) == wanted]
        return min(alike, key=lambda run: len(run.plan.steps))


def _again(arguments: argparse.Namespace, plan: Plan) -> Run:
    """In another process."""
    return _job(arguments, None).run(plan.seed, plan)


def _not_shrunk(found: Run, why: str) -> Run:
    print(f"creche chaos: not shrunk: {why}", file=sys.stderr)
    return found


# --- what is told ---------------------------------------------------------------------------------


def _tell(as_json: bool, job: _Job, found: Run, smallest: Run, out: TextIO) -> None:
    if as_json:
        print(msgspec.json.encode(_facts(found, smallest)).decode(), file=out, flush=True)
        return
    print("\n".join(_lines(found)), file=out, flush=True)
    if smallest is not found:
        test = "" if job.of_app else as_test(job.scenario, smallest, job.patience)
        print(Finding(found, smallest, test), file=out, flush=True)


def _facts(found: Run, smallest: Run) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "seed": found.seed,
        "held": found.failure is None,
        "failure": None if found.failure is None else one_line(found.failure),
        "steps": len(found.plan.steps),
        **asdict(found.summary),
        "plan": found.plan,
    }
    return facts if smallest is found else {**facts, "shrunk": smallest.plan}


def _lines(found: Run) -> Sequence[str]:
    summary = found.summary
    return (
        f"seed {found.seed}: {_counts(summary.faults) or 'no fault'}",
        f"  calls       {_counts(summary.calls) or 'none'}; without an outcome {summary.unanswered}",
        f"  restarts    {summary.restarts}, ready again after p50 {_ms(summary.recovery_p50)}, "
        f"p99 {_ms(summary.recovery_p99)}",
        f"  losses      {_losses(summary)}",
        f"  {'held' if found.failure is None else f'VIOLATED   {one_line(found.failure)}'}",
    )


def _losses(summary: Summary) -> str:
    lost = _counts(summary.dead_letters)
    return f"casts of which nobody knows that they were handled: {lost}" if lost else "none"


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _ms(seconds: float) -> str:
    return "-" if seconds != seconds else f"{seconds * 1000:.1f} ms"
