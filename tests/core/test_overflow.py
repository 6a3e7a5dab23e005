"""Bounds, overflow policies, casts, and what callers meet while an actor is down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.errors import SpecInvalid
from creche.runtime.events import DeadLetter, Overflowed
from creche.runtime.node import State
from creche.runtime.spec import ChildOptions, Overflow, WhileDown
from creche.supervisors.spec import supervisor
from tests.core.support import LONG, Gate, Probe, asking, cell_of, reach, recorded, settle

DOWN_FOR_LONG = creche.Backoff(first=50, cap=50, free=0, jitter=0)


async def held(nursery: trio.Nursery, probe: creche.Handle[Probe]) -> Gate:
    """Keep the actor busy until the gate is opened."""
    gate = Gate()
    asking(nursery, probe.ask.hold, gate)
    await gate.entered.wait()
    return gate


def letters(seen: list[events.Event]) -> list[tuple[str, str]]:
    return [(event.message, event.reason) for event in seen if isinstance(event, DeadLetter)]


def test_mailboxes_are_bounded() -> None:
    """Every mailbox has a bound: 1024 unless the child's options say otherwise; less than 1 is refused."""
    assert ChildOptions().mailbox == 1024
    for wrong in (0, -1):
        with pytest.raises(SpecInvalid, match="mailbox"):
            creche.child(Probe).options(mailbox=wrong)


@pytest.mark.parametrize("capacity", [1, 2])
async def test_overflow_wait(capacity: int) -> None:
    """`wait`: a call or an awaited cast to a full mailbox waits for room; `cast_nowait` raises MailboxFull."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=capacity))
        gate = await held(nursery, probe)
        for number in range(capacity):
            probe.cast_nowait(Probe.note, str(number))
        call = asking(nursery, probe.ask.note, "call")
        await settle()
        cast = asking(nursery, probe.cast, Probe.note, "cast")
        await settle()
        assert (call.what, cast.what) == ("pending", "pending")
        with pytest.raises(creche.MailboxFull) as caught:
            probe.cast_nowait(Probe.note, "refused")
        assert isinstance(caught.value, trio.WouldBlock)
        assert (caught.value.capacity, caught.value.reason) == (capacity, "overflow")
        gate.opened.set()
        assert [await call.settled(), await cast.settled()] == ["value", "value"]
        await probe.ask.life()
        assert log == ["held", *map(str, range(capacity)), "call", "cast"]


async def test_waiting_senders_keep_their_place() -> None:
    """Calls and casts that wait for room are accepted in the order in which they came; nobody overtakes them."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=1))
        gate = await held(nursery, probe)
        replies = []
        for number in range(12):
            if number % 2:
                replies.append(asking(nursery, probe.cast, Probe.note, str(number)))
            else:
                replies.append(asking(nursery, probe.ask.note, str(number)))
            await settle()
        gate.opened.set()
        assert [await reply.settled() for reply in replies] == ["value"] * 12
        await probe.ask.life()
        assert log == ["held", *map(str, range(12))]


async def test_every_waiting_cast_is_accepted_on_its_own() -> None:
    """Any number of casts may have waited for room before, in this process: the next one goes on all the same."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(mailbox=1))
        gate = await held(nursery, probe)
        replies = [asking(nursery, probe.cast, Probe.add) for _ in range(5)]
        await settle()
        gate.opened.set()
        assert [await reply.settled() for reply in replies] == ["value"] * 5
        assert await probe.ask.add() == 6


async def test_a_cancelled_cast_was_not_accepted() -> None:
    """A cast that is cancelled while it waits for room is never handled; those behind it move up."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=1))
        gate = await held(nursery, probe)
        replies = []
        for word in ("1", "2", "3"):
            replies.append(asking(nursery, probe.cast, Probe.note, word))
            await settle()
        replies[1].scope.cancel()
        assert await replies[1].settled() == "cancelled"
        gate.opened.set()
        await replies[2].settled()
        await probe.ask.life()
        assert log == ["held", "1", "3"]


