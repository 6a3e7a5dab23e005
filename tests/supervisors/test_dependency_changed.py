"""`dependency_changed`: an actor is told when what it was given a handle of has restarted or stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock

import creche
from creche import components as c
from creche.runtime.events import Crashed
from creche.supervisors.spec import supervisor
from tests.core.support import Gate, Probe, asking, cell_of, reach, recorded, settle
from tests.supervisors.test_budgets import STEADY
from tests.supervisors.test_restarts import MANY

AT_ONCE = creche.Backoff(first=0)


class User(Probe):
    """Was given handles, and notes what becomes of those behind them."""

    def __init__(self, log: list[str], *handles: object, fails: bool = False) -> None:
        super().__init__(log)
        self.names = {id(handle): f"{place}" for place, handle in enumerate(handles)}
        self.fails = fails

    async def dependency_changed(self, dependency: object, change: Literal["restarted", "stopped"]) -> None:
        self.log.append(f"{self.names[id(dependency)]} {change}")
        if self.fails:
            raise RuntimeError("cannot bear it")


class Holding(User):
    """The same with a lifespan."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield


def user(log: list[str], *handles: object, cls: type[User] = User, **rules: Any) -> Any:
    options: dict[str, Any] = {"name": "user", "backoff": AT_ONCE, **rules}
    return creche.child(cls, log, *handles).options(**options)


@pytest.mark.parametrize("cls", [User, Holding])
async def test_dependants_elsewhere_are_told(cls: type[User]) -> None:
    """An actor that was given the handle of one in another subtree is told when that one has come up again, and when it
    has ended for good; it does not restart."""
    log: list[str] = []
    roots = supervisor("here", creche.child(Probe)), supervisor("there", creche.child(Probe).options(name="other"))
    async with creche.open_runtime("t", root=supervisor("root", *roots, intensity=MANY)) as runtime:
        probe, other = reach(runtime, "root/here/probe", Probe), reach(runtime, "root/there/other", Probe)
        handle = await runtime.start(user(log, probe, other, 5, cls=cls))
        await settle()
        assert log == []
        runtime.kill(other, "now")
        await settle()
        runtime.kill("root/here", "the supervisor above it")
        await settle()
        await runtime.stop(probe)
        await settle()
        assert log == ["1 restarted", "0 restarted", "0 stopped"]
        assert await handle.ask.life() == 1


async def test_the_change_is_told_when_the_successor_is_ready(autojump_clock: MockClock) -> None:
    """Not at the crash: what is told is that calls have a chance again."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        delay = creche.Backoff(first=5, jitter=0, free=0)
        probe = await runtime.start(creche.child(Probe).options(backoff=delay))
        await runtime.start(user(log, probe))
        runtime.kill(probe, "now")
        await trio.sleep(4.9)
        assert log == []
        await trio.sleep(0.2)
        assert log == ["0 restarted"]


async def test_the_change_overtakes_the_mail(autojump_clock: MockClock) -> None:
    """It waits for the message in hand, not for those that wait."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        handle = await runtime.start(user(log, probe))
        gate = Gate()
        asking(nursery, handle.ask.hold, gate)
        await gate.entered.wait()
        asking(nursery, handle.ask.note, "mail")
        await settle()
        runtime.kill(probe, "now")
        await settle()
        assert log == []
        gate.opened.set()
        await settle()
        assert log == ["held", "0 restarted", "mail"]


async def test_changes_that_come_while_it_is_busy_are_told_once(autojump_clock: MockClock) -> None:
    """A dependency that crashes in a loop does not flood who depends on it: the last change is told."""
    log: list[str] = []
    async with creche.open_runtime("t", root=supervisor("root", intensity=MANY)) as runtime:
        async with trio.open_nursery() as nursery:
            probe = await runtime.start(creche.child(Probe).options(backoff=AT_ONCE))
            other = await runtime.start(creche.child(Probe).options(backoff=AT_ONCE))
            handle = await runtime.start(user(log, probe, other))
            gate = Gate()
            asking(nursery, handle.ask.hold, gate)
            await gate.entered.wait()
            for _ in range(20):
                runtime.kill(probe, "now")
                await settle()
            runtime.kill(other, "now")
            await settle()
            await runtime.stop(probe)
            gate.opened.set()
            await settle()
            assert log == ["held", "0 stopped", "1 restarted"]


async def test_an_error_in_dependency_changed_is_a_crash() -> None:
    """As in the handler of a cast; the successor looks anew."""
    log: list[str] = []
    async with creche.open_runtime("t", root=supervisor("root", intensity=MANY)) as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(backoff=AT_ONCE))
        spec = creche.child(User, log, probe, fails=True).options(name="user", backoff=AT_ONCE)
        handle = await runtime.start(spec)
        for _ in range(2):
            runtime.kill(probe, "now")
            await settle()
        assert [event.error for event in seen if isinstance(event, Crashed) and event.path == "root/user"] == [
            "RuntimeError: cannot bear it"
        ] * 2
        assert (log, await handle.ask.life()) == (["0 restarted"] * 2, 3)


async def test_what_was_down_at_the_start_is_told_when_it_is_up(autojump_clock: MockClock) -> None:
    """An actor that starts while its dependency is down, parked even, is told when that has come up."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        rules: dict[str, Any] = {"intensity": creche.Intensity(0, 60), "on_exhausted": "park", "probe": STEADY}
        probe = await runtime.start(creche.child(Probe).options(**rules))
        runtime.kill(probe, "now")
        await settle()
        await runtime.start(user(log, probe))
        await trio.sleep(9)
        assert log == []
        await trio.sleep(2)
        assert log == ["0 restarted"]


async def test_components_are_dependencies() -> None:
    """The handle of a component counts as much."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        uid = await runtime.start(c.uid.component())
        await runtime.start(user(log, uid))
        runtime.kill(uid, "now")
        await settle()
        assert log == ["0 restarted"]


async def test_nobody_is_told_who_does_not_ask() -> None:
    """Without `dependency_changed` nothing is set up; and nothing is kept of who has ended."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        quiet = await runtime.start(creche.child(Probe, log))
        assert cell_of(quiet)._companion is None
        heeding = await runtime.start(user(log, probe))
        onlookers = cell_of(probe)._onlookers
        assert onlookers is not None
        assert len(onlookers) == 1
        await runtime.stop(heeding)
        assert len(onlookers) == 0


def test_a_wrong_dependency_changed_is_refused() -> None:
    """It is no message, and has to be what the runtime awaits: said when the class is made."""
    with pytest.raises(creche.SpecInvalid, match=r"Sync\.dependency_changed = .* awaits it with two arguments"):

        class Sync(creche.Actor):
            dependency_changed: Any = None

    with pytest.raises(creche.SpecInvalid, match=r"async def dependency_changed\(self, dependency, change\)"):

        class Short(creche.Actor):
            dependency_changed: Any = Probe.life

    with pytest.raises(creche.SpecInvalid, match="declared a message, but its name"):

        class Sent(creche.Actor):
            @creche.message()
            async def dependency_changed(self, dependency: object, change: str) -> None: ...

    assert "dependency_changed" not in User.__messages__
