"""The mailbox, against a model."""

from __future__ import annotations

from typing import Any, NoReturn, cast

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from creche.runtime.actor import MessageSpec
from creche.runtime.envelope import NEVER, Cast, Request, WaitingCast
from creche.runtime.intake import Intake
from creche.runtime.mailbox import RESOLUTION, LatestMailbox, Mailbox, Mark

SPEC = MessageSpec("message", cancel_when_gone=False, raises=())


class StubCell:
    """What an envelope needs of its cell."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.discarded = 0

    def bury(self, was: int) -> None:
        self.mailbox.bury(was)


def stopped_clock() -> float:
    return 0.0


def never() -> NoReturn:
    raise AssertionError("no task waits here")


class MailboxAgainstModel(RuleBasedStateMachine):
    """Senders, one taker and revocations in any order, while time passes. The model: two lists of names, the set of
    those that wait, and when each was sent."""

    @initialize(capacity=st.integers(1, 5) | st.just(70))
    def make(self, capacity: int) -> None:
        self.capacity = capacity
        self.now = 1000.0
        self.mailbox = Mailbox(capacity, lambda: self.now)
        self.sent: dict[str, float] = {}
        self.cell = cast("Intake", StubCell(self.mailbox))
        self.waiting: dict[str, Request | WaitingCast] = {}  # that may still be revoked, by name
        self.queue: list[str] = []
        self.spill: list[str] = []
        self.numbers = iter(range(10**9))

    def name(self) -> str:
        name = f"m{next(self.numbers)}"
        self.sent[name] = self.now
        return name

    def request(self, name: str) -> Request:
        return Request(self.cell, SPEC, (name,), {}, {}, cast("trio.lowlevel.Task", None))

    def cast_of(self, name: str) -> Cast:
        return (SPEC, (name,), {}, {}, float("inf"))

    def room(self) -> bool:
        return len(self.queue) < self.capacity and not self.spill

    def move_up(self) -> None:
        while self.spill and len(self.queue) < self.capacity:
            name = self.spill.pop(0)
            self.queue.append(name)
            if isinstance(self.waiting[name], WaitingCast):
                del self.waiting[name]  # accepted: its sender has gone on

    @rule()
    def call(self) -> None:
        name = self.name()
        request = self.request(name)
        assert self.mailbox.full() is not self.room()
        if self.room():
            assert self.mailbox.put(request)
            self.queue.append(name)
        else:
            assert not self.mailbox.put(request)
            self.mailbox.put_waiting(request)
            self.spill.append(name)
        self.waiting[name] = request

    @rule()
    def cast_nowait(self) -> None:
        name = self.name()
        assert self.mailbox.put(self.cast_of(name)) is self.room()
        if self.room():
            self.queue.append(name)

    @precondition(lambda self: not self.room())
    @rule()
    def cast_and_wait(self) -> None:
        name = self.name()
        waiting = WaitingCast(self.cell, self.cast_of(name))
        self.mailbox.put_waiting(waiting)
        self.spill.append(name)
        self.waiting[name] = waiting

    @rule()
    def take(self) -> None:
        item = self.mailbox.take()
        if not self.queue:
            assert item is None
            return
        name = self.queue.pop(0)
        self.waiting.pop(name, None)
        assert item is not None
        assert named(item) == name
        if isinstance(item, Request):
            item.state = 2  # RUNNING
        self.move_up()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        self.gone(data.draw(st.sampled_from(sorted(self.waiting))))

    @precondition(lambda self: len(self.waiting) > 3)
    @rule()
    def revoke_most(self) -> None:
        for name in list(self.waiting)[1:]:
            if name in self.waiting:
                self.gone(name)

    def gone(self, name: str) -> None:
        assert self.waiting.pop(name).abort(never) is trio.lowlevel.Abort.SUCCEEDED
        for lane in (self.queue, self.spill):
            if name in lane:
                lane.remove(name)
        marks = sum(isinstance(item, Mark) for item in self.mailbox.queue)
        assert marks <= len(self.mailbox.queue) / 2 + 1, "a mark for each message at most"
        dead = len(self.mailbox.queue) - marks - len(self.queue)
        assert dead <= max(len(self.queue), min(32, self.capacity // 2)), "tombstones are swept when one is added"

    @rule()
    def let_in(self) -> None:
        self.mailbox.refill()
        self.move_up()

    @rule()
    def take_all(self) -> None:
        assert [named(item) for item in self.mailbox.take_all()] == self.queue + self.spill
        self.queue, self.spill, self.waiting = [], [], {}

    @rule()
    def take_waiting(self) -> None:
        """A cast that waits for room is one whose sender waits, a cast in the queue is not."""
        calls = [name for name in self.queue if name in self.waiting]
        assert [named(item) for item in self.mailbox.take_waiting()] == calls + self.spill
        self.queue = [name for name in self.queue if name not in self.waiting]
        self.spill, self.waiting = [], {}

    @rule(seconds=st.sampled_from([0.0, RESOLUTION / 3, RESOLUTION, 7.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.spill)
    @rule()
    def yield_to_others(self) -> None:
        """As the cell's loop does once in so many messages: what comes from now on has come from now on."""
        self.mailbox.mark(self.now)

    @precondition(lambda self: not self.queue and not self.spill)
    @rule(messages=st.integers(2, 3))
    def rest_and_wake(self, messages: int) -> None:
        """As the cell's loop does: who comes while the actor waits for mail needs no mark."""
        while self.mailbox.take() is not None:
            pass
        self.mailbox.appends_below, self.mailbox.since = self.mailbox.at_rest, NEVER
        for _ in range(messages):
            self.cast_nowait()
            assert self.mailbox.oldest_wait(self.now + 1000) <= 1000 + 1e-9
        self.mailbox.appends_below = 0
        self.mailbox.woken(self.now)

    @invariant()
    def oldest_wait(self) -> None:
        if hasattr(self, "mailbox"):
            told = self.mailbox.oldest_wait(self.now)
            waited = self.now - self.sent[[*self.queue, *self.spill][0]] if self.queue or self.spill else 0.0
            assert waited - 1e-9 <= told <= (waited + RESOLUTION + 1e-9 if self.mailbox else 0.0)

    @invariant()
    def counts(self) -> None:
        if hasattr(self, "mailbox"):
            assert len(self.mailbox) == len(self.queue) + len(self.spill)
            assert self.mailbox._marks == sum(isinstance(item, Mark) for item in self.mailbox.queue)
            assert bool(self.mailbox) is bool(self.queue or self.spill)


