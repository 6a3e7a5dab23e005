"""The supervisor: a node that starts, watches, restarts and stops its children.

Theory of operation
-------------------
Its task does three things, in this order, and between them it parks: start the children from first to last; restart
groups; stop the children from last to first. It is told in four layers, each on top of the one before:

* `children`: the children in order, and how they are started and stopped;
* `groups`: restarts of several children together;
* `restarts`: what becomes of a crash, and when the supervisor gives up;
* here: the life of the supervisor itself, and what others ask of it at run time.

Only a supervisor that is done for good finalizes its children. A bug in here is never restarted: what leaves
`_incarnation` as anything but a recorded failure propagates through the nurseries to the host.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard, cast

import trio
from trio.lowlevel import checkpoint

from ..runtime.cell import Cell
from ..runtime.context import PLACE
from ..runtime.errors import ActorStopped, SpecInvalid, StartFailed
from ..runtime.node import Node, Parent, State, Want, one_line, without_frames
from ..runtime.spec import ActorSpec, Spec, name_of
from ..runtime.waits import Change, check_for_cycle, give_up_on
from .children import ENDED, break_off
from .restarts import Restarts

if TYPE_CHECKING:
    from ..runtime.runtime import Runtime
    from ..runtime.waits import Waiter
    from .spec import SupervisorSpec


class Supervisor(Restarts):
    """See the theory of operation above."""

    __slots__ = ("_final_cause", "_serial")

    def __init__(self, runtime: Runtime, parent: Parent, name: str, rules: SupervisorSpec) -> None:
        super().__init__(runtime, parent, name, rules)
        self._final_cause: BaseException | None = None
        self._serial = 2  # of names made for children whose own name was taken
        self._build(rules.children)

    def __repr__(self) -> str:
        return f"<supervisor {self.path} {self.state.value}, {len(self._nodes)} children, {self.restarts} restarts>"

    # --- one incarnation --------------------------------------------------------------------------

    async def _incarnation(self) -> Exception | None:
        self._start_afresh()
        async with trio.open_nursery() as self._nursery:
            if await self._start_all():
                self._is_ready()
                await self._supervise()
            await self._stop_all()
            self._nursery = None  # before it closes, for then it takes nobody any more
        return self._take_failure()

    async def _supervise(self) -> None:
        while not self._leaving():
            if not self._group:
                await self._park()
            else:
                await self._restart_group()

    def _crash_or_bug(self, error: Exception) -> Exception:
        raise error

    # --- children at run time ---------------------------------------------------------------------

    async def start_child(self, spec: Spec[Any]) -> Node:
        """See `Group`. Runs in the caller's task."""
        if self._is_closed():
            raise ActorStopped(self.path)
        name = self._free_name(spec)
        self.rules.check_child(spec, name, self._nodes)
        node = self._adopt(spec, name)
        self._dynamic.add(node.name)
        self._spawn(node)
        try:
            with _waiting_for(Change(node, "started")):
                # Not for a state: an actor that crashes as soon as it is ready may be in none for long.
                while node in self._first_starts and node.state not in ENDED:
                    await node.wait_for_change()
        except BaseException:
            self._first_starts.discard(node)
            self._start_errors.pop(node, None)
            break_off(node, Want.DRAIN, "whoever was starting it has been cancelled")
            raise
        if node in self._first_starts:
            self._first_starts.remove(node)
            self._raise_start_failed(node)
        return node

    def _is_closed(self) -> bool:
        return self.state is not State.RUNNING or self._leaving()

    def _raise_start_failed(self, node: Node) -> NoReturn:
        error = self._start_errors.pop(node, None)
        if error is None:
            raise StartFailed(node.path, "it was stopped while it was starting")
        raise StartFailed(node.path, one_line(error)) from error

    async def stop_child(self, child: Node) -> None:
        """See `Group`. Final, also for a permanent child; goes on if the caller leaves."""
        waiter = handler_that_waits()
        if waiter is not None:
            give_up_on(waiter, child)
        if self._nursery is None:
            child.ask_to(Want.DRAIN)  # this supervisor is down, and so are its children
            child.finalize(None)
        elif not child.end_now(Want.DRAIN):
            self.runtime.clean_context.run(self._nursery.start_soon, self._retire, child, Want.DRAIN)
        if child.state is State.STOPPED:
            await checkpoint()  # who stops one after the other starves nobody
        else:
            with _waiting_for(Change(child, "stopped")):
                await child.wait_for(State.STOPPED)

    async def replace_child(self, child: Node, spec: Spec[Any], *, now: bool) -> None:
        """See `Group`. A restart now is a group restart of this child alone; it goes on if the caller leaves."""
        await trio.lowlevel.checkpoint()
        if child.final:
            raise ActorStopped(child.path)
        if not isinstance(child, Cell):
            raise SpecInvalid("replace", child.path, "only an actor can be replaced: stop it and start another")
        maker = self._replacement(child, spec, now)
        waiter = handler_that_waits()
        if now and waiter is not None:
            check_for_cycle(waiter, Change(child, "started"))
        child.replace(maker)
        self._forget(child)  # its budget begins anew
        if self.rules.strategy == "dependents":
            self._specs[child.name] = maker
        if now:
            before = child.incarnation
            self._join_group((child.name,), 0.0)
            with _waiting_for(Change(child, "started")):
                await _until_succeeded(child, before)

    def _replacement(self, child: Node, spec: Spec[Any], now: bool) -> ActorSpec[Any]:
        """The spec that is to take the place of a child's present one."""
        if not _is_for_an_actor(spec):
            raise SpecInvalid("replace", spec, "pass creche.child(...): only an actor takes an actor's place")
        if spec.rules.name not in (None, child.name):
            raise SpecInvalid("replace: name", spec.rules.name, f"an actor's name stays: {child.name!r}")
        if now and spec.rules.restart == "temporary":
            raise SpecInvalid("replace: restart", "temporary", "a temporary child has no next incarnation")
        names = list(self._nodes)
        self.rules.check_child(spec, child.name, names[: names.index(child.name)])
        return spec.options(name=child.name)

    def _free_name(self, spec: Spec[Any]) -> str:
        name = name_of(spec)
        if name not in self._nodes:
            return name
        if spec.child_options.name is not None:
            raise SpecInvalid("name", name, f"{self.path} has a child of that name already")
        while f"{name}-{self._serial}" in self._nodes:
            self._serial += 1
        return f"{name}-{self._serial}"

    # --- control ----------------------------------------------------------------------------------

    def ask_to(self, want: Want) -> None:
        """See `Node`."""
        super().ask_to(want)
        if self._ending:
            self._abort_start()

    def cancel(self, reason: str) -> None:
        """See `Node`: all children at once."""
        self._exiting = self._ending = True
        for node in reversed(self._nodes.values()):
            node.ask_to(Want.SUSPEND)
            node.cancel(reason)
        self.wake()

    def _abandon(self) -> None:
        pass  # the nursery has closed: no child is left, and the host finalizes the tree

    def _went_down(self, delay: float) -> None:
        pass  # its children's callers wait at the children

    @property
    def leaves_anyway(self) -> bool:
        """See `Node`."""
        return self._leaving()

    @property
    def final_cause(self) -> Exception | None:
        """See `Node`."""
        return cast("Exception | None", self._final_cause)

    def _ended(self, cause: Exception | None) -> None:
        self._final_cause = without_frames(cause)
        for node in reversed(list(self._nodes.values())):
            node.finalize(cause)


def handler_that_waits() -> Waiter | None:
    """The handler that waits for what the present task is about to wait for."""
    place = PLACE.get()
    return None if place is None else place.serial


@contextmanager
def _waiting_for(change: Change) -> Generator[None]:
    """Meanwhile the handler that runs this waits for `change`, if it is one."""
    waiter = handler_that_waits()
    edges = [] if waiter is None else waiter.edges()
    edges.append(change)
    try:
        yield
    finally:
        edges.remove(change)


async def _until_succeeded(child: Cell, incarnation: int) -> None:
    """Wait until the successor of an incarnation is ready. Raises `ActorStopped` or `StartFailed` if it will not be."""
    while child.incarnation == incarnation or child.state in (State.STARTING, State.WAITING):
        await child.wait_for_change()
        if child.state is State.STOPPED:
            raise ActorStopped(child.path)
    last_crashed = child.history[-1][1] if child.history else 0
    if last_crashed > incarnation or child.state not in (State.RUNNING, State.STOPPING):
        raise StartFailed(child.path, "; ".join(line for _, line in list(child.crashes())[-1:]))


def _is_for_an_actor(spec: Spec[Any]) -> TypeGuard[ActorSpec[Any]]:
    return isinstance(spec, ActorSpec)
