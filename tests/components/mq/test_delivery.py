"""The accumulator: what is accepted is settled exactly once. No log in here."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from creche.components.mq.delivery import Accumulator, Delivery
from creche.components.mq.message import Ack, Message

ACK = Ack("t", 0, 0, 0.0)


class Refused(Exception):
    pass


def accumulator_of(limit: int) -> Accumulator:
    return Accumulator(limit, limit_bytes=1000, largest=100)


def hear(heard: list[int], number: int, _result: Ack | Exception) -> None:
    heard.append(number)


def accept(accumulator: Accumulator, count: int = 1) -> list[Delivery]:
    accepted = accumulator.accept([Message("t", b"") for _ in range(count)])
    assert accepted is not None
    return accepted


async def test_it_gives_what_it_took_in_order_and_in_bounded_batches() -> None:
    """At most the limit at a time, oldest first."""
    accumulator = accumulator_of(10)
    deliveries = accept(accumulator, 3)
    assert await accumulator.take(2) == deliveries[:2]
    assert await accumulator.take(2) == deliveries[2:]


async def test_a_full_one_refuses_and_tells_when_there_is_room() -> None:
    """A batch may go beyond the room, the next one has to wait until some are taken."""
    accumulator = accumulator_of(2)
    accept(accumulator, 3)
    assert accumulator.accept([Message("t", b"")]) is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accumulator.wait_for_room)
        await trio.testing.wait_all_tasks_blocked()
        await accumulator.take(1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        await accumulator.take(1)
    accept(accumulator)


async def test_all_waiters_of_a_delivery_get_its_ack_or_an_error_of_their_own() -> None:
    """One delivery may be awaited by many tasks; a failure is a fresh exception for each."""
    accumulator = accumulator_of(10)
    good, bad = accept(accumulator, 2)
    accumulator.finish(await accumulator.take(1), [ACK])
    accumulator.finish(await accumulator.take(1), [Refused])
    assert (await good.wait(), await good.wait(), good.settled) == (ACK, ACK, True)
    errors: list[Refused] = []
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            await bad.wait()
        errors.append(caught.value)
    assert errors[0] is not errors[1]


async def test_closing_fails_what_was_not_taken_and_only_that() -> None:
    """What is being written keeps its outcome; nothing is accepted any more; a taker is told."""
    accumulator = accumulator_of(10)
    taken, waiting = accept(accumulator, 2)
    batch = await accumulator.take(1)
    accumulator.close(Refused)
    accumulator.close(ValueError)
    assert (taken.settled, waiting.settled) == (False, True)
    assert accumulator.accept([Message("t", b"")]) is None
    assert await accumulator.take(1) == []
    await accumulator.wait_for_room()
    accumulator.finish(batch, [ACK])
    assert await taken.wait() == ACK
    with pytest.raises(Refused):
        await waiting.wait()


async def test_closing_wakes_who_waits_for_records() -> None:
    """The writer of a closed accumulator ends."""
    accumulator = accumulator_of(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accumulator.take, 1)
        await trio.testing.wait_all_tasks_blocked()
        accumulator.close(Refused)


async def test_flushed_waits_for_earlier_records_only() -> None:
    """Those accepted later do not hold it up, those taken but not settled do, those revoked do not."""
    accumulator = accumulator_of(10)
    await accumulator.flushed()
    first, second, third = accept(accumulator, 3)
    done = trio.Event()

    async def flush() -> None:
        await accumulator.flushed()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush)
        await trio.testing.wait_all_tasks_blocked()
        accept(accumulator)
        batch = await accumulator.take(1)
        assert accumulator.revoke(second)
        await trio.testing.wait_all_tasks_blocked()
        accumulator.finish(batch, [ACK])
        batch = await accumulator.take(1)
        assert batch == [third]
        assert not accumulator.revoke(third)
        await trio.testing.wait_all_tasks_blocked()
        assert not done.is_set()
        accumulator.finish(batch, [ACK])
    assert first.settled


async def test_revoked_records_alone_do_not_hold_up_a_flush() -> None:
    """With nothing left to write the writer still clears them away."""
    accumulator = accumulator_of(10)
    (only,) = accept(accumulator)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accumulator.take, 1)
        nursery.start_soon(accumulator.flushed)
        assert accumulator.revoke(only)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        accumulator.close(Refused)


async def test_a_callback_hears_the_outcome_and_its_own_failure_stays_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`on_delivery` is called once; an error in it is reported and changes nothing."""
    reported: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: reported.append(repr(args.exc_value)))
    heard: list[object] = []
    accumulator = accumulator_of(10)
    accumulator.accept([Message("t", b"")], heard.append)
    accumulator.accept([Message("t", b"")], lambda _result: 1 / 0)
    accumulator.accept([Message("t", b"")], heard.append)
    accumulator.finish(await accumulator.take(3), [ACK, ACK, Refused])
    assert heard[0] == ACK
    assert isinstance(heard[1], Refused)
    assert reported == ["ZeroDivisionError('division by zero')"]