def named(item: object) -> str:
    if isinstance(item, WaitingCast):
        item = item.cast
    args: tuple[Any, ...] = item.args if isinstance(item, Request) else cast("Cast", item)[1]
    return str(args[0])


TestMailboxAgainstModel = MailboxAgainstModel.TestCase
TestMailboxAgainstModel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_a_small_mailbox_does_not_fill_up_with_tombstones() -> None:
    """A mailbox of capacity 2 still takes a live message after any number of revoked ones."""
    mailbox = Mailbox(2, stopped_clock)
    cell = cast("Intake", StubCell(mailbox))
    for _ in range(100):
        request = Request(cell, SPEC, (), {}, {}, cast("trio.lowlevel.Task", None))
        assert mailbox.put(request)
        request.abort(never)
    assert not mailbox.full()
    assert len(mailbox.queue) <= 4  # with the mark of their time


def test_nobody_overtakes_between_a_revocation_and_the_refill() -> None:
    """Room that a revoked request leaves belongs to who waits for it, from the first moment on."""
    for capacity in (1, 4):
        mailbox = Mailbox(capacity, stopped_clock)
        cell = cast("Intake", StubCell(mailbox))
        requests = [
            Request(cell, SPEC, (str(n),), {}, {}, cast("trio.lowlevel.Task", None)) for n in range(capacity + 1)
        ]
        assert [mailbox.put(request) for request in requests] == [*[True] * capacity, False]
        mailbox.put_waiting(requests[-1])
        requests[0].abort(never)
        assert mailbox.full()
        assert not mailbox.put((SPEC, ("overtakes",), {}, {}, float("inf")))
        mailbox.refill()
        assert [named(item) for item in mailbox.take_all()] == [str(n) for n in range(1, capacity + 1)]


def test_many_revoked_requests_of_many_times_are_swept_out() -> None:
    """The marks of their times go with them."""
    now = iter(range(10**6))
    mailbox = Mailbox(64, lambda: float(next(now)))
    cell = cast("Intake", StubCell(mailbox))
    for _ in range(10_000):
        request = Request(cell, SPEC, (), {}, {}, cast("trio.lowlevel.Task", None))
        assert mailbox.put(request)
        request.abort(never)
    assert len(mailbox.queue) <= 70


def test_who_takes_over_a_place_is_as_old_as_the_place() -> None:
    """A cast that replaces the one of the same key has waited for as long as that one."""
    now = 100.0
    spec = MessageSpec("message", key=lambda key: key)
    mailbox = LatestMailbox(8, lambda replaced: None, lambda: now)
    assert mailbox.put((spec, ("a",), {}, {}, NEVER))
    now = 105.0
    assert mailbox.put((spec, ("b",), {}, {}, NEVER))
    assert mailbox.put((spec, ("a",), {}, {}, NEVER))
    assert mailbox.oldest_wait(106.0) == 6.0
    assert mailbox.take() is not None
    assert mailbox.oldest_wait(106.0) == 1.0
