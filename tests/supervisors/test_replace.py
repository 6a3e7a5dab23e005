"""`runtime.replace`: another spec for an actor that runs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock

import creche
from creche import components as c
from creche.runtime.events import Crashed, Replaced
from creche.supervisors.spec import supervisor
from tests.cancelling import Strike, everywhere, prove_idle
from tests.core.support import Boom, Gate, Probe, asking, cell_of, reach, recorded, settle
from tests.supervisors.test_dependents import AT_ONCE
from tests.supervisors.test_restarts import MANY, states


class Better(Probe):
    """Another version, with a message more."""

    async def life(self) -> int:
        return 100 + self.context.incarnation

    async def version(self) -> str:
        return "better"


class Holding(Better):
    """One that has a lifespan, which the old one had not."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.log.append("+")
        try:
            yield
        finally:
            self.log.append("-")


class Broken(Probe):
    """Cannot start."""

    def __init__(self) -> None:
        raise Boom("no start")


class Less(creche.Actor):
    async def life(self) -> int:
        return 0


class Otherwise(Probe):
    @creche.message(raises=KeyError)
    async def life(self) -> int:
        return 0


async def test_replaced_from_the_next_incarnation_on(autojump_clock: MockClock) -> None:
    """`when="next"`: the present incarnation goes on; the next one is the new spec's, with handle, path and mail."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe))
        await runtime.replace(probe, creche.child(Better).options(down_wait=77))
        assert (await probe.ask.life(), cell_of(probe).spec.down_wait) == (1, 5)
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        waiting = asking(nursery, probe.ask.life)
        await settle()
        runtime.kill(probe, "now")
        await settle()
        assert (waiting.value, cell_of(probe).spec.down_wait) == (102, 77)
        assert await runtime.handle("root/probe", Better).ask.version() == "better"
        assert [(event.cls, event.incarnation) for event in seen if isinstance(event, Replaced)] == [("Better", 1)]


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("cls", [Better, Holding])
async def test_replaced_now(cls: type[Better], busy: bool, autojump_clock: MockClock) -> None:
    """`when="now"`: the message in hand is finished, the mail is kept, nobody is charged, no sibling notices; it
    returns when the successor is ready."""
    children = [creche.child(Probe).options(name=name) for name in "abc"]
    root = supervisor("root", *children, strategy="one_for_all", intensity=creche.Intensity(0, 1))
    async with creche.open_runtime("t", root=root) as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        b = reach(runtime, "root/b", Probe)
        gate = Gate()
        if busy:
            in_hand = asking(nursery, b.ask.hold, gate)
            await gate.entered.wait()
            waiting = asking(nursery, b.ask.life)
            await settle()
            replaced = asking(nursery, lambda: runtime.replace(b, creche.child(cls), when="now"))
            await settle()
            assert replaced.what == "pending"
            gate.opened.set()
            await settle()
            assert (in_hand.value, waiting.value, replaced.what) == ("held", 102, "value")
        else:
            await runtime.replace("root/b", creche.child(cls), when="now")
        assert await b.ask.life() == 102
        assert [await reach(runtime, f"root/{name}", Probe).ask.life() for name in "ac"] == [1, 1]
        assert not [event for event in seen if isinstance(event, Crashed)]


async def test_a_replacement_may_have_a_lifespan() -> None:
    """A plain actor that crashes is judged and restarted in its place, but not if its successor has a lifespan."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe, log))
        await runtime.replace(probe, creche.child(Holding, log))
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.crash()
        assert (await probe.ask.life(), log) == (102, ["+"])
        await runtime.replace(probe, creche.child(Better, log), when="now")
        assert (await probe.ask.life(), log) == (103, ["+", "-"])


