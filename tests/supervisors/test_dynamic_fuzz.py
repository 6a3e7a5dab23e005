"""Children that start, stop, crash, link, monitor and register at random, under supervisors that are killed.

Seeded, in virtual time, Trio's order of tasks included: a seed that fails fails again. What must hold whatever
happens: each operation has one of its outcomes; names and groups never hold who has ended; each monitor tells a story
that can be true, and its last word is the end; and when all is over nothing is left of anybody.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import pytest
import trio

import creche
import creche.testing
from creche.runtime.monitors import Link, Watch
from creche.runtime.node import State
from tests.cancelling import prove_idle
from tests.core.support import Boom, cell_of, settle

T = TypeVar("T")
USERS, ROUNDS, LIMIT = 8, 25, 12
QUIET = 100.0  # seconds after which everything that was going on has come to its end
NAMES, GROUPS = ("a", "b", "c"), ("g", "h")
MANY = creche.Intensity(100_000, 1)
PATIENCE = (0, 0.01, 0.5, *[20.0] * 4)


class Member(creche.Actor):
    """May fail to start, takes its time to come and to go, and holds on to others."""

    def __init__(self, seed: int, told: list[str]) -> None:
        self.dice = random.Random(seed)
        self.told = told
        self.held: list[Watch | Link] = []

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await trio.sleep(self.dice.choice((0, 0, 0.1)))
        if self.dice.random() < 0.1:
            raise Boom("no start")
        yield
        await trio.sleep(self.dice.choice((0, 0, 0.3)))
        if self.dice.random() < 0.1:
            raise Boom("bad end")

    async def work(self) -> int:
        await trio.sleep(self.dice.random())
        return self.context.incarnation

    async def crash(self) -> None:
        raise Boom("crash")

    async def leave(self) -> None:
        self.context.exit()

    async def hold_on(self, other: creche.Handle[Member]) -> None:
        if self.dice.random() < 0.5:
            self.held.append(self.context.monitor(other, self._gone))
        elif other.path != self.context.path:
            self.held.append(
                self.context.link(other, one_way=self.dice.random() < 0.5, crashes=self.dice.random() < 0.3)
            )

    async def let_go(self) -> None:
        for one in self.held:
            one.cancel()

    async def _gone(self, path: str, cause: Exception | None) -> None:
        self.told.append(path)


class Plain(Member):
    """Without a lifespan."""

    lifespan = creche.Actor.lifespan


class User:
    """Does something at random, again and again."""

    def __init__(self, me: int, seed: int, stage: Stage) -> None:
        self.dice = random.Random(f"{seed} user {me}")
        self.stage = stage

    async def run(self) -> None:
        for _ in range(ROUNDS):
            what = self.dice.choice(list(OPERATIONS))
            expected = OPERATIONS[what]
            with trio.move_on_after(self.dice.choice(PATIENCE)):
                with suppress(*expected):
                    await getattr(self, what)()
            await trio.sleep(self.dice.choice((0, 0, 0.1)))

    def one(self) -> creche.Handle[Member]:
        return self.dice.choice(self.stage.handles)

    async def start(self) -> None:
        spec = creche.child(self.dice.choice((Member, Plain)), self.dice.randrange(1000), self.stage.told).options(
            restart=self.dice.choice(("permanent", "transient", "temporary")),
            register=self.dice.choice((*NAMES, None, None, None, None)),
            drain=self.dice.choice((0.1, 5)),
        )
        self.stage.handles.append(await self.dice.choice(self.stage.supervisors).start(spec))

    async def stop(self) -> None:
        sessions, one = self.dice.choice(self.stage.supervisors), self.one()
        await sessions.stop(one)
        assert cell_of(one).state is State.STOPPED

    async def stop_by_name(self) -> None:
        sessions = self.dice.choice(self.stage.supervisors)
        await sessions.stop(self.dice.choice(sessions.children() or ("nobody",)))

    async def wait(self) -> None:
        one = self.one()
        await self.dice.choice(self.stage.supervisors).wait(one)
        assert cell_of(one).state is State.STOPPED

    async def wait_stopped(self) -> None:
        one = self.one()
        await one.wait_stopped()
        with pytest.raises(creche.ActorStopped):
            await one.ask.work()

    async def monitor(self) -> None:
        async with self.one().monitor() as events:
            seen = [event async for event in events]
        assert [event.what for event in seen].count("stopped") == 1
        assert seen[-1].what == "stopped"
        assert [event.incarnation for event in seen] == sorted(event.incarnation for event in seen)
        first = 1 if seen[0].what == "down" else 0  # one that was still starting: it may be told of once more
        pairs = [(event.what, event.incarnation) for event in seen[first:]]
        assert len(set(pairs)) == len(pairs), seen

    async def register(self) -> None:
        self.stage.runtime.names.register(self.dice.choice(NAMES), self.one())

    async def join(self) -> None:
        self.stage.runtime.groups.join(self.dice.choice(GROUPS), self.one())

    async def leave_group(self) -> None:
        self.stage.runtime.groups.leave(self.dice.choice(GROUPS), self.one())

    async def work(self) -> None:
        await self.one().ask.work()

    async def crash(self) -> None:
        await self.one().ask.crash()

    async def leave(self) -> None:
        await self.one().cast(Member.leave)

    async def hold_on(self) -> None:
        await self.one().ask.hold_on(self.one())

    async def let_go(self) -> None:
        await self.one().ask.let_go()

    async def kill(self) -> None:
        self.stage.runtime.kill(self.one(), "fuzz")

    async def kill_supervisor(self) -> None:
        if self.dice.random() < 0.2:
            self.stage.runtime.kill(self.dice.choice(self.stage.supervisors), "fuzz")


CALLS = (creche.NotDelivered, creche.OutcomeUnknown, creche.ActorStopped)
FOREIGN = (creche.SpecInvalid, KeyError)  # a child of the other supervisor, or of nobody any more
OPERATIONS: dict[str, tuple[type[Exception], ...]] = {
    "start": (creche.StartFailed, creche.NotDelivered, creche.NameTaken),
    "stop": FOREIGN,
    "stop_by_name": FOREIGN,
    "wait": (creche.ActorStopped, *FOREIGN),
    "wait_stopped": (),
    "monitor": (),
    "register": (creche.NameTaken, creche.ActorStopped),
    "join": (creche.ActorStopped,),
    "leave_group": (),
    "work": CALLS,
    "crash": CALLS,
    "leave": CALLS,
    "hold_on": CALLS,
    "let_go": CALLS,
    "kill": (),
    "kill_supervisor": (),
}


class Stage:
    """Two dynamic supervisors in one tree, and whoever was ever started."""

    def __init__(
        self, runtime: creche.Runtime, supervisors: list[creche.DynamicSupervisor], first: creche.Handle[Member]
    ) -> None:
        self.runtime = runtime
        self.supervisors = supervisors
        self.handles = [first]
        self.told: list[str] = []

    def living(self) -> list[creche.Handle[Member]]:
        return [handle for handle in self.handles if cell_of(handle).state is not State.STOPPED]

    def check(self) -> None:
        """What must hold at every moment between two steps."""
        names = self.runtime.names
        for name in NAMES:
            holder = names.whereis(name)
            assert holder is None or cell_of(holder).state is not State.STOPPED
        for group in self.runtime.groups:
            assert all(cell_of(one).state is not State.STOPPED for one in self.runtime.groups.members(group))
        for sessions in self.supervisors:
            assert len(sessions) <= LIMIT

    async def watch_all(self) -> None:
        """A reader of a name and of a group, whose picture must be the true one whenever he has caught up."""
        members: dict[creche.Handle[Member], None] = {}
        async with self.runtime.groups.watch("g") as changes, self.runtime.names.watch("a") as holders:
            while True:
                await trio.sleep(0.05)
                for change in _waiting(changes.receive_nowait):
                    for handle in change.left:
                        del members[handle]
                    members.update(dict.fromkeys(change.joined))
                assert set(members) == set(self.runtime.groups.members("g"))
                for holder in _waiting(holders.receive_nowait):
                    assert holder is self.runtime.whereis("a")
                self.check()


def _waiting(receive: Callable[[], T]) -> list[T]:
    found: list[T] = []
    try:
        while True:
            found.append(receive())
    except trio.WouldBlock:
        return found


async def play(seed: int) -> None:
    spec = [creche.dynamic_supervisor(name, max_children=LIMIT, intensity=MANY) for name in ("left", "right")]
    root = creche.supervisor("root", *spec, intensity=MANY)
    async with creche.open_runtime("fuzz", root=root, seed=seed, stop_within=60) as runtime:
        supervisors = [runtime.handle(f"root/{one.default_name()}", one) for one in spec]
        first = await supervisors[0].start(creche.child(Plain, 0, []))
        stage = Stage(runtime, supervisors, first)
        async with trio.open_nursery() as readers:
            readers.start_soon(stage.watch_all)
            async with trio.open_nursery() as users:
                for number in range(USERS):
                    users.start_soon(User(number, seed, stage).run)
            await trio.sleep(QUIET)
            readers.cancel_scope.cancel()
        await settle()
        living = stage.living()
        assert sorted(one.path for one in living) == sorted(
            f"{one.path}/{name}" for one in supervisors for name in one.children()
        )
        await prove_idle(runtime)
        for one in living:
            await runtime.stop(one)
        await settle()
        assert [len(one) for one in supervisors] == [0, 0]
        assert len(runtime.names) == 0
        assert list(runtime.groups) == []
        assert not any(cell_of(one)._onlookers for one in stage.handles)
    assert runtime.unstopped == []


@pytest.mark.parametrize("seed", range(40))
def test_dynamic_fuzz(seed: int) -> None:
    """Whatever happens, see above."""
    creche.testing.run(play, seed, seed=seed)
