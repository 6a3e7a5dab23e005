"""The line by itself: who is taken, who leaves, who is told, without any thread."""

from __future__ import annotations

import pytest
import trio
from outcome import Value
from trio.testing import MockClock, wait_all_tasks_blocked

from creche.components.db.errors import LostReason, TransactionLost
from creche.components.db.line import MOVED, Job, Line, Turn
from creche.components.db.work import Work
from creche.runtime.deadlines import Deadlines

UNIT = Work(begin=True, commit=True)
BEGIN = Work(begin=True)
STEP = Work(inside=True)


class Scene:
    """A line whose connections only note that there may be something to do, and what came of those who queued up."""

    def __init__(self, servers: int = 1) -> None:
        self.line = Line("root/db")
        for _ in range(servers):
            self.line.served_by(self)
        self.something = trio.Event()
        self.deadlines = Deadlines()
        self.lost: list[LostReason] = []
        self.results: dict[str, object] = {}

    async def queue_up(self, name: str, work: Work = UNIT) -> None:
        turn = Turn("root/db", self.deadlines, 10.0, self.lost.append) if work.opens else None
        self.results[name] = await self.line.wait(Job(work, turn))

    async def taken(self, limit: int = 100) -> list[Job]:
        """What a connection takes as soon as there is something for it."""
        while True:
            self.something = trio.Event()
            jobs = self.line.take(limit)
            if jobs or self.line.untidy:
                return jobs
            await self.something.wait()

    def go(self) -> bool:
        self.something.set()
        return True

    def line_closed(self) -> None:
        self.something.set()

    def do(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.resolve(Value("done"))
        self.line.done(len(jobs))


async def test_units_are_taken_together_and_a_transaction_by_itself() -> None:
    """In order of arrival; nobody gets past a transaction that waits or is open."""
    it = Scene()
    async with trio.open_nursery() as nursery:
        for name, work in {"a": UNIT, "b": UNIT, "t": BEGIN, "c": UNIT}.items():
            nursery.start_soon(it.queue_up, name, work)
            await wait_all_tasks_blocked()
        jobs = await it.taken()
        assert [job.work for job in jobs] == [UNIT, UNIT]
        it.do(jobs)
        (begin,) = await it.taken()
        assert begin.turn is it.line.turn
        it.do([begin])
        with trio.move_on_after(0):
            await it.taken()
            pytest.fail("somebody got past an open transaction")
        assert begin.turn is not None
        begin.turn.end()
        it.do(await it.taken())
    assert it.results == dict.fromkeys("abtc", "done")


async def test_the_limit_of_a_visit_and_the_share_of_several_workers() -> None:
    """One connection takes all up to the limit; several divide what waits."""
    for servers, limit, share in ((1, 100, 6), (1, 4, 4), (3, 100, 2)):
        it = Scene(servers)
        async with trio.open_nursery() as nursery:
            for name in "abcdef":
                nursery.start_soon(it.queue_up, name)
            await wait_all_tasks_blocked()
            jobs = await it.taken(limit)
            assert len(jobs) == share
            it.do(jobs)
            while len(it.line):
                it.do(await it.taken())


async def test_who_leaves_before_being_taken_was_never_there() -> None:
    """Nobody sees its job, and those behind move up."""
    it = Scene()
    async with trio.open_nursery() as nursery:
        gone = trio.CancelScope()

        async def give_up() -> None:
            with gone:
                await it.queue_up("gone")

        nursery.start_soon(give_up)
        await wait_all_tasks_blocked()
        nursery.start_soon(it.queue_up, "next")
        await wait_all_tasks_blocked()
        gone.cancel()
        await wait_all_tasks_blocked()
        assert len(it.line) == 1
        it.do(await it.taken())
    assert it.results == {"next": "done"}


async def test_who_leaves_after_being_taken_waits_for_the_fact() -> None:
    """Marked as abandoned; a value that comes all the same is its value."""
    it = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.queue_up, "a")
        await wait_all_tasks_blocked()
        (job,) = await it.taken()
        nursery.cancel_scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
        assert job.abandoned
        it.do([job])
    assert it.results == {"a": "done"}


