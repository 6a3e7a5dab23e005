"""The buffer: bounded, in order, and safe to fill from threads and finalizers."""

from __future__ import annotations

import gc
import threading

import trio
import trio.testing

from creche.components.clog.buffer import Buffer


def collecting(limit: int) -> Buffer:
    """A buffer that reports gaps as ``gap of n``."""

    def report(lines: int) -> None:
        buffer.write(b"gap of %d" % lines)

    buffer = Buffer(limit, report)
    return buffer


async def test_lines_come_out_in_order() -> None:
    """Up to as many as are asked for."""
    buffer = collecting(10)
    for line in (b"a", b"b", b"c"):
        buffer.write(line)
    assert (len(buffer), buffer.accepted, buffer.dropped) == (3, 3, 0)
    assert buffer.take(2) == [b"a", b"b"]
    assert buffer.take(2) == [b"c"]
    assert buffer.take(2) == []


async def test_a_full_buffer_drops_the_newest_and_counts() -> None:
    """What has been accepted stays."""
    buffer = collecting(2)
    for line in (b"a", b"b", b"c", b"d"):
        buffer.write(line)
    assert (buffer.accepted, buffer.dropped) == (2, 2)
    assert buffer.take(1) == [b"a"]


async def test_the_gap_is_reported_where_it_is() -> None:
    """The report stands behind the lines that were accepted before the gap and before all that came after it, once."""
    buffer = collecting(3)
    for line in (b"a", b"b", b"c", b"lost", b"lost"):
        buffer.write(line)
    assert buffer.take(2) == [b"a", b"b"]
    buffer.write(b"d")
    assert buffer.take(10) == [b"c", b"gap of 2", b"d"]
    buffer.write(b"e")
    assert buffer.take(10) == [b"e"]


async def test_the_smallest_buffer_reports_its_gaps_too() -> None:
    """With room for one line there is room for the report."""
    buffer = collecting(1)
    buffer.write(b"a")
    buffer.write(b"lost")
    assert buffer.take(1) == [b"a"]
    assert buffer.take(1) == [b"gap of 1"]


async def test_the_writer_is_woken_by_a_line() -> None:
    """It parks while there is nothing, and does not park when there is something."""
    buffer = collecting(10)
    woken: list[list[bytes]] = []

    async def wait() -> None:
        await buffer.wait_for_lines()
        woken.append(buffer.take(10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == []
        buffer.write(b"a")
        buffer.write(b"b")
    buffer.write(b"c")
    await wait()
    assert woken == [[b"a", b"b"], [b"c"]]


async def test_a_cancelled_wait_leaves_no_trace() -> None:
    """The next wait works."""
    buffer = collecting(10)
    with trio.move_on_after(0) as scope:
        await buffer.wait_for_lines()
    assert scope.cancelled_caught
    buffer.write(b"a")
    await buffer.wait_for_lines()
    assert buffer.take(1) == [b"a"]


async def test_threads_fill_it_and_wake_the_writer() -> None:
    """Every line of every thread arrives, in the order of its thread, and none is counted twice."""
    buffer = collecting(100_000)
    taken: list[bytes] = []

    def fill(name: bytes) -> None:
        for number in range(2000):
            buffer.write(b"%s%d" % (name, number))

    async with trio.open_nursery() as nursery:
        for name in (b"a", b"b", b"c"):
            nursery.start_soon(trio.to_thread.run_sync, fill, name)
        while len(taken) < 6000:
            await buffer.wait_for_lines()
            taken += buffer.take(100)
    assert buffer.accepted == 6000
    for name in (b"a", b"b", b"c"):
        assert [line for line in taken if line.startswith(name)] == [b"%s%d" % (name, n) for n in range(2000)]


async def test_a_finalizer_may_log_while_a_line_is_being_accepted() -> None:
    """The lock is re-entrant: a line written while the same thread holds it does not hang."""

    class Noisy:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            buffer.write(b"finalized")

    def report(_lines: int) -> None:
        Noisy()
        gc.collect()

    buffer = Buffer(1, report)
    buffer.write(b"a")
    buffer.write(b"lost")
    thread = threading.Thread(target=buffer.take, args=(1,), daemon=True)
    thread.start()
    await trio.to_thread.run_sync(thread.join, 10)
    assert not thread.is_alive()
    assert buffer.take(1) == [b"finalized"]
