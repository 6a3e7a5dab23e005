"""Plans: which fault hits whom and when. Drawn from a seed, or written down.

A plan follows from its seed, its recipe and the tree that it is drawn for, and from nothing else.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import accumulate, pairwise, takewhile
from typing import Literal

import msgspec

from ..runtime.checks import require, require_number, require_seconds
from ..runtime.errors import SpecInvalid
from ..runtime.node import Node
from ..runtime.runtime import Runtime
from ..testing.faults import Act, Crash, Cut, Delay, Fault, Hang, Kill, RefuseStart, StepClock

Kind = Literal["kill", "crash", "delay", "hang", "refuse_start", "step_clock", "cut", "act"]
# How often each kind is drawn. A kill finds most, and what hangs makes everybody else wait.
WEIGHTS: Mapping[Kind, float] = {
    "kill": 8,
    "crash": 6,
    "delay": 3,
    "hang": 1,
    "refuse_start": 2,
    "step_clock": 1,
    "cut": 3,
    "act": 2,
}
_NEEDS: Mapping[Kind, str] = {
    **dict.fromkeys(WEIGHTS, "it takes an actor"),
    "kill": "it takes an actor or a supervisor",
    "cut": "it takes a TcpProxy, or another actor with the message cut",
    "act": "it takes what the scenario registers by `World.action`",
}
_LATEST_NTH, _REFUSALS = 4, 3


class PlanInvalid(SpecInvalid):
    """A plan, or the recipe for it, does not fit what it is for. Raised before anything strikes."""


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fault: `at` seconds after the chaos began, at the node whose path is `target` ("" where there is none)."""

    at: float
    target: str
    fault: Fault

    def __post_init__(self) -> None:
        require_seconds("Step.at", self.at)
        require(self, "fault", _is_fault(self.fault), "a fault of creche.chaos, not of creche.chaos.network")


def _is_fault(value: object) -> bool:
    return isinstance(value, Fault)  # those of `chaos.network` have names like these


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Faults in order of time. `seed` gives everything else of a run: order of tasks, load, jitter."""

    seed: int
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        for one, following in pairwise(self.steps):
            if following.at < one.at:
                raise SpecInvalid("Plan.steps", following, f"steps in order of time: the one before is at {one.at:g} s")

    def __str__(self) -> str:
        return "\n".join(f"{step.at:9.3f} s  {step.target or '-'}  {step.fault}" for step in self.steps)

    @property
    def lasting(self) -> float:
        """Seconds until the last step."""
        return self.steps[-1].at if self.steps else 0.0

    def to_json(self, lasting: float | None = None) -> bytes:
        """For a file; `Plan.from_json` reads it. `lasting`: for how many seconds `creche chaos` has worked its app."""
        stored = Stored(self.seed, self.steps, lasting)
        return msgspec.json.format(msgspec.json.encode(stored), indent=1)

    @classmethod
    def from_json(cls, text: bytes | str) -> Plan:
        """Raises `msgspec.ValidationError`, with the place of what is wrong, or `SpecInvalid`."""
        return Stored.from_json(text).plan

    def source(self) -> str:
        """The expression, in Python, that makes this plan."""
        steps = "".join(f"        {_source_of(step)},\n" for step in self.steps)
        return f"chaos.Plan(\n    seed={self.seed},\n    steps=(\n{steps}    ),\n)"


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A plan in a file."""

    seed: int
    steps: tuple[Step, ...] = ()
    lasting: float | None = msgspec.field(default=None, name="for")

    @classmethod
    def from_json(cls, text: bytes | str) -> Stored:
        """See `Plan.from_json`."""
        return msgspec.json.decode(text, type=cls)

    @property
    def plan(self) -> Plan:
        """The plan itself."""
        return Plan(self.seed, self.steps)


def _source_of(step: Step) -> str:
    fault = step.fault
    given = (
        f"{name}={getattr(fault, name)!r}"
        for name, default in zip(fault.__struct_fields__, _defaults(fault), strict=True)
        if getattr(fault, name) != default
    )
    return f"chaos.Step({step.at!r}, {step.target!r}, chaos.{type(fault).__name__}({', '.join(given)}))"