async def test_a_replacement_brings_up_what_is_down(autojump_clock: MockClock) -> None:
    """`when="now"` does not wait for a backoff; and a replacement is there after restarts of the supervisor, too."""
    sub = supervisor("sub", creche.child(Probe).options(backoff=creche.Backoff(first=50, cap=50, free=0)))
    async with creche.open_runtime("t", root=supervisor("root", sub)) as runtime:
        probe = reach(runtime, "root/sub/probe", Probe)
        runtime.kill(probe, "now")
        await settle()
        await runtime.replace(probe, creche.child(Better), when="now")
        assert (await probe.ask.life(), trio.current_time()) == (102, 0)
        runtime.kill("root/sub", "now")
        await settle()
        assert await probe.ask.life() == 103


async def test_a_replacement_that_crashes_at_once(autojump_clock: MockClock) -> None:
    """It raises `StartFailed`, and what comes next is a restart as after any crash: the change is not undone."""
    async with creche.open_runtime("t", root=supervisor("root", intensity=MANY)) as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(backoff=AT_ONCE))
        slow = creche.Backoff(first=10, free=0, jitter=0)
        with pytest.raises(creche.StartFailed, match="Boom: no start"):
            await runtime.replace(probe, creche.child(Broken).options(backoff=slow), when="now")
        await trio.sleep(25)
        assert len([event for event in seen if isinstance(event, Crashed)]) == 2
        await runtime.replace(probe, creche.child(Better), when="now")
        assert await probe.ask.life() > 100


async def test_a_replacement_of_what_ends(autojump_clock: MockClock) -> None:
    """Of what has ended for good, or ends meanwhile: `ActorStopped`."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        late = asking(nursery, lambda: runtime.replace(probe, creche.child(Better), when="now"))
        await settle()
        asking(nursery, runtime.stop, probe)
        await settle()
        gate.opened.set()
        await settle()
        assert isinstance(late.error, creche.ActorStopped)
        with pytest.raises(creche.ActorStopped):
            await runtime.replace(probe, creche.child(Better))


REFUSED: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "a message less": (lambda: creche.child(Less), "next", "it has not the message 'note' of root/probe"),
    "declared otherwise": (lambda: creche.child(Otherwise), "next", "'life' of root/probe, or declares it in another"),
    "another name": (lambda: creche.child(Probe).options(name="x"), "next", "an actor's name stays: 'probe'"),
    "another mailbox": (lambda: creche.child(Probe).options(mailbox=1), "next", "replace: mailbox = 1: the mailbox"),
    "a policy without a budget": (
        lambda: creche.child(Probe).options(on_exhausted="park"),
        "next",
        "give it a budget of its own",
    ),
    "significant for nobody": (
        lambda: creche.child(Probe).options(significant=True, restart="transient"),
        "next",
        "give supervisor 'root' auto_shutdown",
    ),
    "temporary": (lambda: creche.child(Probe).options(restart="temporary"), "now", "has no next incarnation"),
    "a component": (c.uid.component, "next", "only an actor takes an actor's place"),
    "a class": (lambda: Probe, "next", "pass a spec: creche.child(Probe, ...)"),
    "another time": (lambda: creche.child(Probe), "later", "when = 'later': use 'next' or 'now'"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_replacement_has_to_fit(case: str) -> None:
    """What cannot take the place of the present spec is refused, with what to do instead; nothing has changed."""
    make, when, text = REFUSED[case]
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.SpecInvalid, match=re.escape(text)):
            await runtime.replace(probe, make(), when=when)
        runtime.kill(probe, "now")
        await settle()
        assert await probe.ask.life() == 2
        with pytest.raises(creche.SpecInvalid, match="only an actor can be replaced"):
            await runtime.replace("root", creche.child(Probe))


async def test_an_actor_cannot_wait_for_its_own_replacement() -> None:
    """From its own handler it is a `CallCycle`; for its next incarnation it may."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))

        async def renew(_: Probe) -> None:
            await runtime.replace(probe, creche.child(Better))
            with pytest.raises(creche.CallCycle):
                await runtime.replace(probe, creche.child(Better), when="now")

        await probe.ask.run(renew)
        runtime.kill(probe, "now")
        await settle()
        assert await probe.ask.life() == 102


