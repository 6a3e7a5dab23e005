"""What was wrong with the seeds' ids, with one test for each defect that would have caught it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche.components import clog
from creche.components import uid as u
from creche.components.uid.uuid7 import Uuid7Generator
from creche.runtime.asgi import Message, Receive, Scope, Send
from creche.runtime.context import baggage
from tests.components.uid.support import START, Clock, running, unix_ms


async def test_saturation_makes_no_duplicates_and_is_no_faster_than_the_format() -> None:
    """Three of four ids were duplicates, because waits compared times of two epochs; the boasted rate was the bug."""
    async with running(u.Config()) as (_, uid):
        began = time.perf_counter()
        ids = await uid.take(100_000)
        took = time.perf_counter() - began
    assert len(set(ids)) == 100_000
    assert ids == sorted(ids)
    assert took > 0.9 * (100_000 / 4096 - 2) / 1000, "4096 ids in a millisecond are all there are"


async def test_at_the_ceiling_a_caller_sleeps() -> None:
    """It span, and held a mutex meanwhile: nobody else got on, and the processor was busy."""
    clock = Clock()
    async with running(u.Config(sequence_bits=0), clock) as (_, uid), trio.open_nursery() as nursery:
        clock.ms += 1
        await uid.snowflake()
        nursery.start_soon(uid.snowflake)
        await wait_all_tasks_blocked()  # it would never be
        clock.ms += 1


async def test_worker_ids_are_handed_out_not_drawn() -> None:
    """A random one of 1024: of 38 instances two had the same in every second case. And zero could not be had."""
    async with creche.open_runtime("many") as runtime:
        handles = [await runtime.start(u.component(u.Config(), name=f"uid{n}")) for n in range(38)]
        workers = [u.parse(await handle.snowflake()).worker_id for handle in handles]
    assert sorted(workers) == list(range(38))


async def test_no_setting_names_a_worker_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """`INSTANCE_ID=<a UUID>` was no number and made it silently random. Here such a variable is refused."""
    monkeypatch.setenv("CRECHE_UID__INSTANCE_ID", "6f1c")
    app = creche.App("orders")
    app.use(u.component())
    with pytest.raises(creche.ConfigInvalid, match="CRECHE_UID__INSTANCE_ID"):
        async with app.open():
            raise AssertionError("it has started")


async def test_a_small_step_back_is_waited_for_and_a_large_one_says_how_long() -> None:
    """Every step was an error, for as long as the clock was behind."""
    clock = Clock()
    async with running(u.Config(), clock) as (_, uid):
        clock.ms += 1
        first = await uid.snowflake()
        clock.ms -= 500
        assert uid.snowflake_nowait() > first
        clock.ms -= 60_000
        with pytest.raises(u.ClockMovedBack) as caught:
            await uid.snowflake()
    assert caught.value.retry_after == 60.5


async def test_a_restart_on_an_earlier_clock_repeats_nothing(path: str) -> None:
    """Nothing was kept over a restart, so an earlier clock, or another process with the id, made ids anew."""
    clock = Clock()
    async with running(u.Config(state_path=path), clock) as (_, uid):
        clock.ms += 1
        before = await uid.take(4096)
    clock.ms -= 1
    async with running(u.Config(state_path=path), clock) as (_, uid):
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        clock.ms += 2
        after = await uid.take(4096)
    assert not set(before) & set(after)


def test_an_id_tells_the_time_of_day() -> None:
    """One version gave milliseconds since its own epoch, another since 1970."""
    parts = u.parse((5 << 22) | (3 << 12) | 7)
    assert parts == u.Snowflake(datetime(2021, 1, 1, 0, 0, 0, 5000, UTC), 3, 7)


def test_the_bits_add_up() -> None:
    """A drawn layout had 73 bits, and a node field of ten bits that went to 31."""
    layout = u.Layout()
    assert (layout.bits, layout.max_worker_id, layout.ids_per_ms) == (63, 1023, 4096)
    with pytest.raises(ValueError, match="63"):
        u.Layout(time_bits=42)


async def test_many_ids_at_once_from_many_tasks() -> None:
    """There was none, "for lack of thread safety"."""
    taken: list[int] = []

    async def take(uid: u.Uid) -> None:
        taken.extend(await uid.take(2000))

    async with running(u.Config()) as (_, uid), trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(take, uid)
    assert len(set(taken)) == 20_000


def test_without_randomness_there_is_no_uuid_of_another_version() -> None:
    """Version 4 came instead, which the kit's own check then refused."""

    def broken(bits: int) -> int:
        raise OSError("no randomness")

    generator = Uuid7Generator(now_ms=lambda: START, randbits=broken)
    with pytest.raises(OSError, match="no randomness"):
        generator.next()


async def test_request_id_and_trace_id_do_not_undo_each_other() -> None:
    """One middleware made ids of version 4, which the other took for invalid and replaced: the trace was broken."""
    seen: list[tuple[str | None, str]] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((clog.trace_id(), str(baggage()["request_id"])))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    answered: list[dict[bytes, bytes]] = []

    async def send(message: Message) -> None:
        answered.append(dict(message["headers"]))

    async def receive() -> Message:
        return {"type": "http.request"}

    ids = u.Uid("uid")
    request = str(u.uuid7())
    headers = [(b"x-trace-id", b"abc-1"), (b"x-request-id", request.encode())]
    scope: Scope = {"type": "http", "path": "/", "method": "GET", "headers": headers}
    for wrapped in (
        clog.asgi_middleware(ids.asgi_middleware(application)),
        ids.asgi_middleware(clog.asgi_middleware(application)),
    ):
        await wrapped(scope, receive, send)
    assert seen == [("abc-1", request)] * 2
    assert [(one[b"x-trace-id"], one[b"x-request-id"]) for one in answered] == [(b"abc-1", request.encode())] * 2


async def test_health_and_use_can_be_seen(path: str) -> None:
    """Rates, errors and the clock's state were promised and never measured."""
    clock = Clock()
    async with running(u.Config(state_path=path), clock) as (_, uid):
        clock.ms += 1
        number = await uid.snowflake()
        statistics = uid.statistics()
        assert statistics is not None
        assert (statistics.worker_id, statistics.high_water) == (0, unix_ms(number))