async def test_overflow_reject() -> None:
    """`reject`: a call to a full mailbox raises NotDelivered("overflow"), a cast MailboxFull, at once."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(mailbox=1, overflow="reject"))
        gate = await held(nursery, probe)
        probe.cast_nowait(Probe.add)
        with pytest.raises(creche.NotDelivered) as caught:
            await probe.ask.add()
        assert caught.value.reason == "overflow"
        with pytest.raises(creche.MailboxFull):
            await probe.cast(Probe.add)
        gate.opened.set()
        await settle()
        assert await probe.ask.life() == 1
        assert len([event for event in seen if isinstance(event, Overflowed)]) == 2


async def test_overflow_drop_oldest() -> None:
    """`drop_oldest`: the new message takes the place of the oldest, whose caller gets NotDelivered("overflow")."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=2, overflow="drop_oldest"))
        gate = await held(nursery, probe)
        oldest = asking(nursery, probe.ask.note, "1")
        await settle()
        for word in ("2", "3", "4"):
            probe.cast_nowait(Probe.note, word)
        assert await oldest.settled() == "NotDelivered"
        gate.opened.set()
        await settle()
        assert log == ["held", "3", "4"]
        assert letters(seen) == [("note", "overflow")]


async def test_overflow_drop_newest() -> None:
    """`drop_newest`: the new message is dropped: a call gets NotDelivered("overflow"), a cast is a dead letter."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=1, overflow="drop_newest"))
        gate = await held(nursery, probe)
        probe.cast_nowait(Probe.note, "1")
        probe.cast_nowait(Probe.note, "2")
        await probe.cast(Probe.note, "3")
        with pytest.raises(creche.NotDelivered):
            await probe.ask.note("4")
        gate.opened.set()
        await settle()
        assert log == ["held", "1"]
        assert letters(seen) == [("note", "overflow")] * 2


async def test_revoked_requests_hold_no_room() -> None:
    """Requests whose callers have gone do not count: the next message finds room."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(mailbox=2, overflow="reject"))
        gate = await held(nursery, probe)
        for _ in range(10):
            pair = [asking(nursery, probe.ask.add) for _ in range(2)]
            await settle()
            for reply in pair:
                reply.scope.cancel()
                assert await reply.settled() == "cancelled"
        gate.opened.set()
        await settle()
        assert await probe.ask.add() == 1


async def test_cast_returns_when_accepted() -> None:
    """`await cast` returns when the message is in the mailbox, not when it has been handled."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        gate = await held(nursery, probe)
        await probe.cast(Probe.add)
        assert cell_of(probe).queued == 1
        gate.opened.set()


@pytest.mark.parametrize("overflow", ["wait", "drop_oldest", "drop_newest"])
async def test_casting_in_a_loop_starves_nobody(overflow: Overflow) -> None:
    """A loop of awaited casts lets the actor, and everybody else, run now and then, whatever the overflow policy."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(mailbox=10, overflow=overflow))
        for _ in range(1000):
            await probe.cast(Probe.add)
        assert cell_of(probe).handled > 0


async def test_a_cast_is_a_cancel_point() -> None:
    """A cast in a cancelled scope raises Cancelled, and nothing has been accepted."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with trio.CancelScope() as scope:
            scope.cancel()
            await probe.cast(Probe.add)
        assert scope.cancelled_caught
        assert await probe.ask.add() == 1


async def test_an_error_in_a_cast_crashes_or_is_dropped() -> None:
    """An undeclared error in the handler of a cast is a crash; a declared one has no caller to go to."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe))
        probe.cast_nowait(Probe.refuse)
        assert await probe.ask.life() == 1
        probe.cast_nowait(Probe.crash)
        assert await probe.ask.life() == 2
        assert letters(seen) == [("crash", "crash")]