async def test_a_transaction_that_is_open_for_too_long_is_taken_away(autojump_clock: MockClock) -> None:
    """At that moment the next one can go on; what it left open is to be tidied up."""
    it = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.deadlines.run)
        nursery.start_soon(it.queue_up, "t", BEGIN)
        await trio.sleep(5.0)  # waiting does not count
        it.do(await it.taken())
        nursery.start_soon(it.queue_up, "next")
        jobs = await it.taken()
        assert trio.current_time() == pytest.approx(15.0)
        assert it.lost == ["timeout"]
        assert it.line.untidy
        it.line.untidy = False
        it.do(jobs or await it.taken())
        nursery.cancel_scope.cancel()


async def test_a_commit_that_is_on_its_way_is_not_timed_out(autojump_clock: MockClock) -> None:
    """Its outcome is to be known."""
    it = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.deadlines.run)
        nursery.start_soon(it.queue_up, "t", BEGIN)
        await wait_all_tasks_blocked()
        it.do(await it.taken())
        assert it.line.turn is not None
        it.line.turn.hold()
        await trio.sleep(100.0)
        assert it.lost == []
        nursery.cancel_scope.cancel()


async def test_when_the_line_ends_its_transaction_is_lost_and_a_step_that_waits_is_told() -> None:
    """It was never executed, so nothing is unknown about it."""
    it = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.queue_up, "t", BEGIN)
        await wait_all_tasks_blocked()
        it.do(await it.taken())
        turn = it.line.turn
        assert turn is not None

        async def step() -> None:
            with pytest.raises(TransactionLost):
                await it.line.wait_for_step(turn, Job(STEP, turn))

        nursery.start_soon(step)
        await wait_all_tasks_blocked()
        it.line.close()
    assert it.lost == ["crash"]


async def test_when_the_line_ends_those_who_wait_move_on_one_after_the_other() -> None:
    """Each lets the next one go when it has its new place, so their order stays."""
    it = Scene()
    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(it.queue_up, name)
            await wait_all_tasks_blocked()
        it.line.close()
        assert it.line.closed
        it.line.dissolve()
        it.line.dissolve()  # as often as one likes
        for moved in ("a", "ab", "abc"):
            await wait_all_tasks_blocked()
            assert it.results == dict.fromkeys(moved, MOVED)
            it.line.pass_on()


async def test_what_was_taken_and_not_begun_is_first_in_line_again() -> None:
    """In its order, and it can leave again; who wanted to leave meanwhile leaves now."""
    it = Scene()
    async with trio.open_nursery() as nursery:
        gone = trio.CancelScope()

        async def give_up() -> None:
            with gone:
                await it.queue_up("gone")

        nursery.start_soon(it.queue_up, "a")
        await wait_all_tasks_blocked()
        nursery.start_soon(give_up)
        await wait_all_tasks_blocked()
        nursery.start_soon(it.queue_up, "b")
        await wait_all_tasks_blocked()
        jobs = await it.taken(2)
        gone.cancel()
        await wait_all_tasks_blocked()
        it.line.put_back(jobs)
        it.line.done(2)
        await wait_all_tasks_blocked()
        assert gone.cancelled_caught
        it.do(await it.taken(1))
        await wait_all_tasks_blocked()
        assert it.results == {"a": "done"}
        it.do(await it.taken(1))


async def test_a_line_is_drained_when_the_last_one_has_been_done() -> None:
    """Those who wait, those who are taken, and the transaction that is open."""
    it = Scene()
    drained = trio.Event()

    async def drain() -> None:
        await it.line.drain()
        drained.set()

    async with trio.open_nursery() as nursery:
        for name, work in {"a": UNIT, "t": BEGIN}.items():
            nursery.start_soon(it.queue_up, name, work)
            await wait_all_tasks_blocked()
        nursery.start_soon(drain)
        await wait_all_tasks_blocked()
        assert not it.line.accepting
        for _ in "at":
            jobs = await it.taken()
            await wait_all_tasks_blocked()
            assert not drained.is_set()
            it.do(jobs)
        turn = it.line.turn
        assert turn is not None
        await wait_all_tasks_blocked()
        assert not drained.is_set()
        turn.end()
        await drained.wait()