def make_circle(
    runtime: creche.Runtime, a: creche.Handle[Probe], b: creche.Handle[Probe], gate: Gate
) -> tuple[Callable[[Probe], Any], Callable[[Probe], Any]]:
    """What `a` does, and `b`: to replace `b` now, and, when the gate opens, to call `a`."""

    async def replace_b(_: Probe) -> None:
        await runtime.replace(b, creche.child(Better), when="now")

    async def call_a(_: Probe) -> int:
        gate.entered.set()
        await gate.opened.wait()
        return await a.ask.life()

    return replace_b, call_a


async def test_a_replacement_in_a_circle_is_refused(autojump_clock: MockClock) -> None:
    """Who is in hand calls whoever waits for its replacement: that call is refused, and nobody sits out the drain."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        a, b = [await runtime.start(creche.child(Probe).options(name=name)) for name in "ab"]
        gate = Gate()
        replace_b, call_a = make_circle(runtime, a, b, gate)
        calling = asking(nursery, b.ask.run, call_a)
        await gate.entered.wait()
        replacing = asking(nursery, a.ask.run, replace_b)
        await settle()
        assert [str(wait) for wait in runtime.wait_for_graph()] == ["root/a --start--> root/b  [started]"]
        gate.opened.set()
        await settle()
        assert isinstance(calling.error, creche.OutcomeUnknown)
        assert isinstance(calling.error.__cause__, creche.CallCycle)
        assert calling.error.__cause__.chain == ("root/b", "root/a", "root/b")
        assert (replacing.what, await b.ask.life(), trio.current_time()) == ("value", 102, 0)
        await prove_idle(runtime)


async def test_a_replacement_of_who_waits_for_it_is_refused(autojump_clock: MockClock) -> None:
    """The other way round: who is to be replaced waits already. `CallCycle`, and nothing has changed."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        a, b = [await runtime.start(creche.child(Probe).options(name=name)) for name in "ab"]
        gate, ready = Gate(), Gate()
        replace_b, call_a = make_circle(runtime, a, b, gate)

        async def replace_b_later(probe: Probe) -> None:
            await ready.opened.wait()
            await replace_b(probe)

        replacing = asking(nursery, a.ask.run, replace_b_later)
        calling = asking(nursery, b.ask.run, call_a)
        gate.opened.set()
        await settle()
        ready.opened.set()
        await settle()
        assert isinstance(replacing.error, creche.OutcomeUnknown)
        assert isinstance(replacing.error.__cause__, creche.CallCycle)
        assert (calling.value, await b.ask.life(), trio.current_time()) == (2, 1, 0)
        runtime.kill(b, "so that there is a next one")
        await settle()
        assert await b.ask.life() == 2


async def sleep_a_second(_: Probe) -> None:
    await trio.sleep(1)


async def replace_scenario(strike: Strike, when: Literal["next", "now"], busy: bool) -> None:
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        log: list[str] = []
        probe = await runtime.start(creche.child(Probe, log))
        if busy:
            asking(nursery, probe.ask.run, sleep_a_second)
            await settle()
        end = await strike.cancel(lambda: runtime.replace(probe, creche.child(Holding, log), when=when))
        assert end.what in ("value", "cancelled")
        await trio.sleep(2)
        if end.what == "value" or cell_of(probe)._next is not None or await probe.ask.life() > 100:
            runtime.kill(probe, "so that there is a next one")
            await settle()
            assert await probe.ask.life() > 100
        assert states(runtime) == "running"
        await prove_idle(runtime)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("when", ["next", "now"])
def test_a_replacement_that_is_cancelled(when: Literal["next", "now"], busy: bool) -> None:
    """Cancelled at any moment, it is made or it is not; the actor is there in either case."""
    ends = everywhere(replace_scenario, when, busy)
    assert set(ends) == {"cancelled", "value"}