async def test_dead_letters_are_told() -> None:
    """Casts that end unhandled are events: dropped, expired, in hand at a crash, still waiting at the final stop."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(restart="temporary"))
        await held(nursery, probe)
        probe.cast_nowait(Probe.add)
        runtime.kill(probe, "now")
        await cell_of(probe).wait_for(State.STOPPED)
        assert letters(seen) == [("add", "closed")]


# --- down -----------------------------------------------------------------------------------------


async def test_callers_wait_while_down(autojump_clock: MockClock) -> None:
    """Between two incarnations callers wait, and are served by the next one."""
    backoff = creche.Backoff(first=3, free=0, jitter=0)
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(backoff=backoff))
        runtime.kill(probe, "down")
        await cell_of(probe).wait_for(State.DOWN)
        assert await probe.ask.life() == 2
        assert trio.current_time() == 3


async def test_down_wait_is_the_limit(autojump_clock: MockClock) -> None:
    """Callers wait at most `down_wait` for a restart, counted from the crash; then NotDelivered("crash",
    retry_after)."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(backoff=DOWN_FOR_LONG, down_wait=2))
        runtime.kill(probe, "down")
        await settle()
        early = asking(nursery, probe.ask.life)
        assert await early.settled() == "NotDelivered"
        assert trio.current_time() == 2
        with pytest.raises(creche.NotDelivered) as caught:
            await probe.ask.life()
        assert trio.current_time() == 2
        assert (caught.value.reason, caught.value.retry_after) == ("crash", 48)
        await trio.sleep(50)
        assert await probe.ask.life() == 2


async def test_while_down_reject(autojump_clock: MockClock) -> None:
    """`while_down="reject"`: callers are refused at once while a restart is delayed, those that waited already too."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        spec = creche.child(Probe).options(backoff=DOWN_FOR_LONG, while_down="reject")
        probe = await runtime.start(spec)
        await held(nursery, probe)
        queued = asking(nursery, probe.ask.life)
        await settle()
        runtime.kill(probe, "down")
        assert await queued.settled() == "NotDelivered"
        with pytest.raises(creche.NotDelivered):
            await probe.ask.life()
        assert trio.current_time() == 0
        await trio.sleep(60)
        assert await probe.ask.life() == 2


async def test_while_down_reject_does_not_hit_immediate_restarts() -> None:
    """A restart without delay is not "down": even with `reject` the mail is kept."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(while_down="reject"))
        await held(nursery, probe)
        queued = asking(nursery, probe.ask.life)
        await settle()
        runtime.kill(probe, "down")
        assert await queued.settled() == "value"
        assert queued.value == 2


