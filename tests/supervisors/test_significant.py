"""Significant children, and supervisors that stop themselves when these have ended."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import creche
from creche.runtime.events import AutoShutdown, Event, Stopped
from creche.runtime.spec import Restart
from creche.supervisors.spec import AutoShutdown as When
from creche.supervisors.spec import SupervisorSpec, supervisor
from creche.supervisors.strategies import Strategy
from tests.core.support import Gate, Probe, asking, reach, recorded, settle
from tests.supervisors.test_restarts import MANY, states


def job(name: str, *, restart: Restart = "transient", significant: bool = True) -> Any:
    return creche.child(Probe).options(name=name, restart=restart, significant=significant)


def tree(when: When, *children: Any, strategy: Strategy = "one_for_one", **rules: Any) -> SupervisorSpec:
    sub = supervisor("sub", *children, auto_shutdown=when, strategy=strategy, intensity=MANY)
    options: dict[str, Any] = {"restart": "transient", **rules}
    return supervisor("root", sub.options(**options), intensity=MANY)


async def leave(runtime: creche.Runtime, name: str) -> None:
    async def exit_now(probe: Probe) -> None:
        probe.context.exit()

    await reach(runtime, f"root/sub/{name}", Probe).ask.run(exit_now)
    await settle()


def shut_down(seen: list[Event]) -> list[str]:
    return [event.child for event in seen if isinstance(event, AutoShutdown)]


async def test_any_significant_child_ends_its_supervisor() -> None:
    """`auto_shutdown="any_significant"`: the first significant child that ends by itself takes all along, in reverse;
    the supervisor ends normally, and its siblings go on."""
    root = supervisor("root", *tree("any_significant", job("a"), job("b"), job("c")).children, creche.child(Probe))
    async with creche.open_runtime("t", root=root) as runtime:
        seen = recorded(runtime)
        await leave(runtime, "b")
        assert shut_down(seen) == ["root/sub/b"]
        stopped = [(event.path, event.error) for event in seen if isinstance(event, Stopped)]
        assert stopped == [(f"root/sub{name}", "") for name in ("/b", "/c", "/a", "")]
        assert states(runtime) == "stopped stopped stopped stopped running"


async def test_all_significant_children_end_their_supervisor() -> None:
    """`"all_significant"`: only the last of them does; the others that are not significant do not count."""
    async with creche.open_runtime(
        "t", root=tree("all_significant", job("a"), job("b"), job("plain", significant=False))
    ) as runtime:
        seen = recorded(runtime)
        await leave(runtime, "b")
        assert states(runtime) == "running running stopped running"
        await leave(runtime, "a")
        assert shut_down(seen) == ["root/sub/a"]
        assert states(runtime) == "stopped stopped stopped stopped"


async def test_an_insignificant_child_ends_nothing() -> None:
    """A transient child that is not significant ends alone."""
    async with creche.open_runtime(
        "t", root=tree("any_significant", job("a"), job("plain", significant=False))
    ) as runtime:
        await leave(runtime, "plain")
        assert states(runtime) == "running running stopped"


@pytest.mark.parametrize(("restart", "after"), [("temporary", "stopped stopped"), ("transient", "running running")])
async def test_a_crash_of_a_significant_child(restart: Restart, after: str) -> None:
    """The crash of a transient child is its restart; a temporary one has ended."""
    async with creche.open_runtime("t", root=tree("any_significant", job("a", restart=restart))) as runtime:
        runtime.kill("root/sub/a", "now")
        await settle()
        assert states(runtime) == after


async def test_a_significant_child_that_is_stopped_ends_nothing() -> None:
    """What others stop has not ended by itself: neither a stop by hand, nor that of a temporary member of a group."""
    jobs = job("first"), job("a", restart="temporary"), job("b")
    async with creche.open_runtime("t", root=tree("any_significant", *jobs, strategy="one_for_all")) as runtime:
        runtime.kill("root/sub/first", "its group drops its temporary members")
        await settle()
        assert states(runtime) == "running running stopped running"
        await runtime.stop("root/sub/b")
        assert states(runtime) == "running running stopped stopped"


async def test_auto_shutdown_goes_up_through_significant_supervisors() -> None:
    """A supervisor that shut itself down has ended by itself, for the supervisor above it."""
    inner = supervisor("inner", job("a"), auto_shutdown="any_significant").options(
        restart="transient", significant=True
    )
    async with creche.open_runtime("t", root=tree("all_significant", inner)) as runtime:
        seen = recorded(runtime)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave, runtime, "inner/a")
        assert shut_down(seen) == ["root/sub/inner/a", "root/sub/inner"]
        assert states(runtime) == "stopped stopped stopped"


async def test_auto_shutdown_lets_mail_finish() -> None:
    """It is a stop in order: the other children finish the mail that waits."""
    async with (
        creche.open_runtime("t", root=tree("any_significant", job("a"), job("b"))) as runtime,
        trio.open_nursery() as nursery,
    ):
        b = reach(runtime, "root/sub/b", Probe)
        gate = Gate()
        in_hand = asking(nursery, b.ask.hold, gate)
        await gate.entered.wait()
        queued = asking(nursery, b.ask.life)
        await settle()
        await leave(runtime, "a")
        with pytest.raises(creche.NotDelivered, match="closed"):
            await b.ask.life()
        gate.opened.set()
        await settle()
        assert (in_hand.value, queued.value) == ("held", 1)
        assert states(runtime) == "stopped stopped stopped"


class Brief(Probe):
    """Has nothing more to do as soon as it is up."""

    def __init__(self) -> None:
        super().__init__()
        self.context.exit()


async def test_auto_shutdown_while_starting() -> None:
    """A significant child that is done before all have started ends the start; the tree goes on without it."""
    brief = creche.child(Brief).options(restart="transient", significant=True)
    root = supervisor("root", *tree("any_significant", brief, job("b")).children, creche.child(Probe))
    async with creche.open_runtime("t", root=root) as runtime:
        assert states(runtime) == "stopped stopped stopped running"


async def test_the_restart_type_decides_after_an_auto_shutdown() -> None:
    """It is a normal end: a transient and a temporary supervisor are done; a permanent one is refused."""
    for restart in ("transient", "temporary"):
        async with creche.open_runtime("t", root=tree("any_significant", job("a"), restart=restart)) as runtime:
            await leave(runtime, "a")
            assert states(runtime) == "stopped stopped"
    with pytest.raises(creche.SpecInvalid, match=r'sub\.auto_shutdown = .*add \.options\(restart="transient"\)'):
        tree("any_significant", job("a"), restart="permanent")
