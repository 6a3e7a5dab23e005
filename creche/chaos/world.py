"""The world of one run: a plan that is carried out in a tree, and what must hold meanwhile.

Theory of operation
-------------------
The plan is carried out by an actor, `Monkey`, that the tree gets as one more child of its root: in a live tree and in
virtual time alike. How far it has come is written in the world, so that it goes on after a crash of its own.

What must *always* hold is looked at from when it is said until the scenario ends: at each event of each runtime, before
each message that is handled, after each step of the plan, in the very task, so nothing can come between what broke it
and the finding; and at the end. It must be synchronous. What is found cancels the scenario and is raised when that has
unwound. What must *eventually* hold is asked again and again for so long.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from typing import Any, Self, TypeVar, TypeVarTuple, assert_never

import trio

from ..runtime.actor import Actor
from ..runtime.cell import Cell
from ..runtime.checks import require_seconds
from ..runtime.envelope import NEVER
from ..runtime.errors import CallFailed, CrecheError, SpecInvalid
from ..runtime.node import Node, one_line
from ..runtime.runtime import Runtime
from ..runtime.spec import child
from ..testing.faults import Act, Crash, Cut, Delay, Fault, Hang, InHandler, Kill, RefuseStart, StepClock
from ..testing.injector import Injector
from ..testing.journal import Journal
from .plan import Plan, PlanInvalid, Recipe, Step, draw, messages_of, targets_in

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

MONKEY = "chaos"  # the actor's name
LOOK_EVERY = 0.01  # seconds between two looks at what is to hold eventually
_AWAITS_NOTHING = "a function that awaits nothing; to ask is for `eventually`"

Action = Callable[[], Awaitable[object] | object]
Condition = Callable[[], bool | None]
AsyncCondition = Callable[[], Awaitable[bool | None] | bool | None]


class Violated(CrecheError):
    """Something that must hold does not. `name` says what, `plan` under which plan it was found."""

    def __init__(self, name: str, detail: str, plan: Plan) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail
        self.plan = plan


class Shared:
    """What runs have in common, until the block that it opens ends. See `World.shared`."""

    def __init__(self) -> None:
        self._made: dict[object, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._made.clear()
        self._stack.close()

    @property
    def used(self) -> bool:
        """Whether there is anything."""
        return bool(self._made)

    def get(self, make: Callable[[*Ts], AbstractContextManager[R]], args: tuple[*Ts]) -> R:
        """What ``make(*args)`` has given, or gives now."""
        key = make, args
        if key not in self._made:
            self._made[key] = self._stack.enter_context(make(*args))
        made: R = self._made[key]
        return made


class World:
    """What a scenario is given.

    `seed` is the run's; `random` is drawn from it, for the scenario's own load. `journal` has what became of all calls.
    """

    def __init__(
        self, seed: int, recipe: Recipe | None = None, plan: Plan | None = None, shared: Shared | None = None
    ) -> None:
        self.seed = seed
        self._shared = Shared() if shared is None else shared
        self.random = random.Random(f"creche chaos load {seed}")
        self.injector = Injector()
        self.injector.onlooker = self._saw
        self.plan = plan
        self.violation: Violated | None = None
        self._recipe = Recipe() if recipe is None else recipe
        self._always: dict[str, Condition] = {}
        self._actions: dict[str, Action] = {}
        self._scope = trio.CancelScope()
        self._began = 0.0
        self._next = 0  # the step that comes next
        self._not_seen: set[str] = set()  # targets that have not been in the tree so far
        self._done = trio.Event()

    @property
    def journal(self) -> Journal:
        """What became of all calls, so far."""
        return self.injector.journal

    # --- for scenarios ----------------------------------------------------------------------------

    def always(self, name: str, condition: Condition) -> None:
        """From now on `condition` must hold. It does not when it returns what is false, but for None, or raises.

        Whatever it raises: what cannot be judged must not pass for what holds. It may be looked at at any checkpoint of
        any handler. Raises `SpecInvalid` for a name that is taken, and for a condition that is to be awaited.
        """
        if inspect.iscoroutinefunction(condition):
            raise SpecInvalid("always", condition, _AWAITS_NOTHING)
        if name in self._always:
            raise SpecInvalid("always", name, "a name of its own: another condition has it")
        self._always[name] = condition
        self.look()

    async def eventually(
        self, name: str, condition: AsyncCondition, *, within: float, every: float = LOOK_EVERY
    ) -> None:
        """Wait until `condition`, sync or async, holds; look `every` so many seconds. Not `within` so many: `Violated`.

        It holds when it returns what is true, or None; so it may consist of asserts. An AssertionError, or an error of
        a call, such as `OutcomeUnknown`, counts as "not yet".
        """
        require_seconds("eventually: within", within)
        require_seconds("eventually: every", every, above_zero=True)
        last = "it never held"
        with trio.move_on_after(within):
            while True:
                try:
                    holds = condition()
                    if isinstance(holds, Awaitable):
                        holds = await holds
                    if holds is None or holds:
                        return
                except (AssertionError, CrecheError) as error:
                    last = one_line(error)
                await trio.sleep(every)
        self.report(name, f"not within {within:g} s: {last}")
        await trio.lowlevel.checkpoint()

    def shared(self, make: Callable[[*Ts], AbstractContextManager[R]], *args: *Ts) -> R:
        """What all runs of an `explore` or `check` have in common: ``make(*args)``, entered once, left after the last.

        For what takes time to build and is not changed by running, such as an app whose parts remember nothing. A `run`
        or `replay` has its own. What fails only after others is found as a fault of its own. `args` must be hashable.
        """
        return self._shared.get(make, args)

    def action(self, name: str, do: Action) -> None:
        """Let plans draw `Act(name)`: `do` is called, and awaited if it is async. To be said before `unleashed`.

        What it raises is the run's failure; but that a call has failed is to be expected under chaos.
        """
        if not callable(do):
            raise SpecInvalid(f"action {name!r}", do, "a function, sync or async, without arguments")
        self._actions[name] = do

    @asynccontextmanager
    async def unleashed(self, runtime: Runtime) -> AsyncGenerator[Plan]:
        """Carry the plan out while the block runs, which does not end before the last step has been made.

        Then nothing strikes any more, and what hangs goes on. The plan is the one that the world was made with, or is
        drawn for this tree now. Raises `PlanInvalid` if it does not fit the tree or the actions. A target may come
        later; if it has never been there when it is to be hit, that is `Violated`.
        """
        if self.plan is None:
            recipe = self._recipe
            self.plan = draw(self.seed, targets_in(runtime, recipe), recipe, tuple(self._actions))
        self._require_fit(runtime, self.plan)
        self._began, self._next, self._done = trio.current_time(), 0, trio.Event()
        monkey = await runtime.start(child(Monkey, self).options(name=MONKEY))
        try:
            yield self.plan
            await self._done.wait()
        finally:
            self.injector.disarm()  # what hangs goes on, and with it perhaps a step that waits for it
            with trio.CancelScope(shield=True):
                await runtime.stop(monkey)
            self.injector.disarm()  # what was armed meanwhile

    def call_off(self) -> None:
        """Make no more steps of the plan: `unleashed` does not wait for them."""
        self._done.set()

    # --- invariants -------------------------------------------------------------------------------

    def look(self) -> None:
        """See whether all that must always hold does."""
        if self.violation is None:
            for name, condition in self._always.items():
                try:
                    holds: object = condition()
                    if inspect.isawaitable(holds):
                        _discard(holds)
                        raise SpecInvalid("always", condition, _AWAITS_NOTHING)
                    if holds is not None and not holds:
                        self.report(name, "it does not hold")
                except Exception as error:
                    self.report(name, one_line(error))

    def report(self, name: str, detail: str) -> None:
        """Something does not hold. The first report counts; the scenario is cancelled."""
        if self.violation is None:
            self.violation = Violated(name, detail, self.plan or Plan(self.seed))
            self._scope.cancel(f"violated: {name}")

    def _saw(self, path: str) -> None:
        if self._not_seen:
            self._not_seen.discard(path)
        self.look()

    async def live(self, scenario: Callable[[World], Awaitable[object]], patience: float) -> None:
        """Run a scenario in this world to its end. Raises what it raises, or `Violated`."""
        with trio.move_on_after(patience) as limit, self._scope:
            await scenario(self)
        self.look()
        if limit.cancelled_caught:
            self.report("the scenario ends", f"it has not after {patience:g} s; down: {', '.join(self.journal.down)}")
        if self.violation is None and self.journal.unanswered:
            self.report("each call has an outcome", f"{self.journal.unanswered} have none")
        if self.violation is not None:
            raise self.violation

    def _require_fit(self, runtime: Runtime, plan: Plan) -> None:
        for step in plan.steps:
            if isinstance(step.fault, Act):
                known = ", ".join(self._actions) or "none"
                _require(step.fault.name in self._actions, step, f"an action of the scenario: {known}")
            elif not isinstance(step.fault, StepClock):
                node = _find(runtime, step.target)
                if node is None:
                    self._not_seen.add(step.target)
                else:
                    _require_fit(step, messages_of(node))

    # --- the plan ---------------------------------------------------------------------------------

    async def carry_out(self, runtime: Runtime) -> None:
        """Make the steps that are left, each at its time."""
        steps = () if self.plan is None else self.plan.steps
        while self._next < len(steps):
            step = steps[self._next]
            await trio.sleep_until(self._began + step.at)
            self._next += 1  # before it is made: a step that kills the monkey is not made twice
            await self._make(runtime, step)
            self.look()
        self._done.set()

    async def _make(self, runtime: Runtime, step: Step) -> None:
        fault: Fault = step.fault
        if step.target in self._not_seen:
            self.report("a plan's targets are in the tree", f"{step.target!r} was not, by {step.at:g} s")
        match fault:
            case Kill():
                node = _find(runtime, step.target)
                if node is not None and runtime.kill(node, fault.reason):
                    self.injector.struck(fault)
            case Crash() | Delay() | Hang() | RefuseStart():
                self.injector.arm(step.target, fault)
            case StepClock():
                runtime.step_wall_clock(fault.by)
                self.injector.struck(fault)
            case Cut():
                await self._cut(runtime, step.target)
            case Act():
                await self._act(fault)
            case _ as never:
                assert_never(never)

    async def _cut(self, runtime: Runtime, path: str) -> None:
        node = _find(runtime, path)
        if isinstance(node, Cell) and "cut" in node.messages:
            self.injector.struck(Cut())
            await node.cast(node.messages["cut"], (), {}, NEVER)

    async def _act(self, fault: Act) -> None:
        self.injector.struck(fault)
        try:
            done = self._actions[fault.name]()
            if isinstance(done, Awaitable):
                await done
        except CallFailed:
            pass  # whom it has called may be down
        except Exception as error:
            self.report("the actions of the scenario succeed", f"{fault.name}: {one_line(error)}")


def _discard(holds: object) -> None:
    if inspect.iscoroutine(holds):
        holds.close()  # else Python warns later that it was never awaited


def _require_fit(step: Step, messages: tuple[str, ...]) -> None:
    fault, known = step.fault, ", ".join(messages)
    if isinstance(fault, Cut):
        _require("cut" in messages, step, f"an actor with the message cut; this one has {known or 'none'}")
    elif isinstance(fault, InHandler):
        _require(bool(messages), step, "an actor: a supervisor has no handlers")
        _require(fault.message is None or fault.message in messages, step, f"a message of this actor: {known}")


def _require(holds: bool, step: Step, fix: str) -> None:
    if not holds:
        raise PlanInvalid("Plan.steps", step, fix)


def _find(runtime: Runtime, path: str) -> Node | None:
    """The node, unless it has come and gone with its supervisor."""
    try:
        return runtime.node_of(path)
    except KeyError:
        return None


class Monkey(Actor):
    """Carries out the plan of a world in its own tree."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.context.spawn(world.carry_out, self.context.runtime)