async def test_accepted_casts_outlast_down_wait(autojump_clock: MockClock) -> None:
    """Casts that have been accepted stay in the mailbox however long the actor is down; new ones are refused."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log).options(backoff=DOWN_FOR_LONG, down_wait=2))
        await held(nursery, probe)
        probe.cast_nowait(Probe.note, "accepted")
        runtime.kill(probe, "down")
        await trio.sleep(10)
        with pytest.raises(creche.NotDelivered):
            probe.cast_nowait(Probe.note, "refused")
        await trio.sleep(50)
        await probe.ask.life()
        assert log == ["accepted"]


async def test_down_wait_covers_a_slow_start(autojump_clock: MockClock) -> None:
    """A successor that takes its time to get ready does not make callers wait longer than `down_wait`."""

    class Slow(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            if self.context.incarnation > 1:
                await trio.sleep(30)
            yield

    async with creche.open_runtime("t") as runtime:
        slow = await runtime.start(creche.child(Slow).options(down_wait=2))
        runtime.kill(slow, "down")
        await settle()
        with pytest.raises(creche.NotDelivered):
            await slow.ask.life()
        assert trio.current_time() == 2
        await trio.sleep(30)
        assert await slow.ask.life() == 2


async def test_retry_after_is_none_when_nothing_is_known(autojump_clock: MockClock) -> None:
    """`retry_after` is the time until the restart, or None: never 0 for an actor that is starting or waits for
    others."""

    class Slow(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            if self.context.incarnation > 1:
                await trio.sleep(60)
            yield

    async with creche.open_runtime("t") as runtime:
        slow = await runtime.start(creche.child(Slow).options(down_wait=1))
        runtime.kill(slow, "down")
        await settle()
        for _ in range(2):
            with pytest.raises(creche.NotDelivered) as caught:
                await slow.ask.life()
            assert caught.value.retry_after is None
        assert trio.current_time() == 1


@pytest.mark.parametrize("while_down", ["wait", "reject"])
async def test_down_wait_covers_the_siblings_of_a_group(while_down: WhileDown, autojump_clock: MockClock) -> None:
    """Who calls a healthy sibling that waits for its group meets the same rules as who calls the crashed child."""
    children = [
        creche.child(Probe).options(name=name, backoff=DOWN_FOR_LONG, down_wait=2, while_down=while_down)
        for name in ("a", "b")
    ]
    root = supervisor("root", *children, strategy="rest_for_one")
    async with creche.open_runtime("t", root=root) as runtime, trio.open_nursery() as nursery:
        runtime.kill("root/a", "down")
        await settle()
        replies = [asking(nursery, reach(runtime, f"root/{name}", Probe).ask.life) for name in ("a", "b")]
        with trio.move_on_after(10):
            for reply in replies:
                await reply.done.wait()
        assert [reply.what for reply in replies] == ["NotDelivered"] * 2
        assert trio.current_time() == (2 if while_down == "wait" else 0)


async def test_down_wait_covers_a_suspended_subtree(autojump_clock: MockClock) -> None:
    """The same while their supervisor waits for its own restart."""
    child = creche.child(Probe).options(down_wait=2)
    sub = supervisor("sub", child, intensity=creche.Intensity(0, 5)).options(backoff=DOWN_FOR_LONG)
    async with creche.open_runtime("t", root=supervisor("root", sub)) as runtime:
        probe = reach(runtime, "root/sub/probe", Probe)
        runtime.kill(probe, "too often")
        await runtime.node_of("root/sub").wait_for(State.DOWN)
        with trio.move_on_after(10), pytest.raises(creche.NotDelivered):
            await probe.ask.life()
        assert trio.current_time() == 2


async def test_oldest_wait(autojump_clock: MockClock) -> None:
    """`oldest_wait` tells for how long the oldest message has waited, while the actor is busy and while it is down."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(backoff=DOWN_FOR_LONG, down_wait=LONG))
        assert probe.statistics().oldest_wait == 0.0
        await probe.ask.life()
        gate = await held(nursery, probe)
        await trio.sleep(5)
        assert probe.statistics().oldest_wait == 0.0, "the message in hand does not wait"
        probe.cast_nowait(Probe.note, "first")
        await trio.sleep(2)
        probe.cast_nowait(Probe.note, "second")
        second = asking(nursery, probe.ask.hold, Gate())
        await trio.sleep(1)
        assert probe.statistics().oldest_wait == 3.0
        gate.opened.set()
        await settle()
        assert (probe.statistics().queued, probe.statistics().oldest_wait) == (0, 0.0)
        probe.cast_nowait(Probe.note, "third")
        await trio.sleep(1)
        runtime.kill(probe, "test")
        await second.settled()
        await trio.sleep(1)
        assert probe.statistics().oldest_wait == 2.0, "it waits on while the actor is down"
        probe.cast_nowait(Probe.note, "fourth")
        await trio.sleep(60)
        assert (probe.statistics().queued, probe.statistics().oldest_wait) == (0, 0.0)


async def test_oldest_wait_of_those_that_came_together(autojump_clock: MockClock) -> None:
    """Who woke the actor, and all that came in the same moment, have waited since then; so have those of a later one,
    and whoever waits for room."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(mailbox=3))
        for _ in range(2):
            gates = [Gate() for _ in range(5)]
            for gate in gates[:3]:
                probe.cast_nowait(Probe.hold, gate)
            await settle()
            asks = []
            for gate in gates[3:]:
                asks.append(asking(nursery, probe.ask.hold, gate))
                await settle()
            for number, gate in enumerate(gates, 1):
                await gate.entered.wait()
                await trio.sleep(10)
                assert probe.statistics().oldest_wait == (10.0 * number if number < 5 else 0.0)
                gate.opened.set()
            for ask in asks:
                await ask.settled()
            await trio.sleep(100)


async def test_oldest_wait_at_the_limit_of_a_concurrent_message(autojump_clock: MockClock) -> None:
    """A message that waits at the head because no more of its kind may run has waited since it came."""

    class Wide(creche.Actor):
        @creche.message(concurrency=1)
        async def hold(self, gate: Gate) -> None:
            await gate.hold()

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        wide = await runtime.start(creche.child(Wide))
        first, second = Gate(), Gate()
        asking(nursery, wide.ask.hold, first)
        await first.entered.wait()
        await trio.sleep(3)
        asking(nursery, wide.ask.hold, second)
        await trio.sleep(4)
        assert (wide.statistics().queued, wide.statistics().oldest_wait) == (1, 4.0)
        first.opened.set()
        second.opened.set()