@given(st.lists(st.sampled_from(["accept", "take", "finish", "revoke", "close"]), max_size=60), st.data())
def test_everything_accepted_is_settled_exactly_once(steps: list[str], data: st.DataObject) -> None:
    """Whatever happens in whatever order: after a close and the writer's last batch nothing is left unsettled."""

    async def play() -> None:
        accumulator = accumulator_of(4)
        heard: list[int] = []
        accepted: list[Delivery] = []
        batches: list[list[Delivery]] = []
        revoked = 0
        for step in [*steps, "close"]:
            if step == "accept":
                number = len(accepted)
                accepted += accumulator.accept([Message("t", b"")], partial(hear, heard, number)) or []
            elif step == "take" and len(accumulator):
                batches.append(await accumulator.take(data.draw(st.integers(1, 3))))
            elif step == "finish" and batches:
                accumulator.finish(batches[0], [ACK] * len(batches.pop(0)))
            elif step == "revoke" and accepted:
                revoked += accumulator.revoke(data.draw(st.sampled_from(accepted)))
            elif step == "close":
                accumulator.close(Refused)
        for batch in batches:
            accumulator.finish(batch, [ACK] * len(batch))
        assert all(delivery.settled for delivery in accepted)
        assert len(heard) == len(set(heard)) == len(accepted) - revoked
        await accumulator.flushed()

    trio.run(play)


async def test_a_full_one_is_full_of_bytes_too() -> None:
    """Revoking and taking make room again."""
    accumulator = Accumulator(10, limit_bytes=10, largest=100)
    first, second = (accumulator.accept([Message("t", b"x" * 6)]) for _ in range(2))
    assert first
    assert second
    assert accumulator.accept([Message("t", b"")]) is None
    assert accumulator.statistics().waiting_bytes == 12
    assert accumulator.revoke(second[0])
    assert accumulator.accept([Message("t", b"x" * 6)])
    await accumulator.take(10)
    assert (accumulator.statistics().waiting, accumulator.statistics().waiting_bytes) == (0, 0)


async def test_it_lingers_for_more(autojump_clock: MockClock) -> None:
    """Up to so many seconds, or until there is enough; what is revoked meanwhile is not waited for."""
    accumulator = accumulator_of(10)
    (first,) = accept(accumulator)
    assert await accumulator.take(2, 5.0) == [first]
    assert trio.current_time() == 5.0
    accept(accumulator, 2)
    await accumulator.take(2, 5.0)
    assert trio.current_time() == 5.0
    batches: list[list[Delivery]] = []

    async def take() -> None:
        batches.append(await accumulator.take(2, 5.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        (revoked,) = accept(accumulator)
        await trio.sleep(1)
        accumulator.revoke(revoked)
        await trio.sleep(1)
        (kept,) = accept(accumulator)
    assert batches == [[kept]]
    assert trio.current_time() == 12.0
