"""Expectations, recorder, fakes and leaks, as themselves."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche import events, testing


class Declined(creche.DomainError):
    def __init__(self) -> None:
        super().__init__(1001, "declined")


class Payments(creche.Actor):
    def __init__(self, url: str) -> None:
        self.url = url

    async def charge(self, amount: int) -> str:
        raise RuntimeError(f"{self.url} is not to be reached from tests: {amount}")

    async def refund(self, receipt: str) -> None:
        raise RuntimeError("nor this")

    @creche.batched(limit=10)
    async def book(self, items: Sequence[creche.BatchItem[int, str]]) -> None:
        raise RuntimeError("nor that")


ERRORS: dict[str, tuple[Callable[..., AbstractContextManager[Any]], Exception]] = {
    "not_delivered": (testing.expect_not_delivered, creche.NotDelivered("root/a", "overflow")),
    "outcome_unknown": (testing.expect_outcome_unknown, creche.OutcomeUnknown("root/a")),
    "actor_stopped": (testing.expect_actor_stopped, creche.ActorStopped("root/a")),
    "peer_failed": (
        testing.expect_peer_failed,
        creche.PeerFailed("root/a", "root/b", creche.OutcomeUnknown("root/b")),
    ),
    "deadline_exceeded": (testing.expect_deadline_exceeded, creche.DeadlineExceeded("root/a", delivered=True)),
    "call_cycle": (testing.expect_call_cycle, creche.CallCycle(("root/a", "root/a"))),
    "answer": (lambda: testing.expect_answer(Declined), Declined()),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_outcome_that_was_expected_is_given(name: str) -> None:
    expect, error = ERRORS[name]

    def fail() -> None:
        raise error

    with expect() as expected:
        fail()
    assert expected.error is error


@pytest.mark.parametrize("name", ERRORS)
def test_another_outcome_and_none_are_failures(name: str) -> None:
    expect, _ = ERRORS[name]
    with pytest.raises(AssertionError, match="and it was LookupError: other") as caught, expect():
        raise LookupError("other")
    assert isinstance(caught.value.__cause__, LookupError)
    with pytest.raises(AssertionError, match="nothing was raised"), expect():
        pass


@pytest.mark.parametrize(
    ("expected", "error", "match"),
    [
        (testing.expect_not_delivered("crash"), ERRORS["not_delivered"][1], "its reason is 'overflow', not 'crash'"),
        (testing.expect_outcome_unknown(ValueError), ERRORS["outcome_unknown"][1], "its cause is None, no ValueError"),
        (testing.expect_peer_failed("root/c"), ERRORS["peer_failed"][1], "its origin is 'root/b', not 'root/c'"),
        (testing.expect_deadline_exceeded(delivered=False), ERRORS["deadline_exceeded"][1], "`delivered` is True"),
        (testing.expect_call_cycle("root/b"), ERRORS["call_cycle"][1], "its chain is"),
        (testing.expect_actor_stopped(ValueError), ERRORS["actor_stopped"][1], "no ValueError"),
    ],
)
def test_the_details_must_be_right_too(expected: AbstractContextManager[Any], error: Exception, match: str) -> None:
    with pytest.raises(AssertionError, match=match), expected:
        raise error


OUTCOMES = [error for name, (_, error) in ERRORS.items() if name != "answer"]


@pytest.mark.parametrize("kind", [Exception, creche.CrecheError])
@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_an_outcome_is_never_an_answer(kind: type[Exception], outcome: Exception) -> None:
    match = f"{kind.__name__}, but it is an outcome, {type(outcome).__name__}, no answer: see expect_"

    def end_with(error: Exception) -> None:
        raise error

    with pytest.raises(AssertionError, match=match), testing.expect_answer(kind):
        end_with(outcome)
    with testing.expect_answer(kind) as expected:
        end_with(Declined())
    assert isinstance(expected.error, Declined)


@pytest.mark.parametrize(
    ("expect", "what", "match"),
    [
        (testing.expect_answer, creche.OutcomeUnknown, "this is an outcome, see expect_"),
        (testing.expect_answer, creche.CallFailed, "this is an outcome, see expect_"),
        (testing.expect_answer, 3, r"expect_answer\(kind\) = 3: a class of exceptions"),
        (testing.expect_answer, Declined(), "a class of exceptions"),
        (testing.expect_outcome_unknown, "RuntimeError", "cause = 'RuntimeError': a class of exceptions"),
        (testing.expect_actor_stopped, ValueError(), "a class of exceptions"),
        (partial(testing.expect_peer_failed, None), (ValueError, KeyError), "a class of exceptions"),
        (testing.expect_not_delivered, "overfull", "reason = 'overfull': one of 'crash', 'overflow'"),
    ],
)
def test_what_cannot_be_expected_is_refused_at_once(expect: Callable[[Any], Any], what: Any, match: str) -> None:
    with pytest.raises(creche.SpecInvalid, match=match):
        expect(what)


async def test_a_cancellation_passes_through_what_is_expected() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        with testing.expect_outcome_unknown():
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_a_fake_answers_and_remembers() -> None:
    async def slowly(receipt: str) -> None:
        await trio.lowlevel.checkpoint()
        assert receipt == "r1"

    fake = testing.Fake(Payments, charge=lambda amount: f"r{amount}", refund=slowly)
    async with creche.open_runtime("r") as runtime:
        payments = await runtime.start(fake.spec())
        assert await payments.ask.charge(1) == "r1"
        await payments.ask.refund(receipt="r1")
        fake.answers["charge"] = Declined()
        with testing.expect_answer(Declined):
            await payments.ask.charge(2)
        fake.answers["charge"] = "fixed"
        assert await payments.ask.charge(3) == "fixed"
    assert fake.calls[:2] == [testing.Call("charge", (1,), {}), testing.Call("refund", (), {"receipt": "r1"})]
    assert [call.args for call in fake.called("charge")] == [(1,), (2,), (3,)]


async def test_a_fake_without_an_answer_crashes_and_names_the_message() -> None:
    async with creche.open_runtime("r") as runtime:
        payments = await runtime.start(testing.Fake(Payments).spec())
        with testing.expect_outcome_unknown(AssertionError) as expected:
            await payments.ask.charge(1)
        assert "was sent 'charge'" in str(expected.error.__cause__)


async def test_wrong_arguments_for_a_fake_are_the_callers_mistake() -> None:
    fake = testing.Fake(Payments, charge="r1", book="booked")
    async with creche.open_runtime("r") as runtime:
        payments: Any = await runtime.start(fake.spec())
        with pytest.raises(TypeError, match=r"Payments.charge\(\): too many positional arguments"):
            await payments.ask.charge(1, 2, zzz=5)
        with pytest.raises(TypeError, match=r"Payments.charge\(\): missing a required argument: 'amount'"):
            await payments.ask.charge()
        with pytest.raises(TypeError, match=r"Payments.book\(\): too many positional arguments"):
            await payments.ask.book(1, 2)
        assert not fake.calls
        assert [await payments.ask.charge(amount=1), await payments.ask.book(2)] == ["r1", "booked"]
        assert payments.statistics().incarnation == 1


async def test_a_class_of_exceptions_is_raised_by_a_fake_as_an_exception_is() -> None:
    async with creche.open_runtime("r") as runtime:
        payments = await runtime.start(testing.Fake(Payments, charge=Declined, refund=ZeroDivisionError).spec())
        with testing.expect_answer(Declined):
            await payments.ask.charge(1)
        with testing.expect_outcome_unknown(ZeroDivisionError):
            await payments.ask.refund("r1")


def test_a_fake_knows_nothing_of_what_is_no_message() -> None:
    fake = testing.Fake(Payments, charge="r1")
    match = "Fake = 'chrage': a message of Payments, of which there are: book, charge, refund"
    with pytest.raises(creche.SpecInvalid, match=match):
        testing.Fake(Payments, chrage="r1")
    with pytest.raises(creche.SpecInvalid, match=match):
        fake.answers["chrage"] = "r1"
    with pytest.raises(creche.SpecInvalid, match=match):
        fake.called("chrage")
    assert fake.answers == {"charge": "r1"}


@pytest.mark.parametrize("what", [3, dict, Declined()])
def test_only_classes_of_actors_are_faked(what: Any) -> None:
    with pytest.raises(creche.SpecInvalid, match="a class of actors"):
        testing.Fake(what)


async def test_a_recorder_waits_for_events(autojump_clock: MockClock) -> None:
    async with creche.open_runtime("r") as runtime, trio.open_nursery() as nursery:
        with testing.Recorder(runtime) as recorder:
            payments = await runtime.start(testing.Fake(Payments).spec())

            async def kill_twice() -> None:
                for _ in range(2):
                    await trio.sleep(10)
                    runtime.kill(payments, "test")

            nursery.start_soon(kill_twice)
            second = await recorder.wait_for(events.Crashed, payments.path, count=2)
            assert second.time == pytest.approx(20)
            assert "Crashed" in repr(recorder)
        before = len(list(recorder))
        runtime.kill(payments, "unrecorded")
        await trio.sleep(1)
        assert len(recorder.events) == before


def test_descriptors_are_named_by_their_addresses(tmp_path: Path) -> None:
    before = testing.look_around()
    with contextlib.ExitStack() as stack:
        inet, unix = (stack.enter_context(socket.socket(family)) for family in (socket.AF_INET, socket.AF_UNIX))
        inet.bind(("127.0.0.1", 0))
        inet.listen()
        unix.bind(str(tmp_path / "s"))
        client = stack.enter_context(socket.create_connection(inet.getsockname()))
        found = sorted(testing.leaks_since(before).descriptors, key=lambda text: text.partition(" ")[2])
        assert [text.partition(" ")[2] for text in found] == sorted(
            [
                f"(fd {inet.fileno()}, at 127.0.0.1:{inet.getsockname()[1]})",
                f"(fd {unix.fileno()}, at {tmp_path}/s)",
                "(fd {}, at {}:{}, connected to {}:{})".format(
                    client.fileno(), *client.getsockname(), *client.getpeername()
                ),
            ]
        )
    assert not testing.leaks_since(before)


def test_a_channel_tells_what_waits_in_it() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError

    before = testing.look_around()
    kept = [trio.open_memory_channel[object](2) for _ in range(2)]
    for item, (send, _) in zip(("x" * 1000, Odd()), kept, strict=True):
        send.send_nowait(item)
        send.send_nowait(2)
    texts = testing.leaks_since(before).channels
    assert sum("(items: 2, the first is 'xxxx" in text and len(text) < 250 for text in texts) == 1, texts
    assert sum("(items: 2, the first is <Odd instance" in text for text in texts) == 1, texts


async def test_leaks_are_what_was_not_there_before() -> None:
    before = testing.look_around()
    assert not testing.leaks_since(before)
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="mine")
    thread.start()
    send, receive = trio.open_memory_channel[str](1)
    await send.send("kept")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever, name="asleep")
        await trio.lowlevel.checkpoint()
        leaks = testing.leaks_since(before)
        assert (leaks.threads, leaks.tasks, len(leaks.channels)) == (("mine",), ("asleep",), 1)
        assert "threads: mine" in str(leaks)
        nursery.cancel_scope.cancel()
    assert receive.receive_nowait() == "kept"
    done.set()
    thread.join()
    assert not testing.leaks_since(before)
