"""An app as a scenario: opened, loaded, put under a plan, and looked at afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import trio

from ..runtime.runtime import Runtime
from .explore import Scenario
from .world import World

HEALTHY = "healthy again"


class Opened(Protocol):
    """What `App.open` gives."""

    @property
    def runtime(self) -> Runtime: ...


@runtime_checkable
class Openable(Protocol):
    """A `creche.App`."""

    def open(self) -> AbstractAsyncContextManager[Opened]: ...


Load = Callable[[World, Opened], Awaitable[object]]


def healthy(runtime: Runtime) -> bool:
    """Whether all of a tree runs: nobody is down, parked, suspended or stuck."""
    return all(node.state == "running" and not node.stuck for node in runtime.tree())


def scenario_of(
    app: Openable, lasting: float, load: Load | None = None, healthy_within: float = 10.0, until: Load | None = None
) -> Scenario:
    """A scenario that opens an app, and lets `load` work it for `lasting` seconds, or until it returns.

    `load` is an async function of the world and of what `App.open` gives; it may add invariants of its own. When the
    plan has been carried out, all actors must run again within `healthy_within` seconds. `until` is the same kind of
    function: load and plan end when it returns.
    """

    async def scenario(world: World) -> None:
        async with app.open() as opened:
            async with world.unleashed(opened.runtime), trio.open_nursery() as nursery:
                if until is not None:
                    nursery.start_soon(_end_after, until, world, opened, nursery.cancel_scope)
                with trio.move_on_after(lasting):
                    if load is None:
                        await trio.sleep_forever()
                    else:
                        await load(world, opened)
                nursery.cancel_scope.cancel()
            await world.eventually(HEALTHY, lambda: healthy(opened.runtime), within=healthy_within)

    return scenario


async def _end_after(until: Load, world: World, opened: Opened, scope: trio.CancelScope) -> None:
    await until(world, opened)
    world.call_off()
    scope.cancel()


def is_scenario(target: object) -> bool:
    """Whether it is an async function that can be called with a world alone."""
    return takes(target, 1)


def takes(target: object, count: int) -> bool:
    """Whether it is an async function that can be called with so many arguments."""
    if not inspect.iscoroutinefunction(target):
        return False
    try:
        inspect.signature(target).bind(*[object()] * count)
    except TypeError:
        return False
    return True