def _defaults(fault: Fault) -> tuple[object, ...]:
    """For each field: its default, or what no value is equal to."""
    missing = len(fault.__struct_fields__) - len(fault.__struct_defaults__)
    return (*(object() for _ in range(missing)), *fault.__struct_defaults__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What plans are drawn by.

    Parameters
    ----------
    lasting
        Seconds during which faults come, a finite number.
    every
        Mean seconds between two faults (the gaps are exponential, so some come close together).
    longest_delay, longest_hang, longest_step
        Bounds in seconds of `Delay`, `Hang`, and of a step of the wall clock in either direction.
    only, never
        Patterns of paths, as in `fnmatch`: targets match one of `only` and none of `never`.
    weights
        How often each kind of fault is drawn, relative to the others; those not named here are as in `WEIGHTS`. 0: not
        at all. Kinds that nothing in the tree can suffer are left out, but must not be named here.
    """

    lasting: float = 10.0
    every: float = 0.5
    longest_delay: float = 1.0
    longest_hang: float = 30.0
    longest_step: float = 60.0
    only: Sequence[str] = ("*",)
    never: Sequence[str] = ()
    weights: Mapping[Kind, float] = field(default_factory=dict["Kind", float])

    def __post_init__(self) -> None:
        require_seconds("Recipe.lasting", self.lasting)
        require_number(self, "every", at_least=1e-6)
        for name in ("longest_delay", "longest_hang", "longest_step"):
            require_number(self, name)
        for name in ("only", "never"):
            require(self, name, not isinstance(getattr(self, name), str), "a sequence of patterns, as in ('root/db',)")
        unknown = sorted(set(self.weights) - set(WEIGHTS))
        require(self, "weights", not unknown, f"kinds of faults, of which there are {', '.join(WEIGHTS)}")
        numbers = all(weight >= 0 and math.isfinite(weight) for weight in self.weights.values())
        require(self, "weights", numbers, "finite numbers of at least 0")


@dataclass(frozen=True, slots=True)
class Target:
    """A node that may be hit."""

    path: str
    messages: tuple[str, ...]


def targets_in(runtime: Runtime, recipe: Recipe) -> list[Target]:
    """The nodes of a tree that a recipe lets be hit, in the order of the tree. The root only if a pattern names it.

    Raises `PlanInvalid` for a pattern of `only` that no path matches.
    """
    nodes = list(_with_all_below(runtime.root))
    for pattern in recipe.only:
        if pattern != "*" and not any(fnmatchcase(node.path, pattern) for node in nodes):
            paths = ", ".join(node.path for node in nodes)
            raise PlanInvalid("Recipe.only", pattern, f"a pattern that a path matches, of which there are {paths}")
    return [Target(node.path, messages_of(node)) for node in nodes if _matches(node, runtime, recipe)]


def messages_of(node: Node) -> tuple[str, ...]:
    """The names of an actor's messages; none for a supervisor."""
    return tuple(getattr(node, "messages", ()))


def _with_all_below(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children():
        yield from _with_all_below(child)


def _matches(node: Node, runtime: Runtime, recipe: Recipe) -> bool:
    if node is runtime.root and node.path not in recipe.only:
        return False  # its end is the end of all
    wanted = any(fnmatchcase(node.path, pattern) for pattern in recipe.only)
    return wanted and not any(fnmatchcase(node.path, pattern) for pattern in recipe.never)


def draw(seed: int, targets: Sequence[Target], recipe: Recipe | None = None, actions: Sequence[str] = ()) -> Plan:
    """The plan of a seed. `actions` are the names that `Act` may have.

    Raises `PlanInvalid` if the recipe asks for a kind of fault that nothing can suffer.
    """
    by = Recipe() if recipe is None else recipe
    dice = random.Random(f"creche chaos {seed}")
    kinds = _Kinds(targets, actions, by)
    weights: dict[Kind, float] = {kind: by.weights.get(kind, WEIGHTS[kind]) for kind in kinds.possible()}
    for kind, weight in by.weights.items():
        if weight and kind not in weights:
            raise PlanInvalid(
                "Recipe.weights", {kind: weight}, f"nothing that may be hit can suffer it: {_NEEDS[kind]}"
            )
    if not any(weights.values()):
        return Plan(seed)
    gaps = (dice.expovariate(1 / by.every) for _ in iter(int, 1))
    moments = takewhile(lambda at: at < by.lasting, (round(at, 3) for at in accumulate(gaps)))
    return Plan(seed, tuple(kinds.step(dice, at, _pick(dice, weights)) for at in moments))


def _pick(dice: random.Random, weights: Mapping[Kind, float]) -> Kind:
    return dice.choices(list(weights), list(weights.values()))[0]


class _Kinds:
    """How each kind of fault is drawn, and for whom."""

    def __init__(self, targets: Sequence[Target], actions: Sequence[str], by: Recipe) -> None:
        actors = [target for target in targets if target.messages]
        proxies = [target for target in actors if "cut" in target.messages]
        self._actions = actions
        self._whom: dict[Kind, Sequence[Target]] = {
            "kill": targets,
            "crash": actors,
            "delay": actors,
            "hang": actors,
            "refuse_start": actors,
            "step_clock": (Target("", ()),),
            "cut": proxies,
            "act": [Target("", ())] if actions else [],
        }
        self._how: dict[Kind, Callable[[random.Random, Target], Fault]] = {
            "kill": lambda dice, target: Kill(),
            "crash": lambda dice, target: Crash(_message(dice, target), _nth(dice), dice.random() < 0.5),
            "delay": lambda dice, target: Delay(_seconds(dice, by.longest_delay), _message(dice, target), _nth(dice)),
            "hang": lambda dice, target: Hang(_seconds(dice, by.longest_hang), _message(dice, target), _nth(dice)),
            "refuse_start": lambda dice, target: RefuseStart(dice.randint(1, _REFUSALS)),
            "step_clock": lambda dice, target: StepClock(round(dice.uniform(-by.longest_step, by.longest_step), 3)),
            "cut": lambda dice, target: Cut(),
            "act": lambda dice, target: Act(dice.choice(self._actions)),
        }

    def possible(self) -> list[Kind]:
        """Those that anything can suffer."""
        return [kind for kind, whom in self._whom.items() if whom]

    def step(self, dice: random.Random, at: float, kind: Kind) -> Step:
        target = dice.choice(self._whom[kind])
        return Step(at, target.path, self._how[kind](dice, target))


def _message(dice: random.Random, target: Target) -> str | None:
    return None if dice.random() < 0.5 else dice.choice(target.messages)


def _nth(dice: random.Random) -> int:
    return dice.randint(1, _LATEST_NTH)


def _seconds(dice: random.Random, longest: float) -> float:
    return round(dice.uniform(0.0, longest), 3)
