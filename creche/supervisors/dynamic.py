"""The dynamic supervisor: children that come and go at run time, up to tens of thousands.

Theory of operation
-------------------
It is a supervisor without static children, so each start, stop and crash concerns one child and costs the same however
many there are. The order of children that came at run time has no meaning: at the end they are told to stop all at
once, each under its own drain and shutdown time. Those that only wait for mail are ended in this node's own step, as in
every supervisor; each of the others is seen off in a task of its own.

Its children end with it. When it crashes they are gone, and it comes up empty; who wants to start one meanwhile waits,
as callers of an actor do, unless it would wait for him: that is a handler of one of its children, for instance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import trio
from trio.lowlevel import checkpoint

from ..runtime.actor import Actor
from ..runtime.checks import require_number
from ..runtime.context import PLACE
from ..runtime.errors import ActorStopped, NotDelivered, NotDeliveredReason, NotStarted, SpecInvalid, TooManyChildren
from ..runtime.handle import Handle, must_not_wait_for_itself, require_messages
from ..runtime.intensity import Intensity
from ..runtime.monitors import wait_stopped
from ..runtime.node import Node, Parent, State, Want
from ..runtime.spec import Bindable, ChildOptions, Layer, Spec, require_spec
from .children import ENDS_PER_PASS
from .handle import SupervisorHandle
from .spec import SupervisorSpec
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..runtime.cell import Cell
    from ..runtime.runtime import Runtime

A = TypeVar("A", bound=Actor)
H = TypeVar("H")


class DynamicNode(Supervisor):
    """See the theory of operation above."""

    __slots__ = ("max_children",)

    def __init__(
        self, runtime: Runtime, parent: Parent, name: str, rules: SupervisorSpec, max_children: int | None
    ) -> None:
        super().__init__(runtime, parent, name, rules)
        self.max_children = max_children

    def __len__(self) -> int:
        return len(self._nodes)

    async def start_child(self, spec: Spec[Any]) -> Node:
        """See `Group`."""
        if self._is_closed():
            await self._wait_until_open()
        if self.max_children is not None and len(self._nodes) >= self.max_children:
            await checkpoint()
            raise TooManyChildren(self.path, self.max_children)
        return await super().start_child(spec)

    async def _wait_until_open(self) -> None:
        """Until it is up again. Raises what a call to an actor in this state would raise."""
        await checkpoint()
        if self.spec.while_down == "wait" and not self._holds_up_the_caller():
            with trio.move_on_after(self.spec.down_wait):
                while self._is_closed() and self._refusal() == "crash":
                    await self.wait_for_change()
        if self.state is State.STOPPED:
            raise ActorStopped(self.path) from self.final_cause
        if self._is_closed():
            raise NotDelivered(self.path, self._refusal(), self.restart_in())

    def _refusal(self) -> NotDeliveredReason:
        if self.want is Want.DRAIN or self.state is State.STOPPED:
            return "closed"
        return "parked" if self.state is State.PARKED else "crash"

    def _holds_up_the_caller(self) -> bool:
        """Whether it cannot come up before the handler that asks has ended: of a child, or of who is ending too."""
        place = PLACE.get()
        if place is None or place.serial is None:
            return False
        return place.path.startswith(f"{self.path}/") or self.runtime.node_of(place.path).leaves_anyway

    async def _stop_all(self) -> None:
        """All at once."""
        async with trio.open_nursery() as nursery:
            for number, node in enumerate(list(self._nodes.values()), 1):
                if not node.end_now(Want.DRAIN):
                    nursery.start_soon(self._retire, node, Want.DRAIN)
                if number % ENDS_PER_PASS == 0:
                    await checkpoint()


class DynamicSupervisor(SupervisorHandle):
    """The handle of a dynamic supervisor; made by `dynamic_supervisor`. Valid across its restarts."""

    __slots__ = ()

    def __len__(self) -> int:
        """How many children there are, those that start or stop included."""
        return len(self._running())

    def __bool__(self) -> bool:
        return True  # also without children

    @property
    def max_children(self) -> int | None:
        """How many children it may have; None: any number."""
        return self._running().max_children

    def children(self) -> tuple[str, ...]:
        """The names of all children, in the order of their start."""
        return tuple(child.name for child in self._running().children())

    def get(self, name: str, cls: type[A]) -> Handle[A] | None:
        """A handle to the child of that name; None if there is none.

        Raises `SpecInvalid` if it is no actor with the messages of `cls`.
        """
        child = self._running().child(name)
        if child is None:
            return None
        require_messages("get", name, child, cls)
        return Handle(name, cast("Cell", child))

    async def start(self, spec: Spec[H]) -> H:
        """Start a child and wait until it is ready.

        Its name is that of its options, or one made from its class and a number.

        Returns its handle. Raises `StartFailed` if it cannot start, `TooManyChildren`, `SpecInvalid` if its name is
        taken, and what a call to an actor raises: `NotDelivered` when the supervisor is stopping, or is not up again
        within its `down_wait`; `ActorStopped` when it has ended for good. If cancelled, what had started is stopped
        again.
        """
        require_spec("start", spec)
        handle = spec.new_handle()
        node = await self._running().start_child(spec)
        cast("Bindable", handle)._bind(node)  # pyright: ignore[reportPrivateUsage]
        return handle

    async def stop(self, child: object) -> None:
        """Stop a child for good: close it to new work, drain, then cancel; and wait until it has ended.

        Idempotent. The stop goes on if the caller is cancelled. `child` is its handle or its name: KeyError if there is
        none of that name (any more), `SpecInvalid` if it is a child of somebody else. A child cannot stop itself in
        this way, nor a handler that is at work for it: that raises `CallCycle`; use `ActorContext.exit`.
        """
        node = self._child(child)
        must_not_wait_for_itself(node)
        if node.state is State.STOPPED:
            await checkpoint()
        else:
            await self._running().stop_child(node)

    async def wait(self, child: object) -> None:
        """Wait until a child has ended for good, over all of its restarts.

        Returns when it was stopped or has ended by itself. Raises `ActorStopped` from the failure that ended it, if one
        did; `__cause__` is that failure without its traceback. `child` is as in `stop`.
        """
        node = self._child(child)
        must_not_wait_for_itself(node)
        cause = await wait_stopped(node)
        if cause is not None:
            raise ActorStopped(node.path) from cause

    def _child(self, child: object) -> Node:
        supervisor = self._running()
        if isinstance(child, str):
            node = supervisor.child(child)
            if node is None:
                raise KeyError(child)
            return node
        node = supervisor.runtime.node_of(child)
        if node.parent is not supervisor:
            raise SpecInvalid("child", child, f"it is no child of {supervisor.path}")
        return node

    def _running(self) -> DynamicNode:
        if self._node is None:
            raise NotStarted(self._name)
        return cast("DynamicNode", self._node)

    def _bind(self, node: Node) -> None:
        if not isinstance(node, DynamicNode):
            raise SpecInvalid("handle", node.path, f"it is {node!r}, which is no dynamic supervisor")
        super()._bind(node)


@dataclass(frozen=True)
class DynamicSpec(Spec[DynamicSupervisor]):
    """The spec of a dynamic supervisor; made by `dynamic_supervisor`."""

    inner: SupervisorSpec
    max_children: int | None = None

    def __post_init__(self) -> None:
        if self.max_children is not None:
            require_number(self, "max_children", at_least=1, whole=True)

    @property
    def child_options(self) -> ChildOptions:
        return self.inner.rules

    @property
    def default_layer(self) -> Layer:
        return self.inner.default_layer

    def default_name(self) -> str:
        return self.inner.name

    def build(self, runtime: Runtime, parent: Parent, name: str) -> DynamicNode:
        return DynamicNode(runtime, parent, name, self.inner, self.max_children)

    def new_handle(self) -> DynamicSupervisor:
        return DynamicSupervisor(self.inner.name)

    def with_options(self, options: ChildOptions) -> Self:
        return replace(self, inner=self.inner.with_options(options))

    def check(self) -> None:
        self.inner.check()


def dynamic_supervisor(
    name: str, *, max_children: int | None = None, intensity: Intensity | None = None
) -> DynamicSpec:
    """The spec of a supervisor whose children come and go at run time, each restarted alone, as its own spec says.

    It begins empty, and after a crash of its own it is empty again. At its end all children are stopped at once.

    Parameters
    ----------
    max_children
        How many it may have at a time; one more is refused with `TooManyChildren`. None: any number.
    intensity
        How many restarts of all children together are too many; default 3 in 5 seconds. With thousands of children, say
        how many crashes are usual, or let them be ``temporary``.

    Raises
    ------
    SpecInvalid
        Something is wrong in it. Nothing has been started then.
    """
    rules = SupervisorSpec(name, intensity=Intensity() if intensity is None else intensity)
    return DynamicSpec(rules, max_children)
