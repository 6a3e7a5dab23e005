"""The lease by itself: who has the turn, and who is told when it is taken away."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from creche.components.db.errors import LostReason
from creche.components.db.lease import DbLease
from creche.runtime.deadlines import Deadlines


class Scene:
    """A lease, what was rolled back, and what its holder was told."""

    def __init__(self) -> None:
        self.rolled_back: list[int] = []
        self.told: list[LostReason] = []
        self.deadlines = Deadlines()
        self.lease = DbLease(1, "root/db", self.deadlines, 10.0, self.rolled_back.append)


async def test_the_end_of_the_incarnation_before_begin_was_answered_is_told_by_that_answer() -> None:
    """It may be that nothing was begun; so the holder is told only when the answer says that something was."""
    it = Scene()
    turn = await it.lease.take_turn()
    turn.limit(it.told.append)
    it.lease.revoke()
    assert it.told == []
    turn.begin()
    assert it.told == ["crash"]


async def test_a_turn_that_was_ended_is_not_told_of_anything_any_more() -> None:
    """Neither of a crash nor of an answer that comes late."""
    it = Scene()
    turn = await it.lease.take_turn()
    turn.limit(it.told.append)
    turn.begin()
    turn.end()
    it.lease.revoke()
    assert it.told == []


async def test_a_turn_is_given_back_once() -> None:
    """Ending a turn twice, or after it was taken away, lets nobody in who should wait."""
    it = Scene()
    first = await it.lease.take_turn()
    first.end(roll_back=True)
    second = await it.lease.take_turn()
    first.end(roll_back=True)
    assert it.rolled_back == [first.number]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.lease.take_turn)
        await wait_all_tasks_blocked()
        assert repr(it.lease) == "<DbLease root/db#1 valid, 1 waiting>"
        second.end()


async def test_a_turn_that_is_held_for_too_long_goes_to_the_next_in_line(autojump_clock: MockClock) -> None:
    """Its holder is told, what it has open is rolled back, and the next one has the turn at that moment."""
    it = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.deadlines.run)
        turn = await it.lease.take_turn()
        turn.limit(it.told.append)

        async def wait() -> None:
            await it.lease.take_turn()
            assert trio.current_time() == pytest.approx(10.0)
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait)
    assert it.told == ["timeout"]
    assert it.rolled_back == [turn.number]


async def test_a_turn_without_a_transaction_has_no_limit(autojump_clock: MockClock) -> None:
    """A statement on its own may take as long as it takes."""
    it = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.deadlines.run)
        turn = await it.lease.take_turn()
        await trio.sleep(1000.0)
        assert it.rolled_back == []
        turn.end()
        nursery.cancel_scope.cancel()
