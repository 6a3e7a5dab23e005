"""``creche chaos``: a plan of faults for an app that runs, or for a scenario in virtual time.

The target is an app, ``module:app``, which is run live for as long as it is told, perhaps with a load; or a scenario,
an async function of a `World`, which is run in virtual time from one seed after the other. The exit status is 0 if all
that must hold did, 1 if not, and 2 if the command cannot be carried out as it was given. Ctrl-C ends the faults and the
load of a live run: what became of it so far is looked at and told. Elsewhere it ends the command, with status 130.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import trio

from ..runtime.cli import add_options
from ..runtime.config_fields import parse_duration
from ..runtime.errors import CrecheError
from ..runtime.node import one_line
from ..testing.journal import Summary
from .explore import Finding, Run, Scenario, run, run_live, shrunk, test_of
from .live import Load, Openable, Opened, is_scenario, scenario_of
from .plan import Kind, Plan, Recipe
from .world import World

_VIOLATED = 1
_USAGE_ERROR = 2
_INTERRUPTED = 128 + signal.SIGINT
_LIVE_SHRINKS = 30  # each takes as long as the run


def fill(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.description = "Let faults strike an app that runs, or a scenario in virtual time, and see what holds."
    parser.add_argument("target", help="module:app, or module:scenario for an async function of a creche.chaos.World")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one run each, until one is violated")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="a plan in JSON instead of one drawn from the seed")
    parser.add_argument("--save-plan", type=Path, metavar="FILE", help="write the last plan there, shrunk or not")
    parser.add_argument("--for", dest="lasting", type=_seconds, default=10.0, metavar="TIME", help="of the faults")
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
    ctrl_c = _CtrlC()
    try:
        scenario, is_live = _scenario(arguments, ctrl_c)
        recipe = _recipe(arguments)
        plan = None if arguments.plan is None else Plan.from_json(arguments.plan.read_bytes())
    except (ValueError, ImportError, AttributeError, TypeError, OSError, CrecheError) as error:
        print(f"creche chaos: {error}", file=sys.stderr)
        return _USAGE_ERROR
    one_run = partial(run_live if is_live else run, scenario, recipe=recipe, patience=arguments.patience)
    again = partial(shrunk, attempts=_LIVE_SHRINKS) if is_live else shrunk
    try:
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            found = smallest = one_run(seed, plan=plan)
            if arguments.shrink and found.failure is not None and not ctrl_c.came:
                smallest = again(found, lambda variant: one_run(plan=variant))
            _tell(arguments, scenario, found, smallest)
            if found.failure is not None:
                return _VIOLATED
            if ctrl_c.came:
                break
    except BaseException as error:
        if not _only_interrupts(error):
            raise
        print("creche chaos: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0


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


def _scenario(arguments: argparse.Namespace, ctrl_c: _CtrlC) -> tuple[Scenario, bool]:
    """What is to be run, and whether on the real clock."""
    target = _named(arguments.target)
    load = None if arguments.load is None else cast("Load", _named(arguments.load))
    if isinstance(target, Openable):
        until = None if arguments.virtual else ctrl_c.wait
        scenario = scenario_of(target, arguments.lasting, load, arguments.healthy_within, until)
        return scenario, not arguments.virtual
    if not is_scenario(target):
        raise TypeError(f"{arguments.target} is {target!r}, neither a creche.App nor an async function of a World")
    return cast("Scenario", target), False


def _named(target: str) -> object:
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{target!r}: name it as module:attribute, for instance service.main:app")
    if "" not in sys.path:
        sys.path.insert(0, "")
    return getattr(importlib.import_module(module), attribute)


def _recipe(arguments: argparse.Namespace) -> Recipe:
    return Recipe(
        lasting=arguments.lasting,
        every=arguments.every,
        only=tuple(arguments.only) or ("*",),
        never=tuple(arguments.never),
        weights=dict(arguments.weight),
    )


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _weight(text: str) -> tuple[Kind, float]:
    kind, _, weight = text.partition("=")
    try:
        return cast("Kind", kind), float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write it as in kill=5") from None


# --- what is told ---------------------------------------------------------------------------------


def _tell(arguments: argparse.Namespace, scenario: Scenario, found: Run, smallest: Run) -> None:
    if arguments.save_plan is not None:
        arguments.save_plan.write_bytes(smallest.plan.to_json())
    if arguments.json:
        print(msgspec.json.encode(_facts(found, smallest)).decode(), flush=True)
        return
    print("\n".join(_lines(found)), flush=True)
    if smallest is not found:
        test = test_of(scenario, smallest) if is_scenario(scenario) and "." not in scenario.__qualname__ else ""
        print(Finding(found, smallest, test), flush=True)


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
    return f"casts accepted and not handled: {_counts(summary.dead_letters)}" if summary.dead_letters else "none"


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _ms(seconds: float) -> str:
    return "-" if seconds != seconds else f"{seconds * 1000:.1f} ms"
