"""What faults do to bytes, without I/O and without a clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.chaos.network import (
    Blackhole,
    Corrupt,
    Cut,
    Fault,
    HalfOpen,
    Latency,
    Rate,
    Reset,
    Slicer,
    SlowClose,
    Stall,
)
from creche.chaos.network.effects import PORTIONS
from creche.chaos.network.faults import by_name
from creche.chaos.network.line import Line, Mark
from creche.chaos.network.link import Link

Out = list[tuple[float, bytes | Mark]]

seeds = st.integers(0, 2**32)
seconds = st.floats(0, 3, allow_subnormal=False)
chunks = st.lists(st.tuples(seconds, st.binary(min_size=1, max_size=200)), max_size=8)
latencies = seconds.flatmap(lambda most: st.floats(0, most).map(lambda jitter: Latency(most, jitter=jitter)))
rates = st.floats(1, 1e6).map(Rate)
slicers = st.integers(1, 50).flatmap(
    lambda size: st.builds(Slicer, st.just(size), variation=st.integers(0, size - 1), pause=st.floats(0, 0.1))
)
slow_closes = seconds.map(SlowClose)
harmless = st.lists(st.one_of(latencies, rates, slicers, slow_closes), max_size=4).map(tuple)


def linked(seed: int, *faults: Fault, at: float = 0.0) -> Link:
    link = Link(Random(seed))
    link.change(by_name(faults), at)
    return link


def play(line: Line, arrivals: Sequence[tuple[float, bytes]], *, end: bool = False) -> Out:
    """What comes out, and when, if bytes arrive one gap after the other."""
    out: Out = []
    now = 0.0
    for gap, data in arrivals:
        out += taken(line, now, now + gap)
        now += gap
        line.feed(data, now)
    if end:
        line.end(Mark.END, now)
    return out + taken(line, now, math.inf)


def taken(line: Line, now: float, until: float) -> Out:
    """What comes out from now on, until a time."""
    out: Out = []
    while line.ending() is None and (due := line.due()) <= until and due < math.inf:
        now = max(now, due)
        out.append((now, line.take(now)))
    return out


def bytes_of(out: Out) -> bytes:
    return b"".join(piece for _, piece in out if isinstance(piece, bytes))


# --- what is preserved ----------------------------------------------------------------------------


@given(seeds, harmless, chunks)
def test_what_only_delays_keeps_every_byte_in_order(
    seed: int, faults: tuple[Fault, ...], arrivals: list[tuple[float, bytes]]
) -> None:
    line = linked(seed, *faults).downstream
    out = play(line, arrivals, end=True)
    assert bytes_of(out) == b"".join(data for _, data in arrivals)
    assert [piece for _, piece in out if isinstance(piece, Mark)] == [Mark.END]
    assert out[-1][1] is Mark.END
    assert [time for time, _ in out] == sorted(time for time, _ in out)
    assert line.size == 0
    assert not line.torn


@given(seeds, harmless, chunks, harmless)
def test_a_change_while_bytes_are_under_way_loses_none(
    seed: int, before: tuple[Fault, ...], arrivals: list[tuple[float, bytes]], after: tuple[Fault, ...]
) -> None:
    link = linked(seed, *before)
    now = 0.0
    out: Out = []
    for gap, data in arrivals:
        link.upstream.feed(data, now)
        out += taken(link.upstream, now, now + gap)
        now += gap
    link.change(by_name(after), now)
    out += taken(link.upstream, now, math.inf)
    assert bytes_of(out) == b"".join(data for _, data in arrivals)
    assert [time for time, _ in out] == sorted(time for time, _ in out)


@given(seeds, st.lists(st.sampled_from([Latency(1, jitter=1), Corrupt(0.1), Slicer(9, variation=8)])), chunks)
def test_a_seed_gives_one_story(seed: int, faults: list[Fault], arrivals: list[tuple[float, bytes]]) -> None:
    first, second = (play(linked(seed, *faults).upstream, arrivals, end=True) for _ in range(2))
    assert first == second


# --- each of them ---------------------------------------------------------------------------------


@given(seeds, latencies, chunks)
def test_latency_delays_by_no_less_and_no_more_than_it_says(
    seed: int, fault: Latency, arrivals: list[tuple[float, bytes]]
) -> None:
    out = play(linked(seed, fault).upstream, arrivals)
    now = highest = 0.0
    for (gap, _), (time, _) in zip(arrivals, out, strict=True):
        now += gap
        highest = max(highest, now + fault.seconds + fault.jitter)
        assert now + fault.seconds - fault.jitter - 1e-9 <= time <= highest + 1e-9


def test_jitter_is_drawn_for_each_read() -> None:
    out = play(linked(0, Latency(1.0, jitter=1.0)).upstream, [(100.0, b"x")] * 50)
    delays = [time - 100.0 * n for n, (time, _) in enumerate(out, start=1)]
    assert min(delays) < 0.2
    assert max(delays) > 1.8


def test_latencies_add_up() -> None:
    line = linked(0, Latency(1.0), Latency(2.0, name="more")).upstream
    assert play(line, [(0.0, b"x")]) == [(3.0, b"x")]


def test_latency_does_not_make_bytes_wait_for_each_other() -> None:
    """Those that arrive in a second leave in a second: it is a delay, not a rate."""
    out = play(linked(0, Latency(5.0)).upstream, [(0.1, b"x")] * 10)
    assert [time for time, _ in out] == pytest.approx([5.0 + 0.1 * n for n in range(1, 11)])


@given(seeds, st.floats(1, 1e5), harmless, chunks)
def test_a_rate_is_never_exceeded(
    seed: int, rate: float, others: tuple[Fault, ...], arrivals: list[tuple[float, bytes]]
) -> None:
    """In any time at most what the rate allows, and one portion."""
    limits = [fault for fault in others if not isinstance(fault, Rate)]
    out = play(linked(seed, *limits, Rate(rate)).downstream, arrivals)
    portion = max(1.0, rate / PORTIONS)
    for first in range(len(out)):
        for last in range(first, len(out)):
            allowed = rate * (out[last][0] - out[first][0]) + portion
            assert len(bytes_of(out[first : last + 1])) <= allowed * (1 + 1e-9) + 1e-6


def test_a_rate_is_reached() -> None:
    out = play(linked(0, Rate(1000)).upstream, [(0.0, bytes(1000))])
    assert out[-1][0] == pytest.approx(1.0 - 1 / PORTIONS)


@given(seeds, st.integers(1, 50), chunks)
def test_a_slicer_cuts_pieces_of_its_size(seed: int, size: int, arrivals: list[tuple[float, bytes]]) -> None:
    fault = Slicer(size, variation=size - 1, pause=0.5)
    out = play(linked(seed, fault).upstream, arrivals)
    assert all(1 <= len(piece) <= 2 * size - 1 for _, piece in out if isinstance(piece, bytes))
    times = [time for time, _ in out]
    assert all(later - earlier >= 0.5 - 1e-9 for earlier, later in pairwise(times))


def test_a_slow_close_holds_back_the_end_alone() -> None:
    out = play(linked(0, SlowClose(2.0), Latency(1.0)).upstream, [(0.0, b"x")], end=True)
    assert out == [(1.0, b"x"), (3.0, Mark.END)]


@given(seeds, st.floats(0.01, 1), st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=20))
def test_corruption_does_not_depend_on_how_bytes_are_read(
    seed: int, probability: float, data: bytes, sizes: list[int]
) -> None:
    whole = play(linked(seed, Corrupt(probability)).upstream, [(0.0, data)] if data else [])
    parts: list[tuple[float, bytes]] = []
    for size in [*sizes, len(data)]:
        head, data = data[:size], data[size:]
        parts += [(0.0, head)] if head else []
    split = play(linked(seed, Corrupt(probability)).upstream, parts)
    assert bytes_of(split) == bytes_of(whole)


@given(seeds, st.integers(0, 99))
def test_corruption_flips_one_bit_at_its_offset(seed: int, at: int) -> None:
    out = bytes_of(play(linked(seed, Corrupt(at=at)).upstream, [(0.0, bytes(50)), (0.0, bytes(50))]))
    assert [offset for offset, byte in enumerate(out) if byte] == [at]
    assert out[at].bit_count() == 1


def test_corruption_has_its_probability() -> None:
    out = bytes_of(play(linked(1, Corrupt(0.1)).upstream, [(0.0, bytes(100_000))]))
    assert sum(byte.bit_count() for byte in out) == pytest.approx(10_000, rel=0.05)
    always = bytes_of(play(linked(1, Corrupt(1.0)).upstream, [(0.0, bytes(100))]))
    assert all(byte.bit_count() == 1 for byte in always)


@given(seeds, st.floats(0, 1e-30, exclude_min=True))
def test_corruption_may_be_as_rare_as_a_number_can_say(seed: int, probability: float) -> None:
    assert bytes_of(play(linked(seed, Corrupt(probability)).upstream, [(0.0, bytes(1000))])) == bytes(1000)


@given(seeds, st.integers(0, 300), harmless, chunks)
def test_a_cut_lets_so_many_bytes_pass(
    seed: int, after: int, others: tuple[Fault, ...], arrivals: list[tuple[float, bytes]]
) -> None:
    sent = b"".join(data for _, data in arrivals)
    link = linked(seed, *others, Cut(after, how="close"))
    assert bytes_of(play(link.upstream, arrivals)) == sent[:after]
    assert link.verdict(0.0) == ("close" if len(sent) >= after else None)


def test_a_cut_goes_on_counting_when_other_faults_change() -> None:
    link = linked(0, Cut(5))
    assert bytes_of(play(link.upstream, [(0.0, b"abc")])) == b"abc"
    link.change(by_name((Latency(0.1), Cut(5))), 1.0)
    assert bytes_of(play(link.upstream, [(0.0, b"defg")])) == b"de"
    assert link.verdict(2.0) == "reset"


def test_a_stall_holds_bytes_and_ends_until_it_is_lifted() -> None:
    link = linked(0, Stall())
    assert play(link.upstream, [(0.0, b"held")], end=True) == []
    assert link.upstream.size == 4
    link.change({}, 60.0)
    assert taken(link.upstream, 60.0, math.inf) == [(60.0, b"held"), (60.0, Mark.END)]
    assert link.verdict(60.0) is None


def test_a_blackhole_swallows_bytes_and_ends() -> None:
    link = linked(0, Blackhole())
    assert bytes_of(play(link.upstream, [(0.0, b"gone")])) == b""
    assert link.upstream.size == 0
    assert all(piece == b"" for _, piece in play(link.downstream, [], end=True))
    assert link.verdict(1e9) is None


def test_a_stream_with_a_hole_in_it_is_reset_when_the_blackhole_is_lifted() -> None:
    link = linked(0, Blackhole(direction="upstream"))
    play(link.upstream, [(0.0, b"gone")])
    link.change({}, 1.0)
    assert link.verdict(1.0) == "reset"


def test_a_blackhole_that_swallowed_nothing_leaves_the_connection_whole() -> None:
    link = linked(0, Blackhole())
    link.change({}, 1.0)
    assert link.verdict(1.0) is None
    assert bytes_of(play(link.upstream, [(0.0, b"kept")])) == b"kept"


def test_a_reset_comes_in_its_time() -> None:
    link = linked(0, Reset(5.0), at=100.0)
    assert link.due() == 105.0
    assert link.verdict(104.9) is None
    assert link.verdict(105.0) == "reset"


def test_a_vanished_side_is_not_told_of_and_stays_gone() -> None:
    link = linked(0, HalfOpen("server"))
    assert link.gone == "server"
    assert bytes_of(play(link.upstream, [(0.0, b"hello?")])) == b""
    assert link.verdict(1e9) is None
    link.change({}, 1.0)
    assert link.verdict(1.0) == "reset"


def test_a_half_open_connection_is_done_when_the_one_that_was_left_leaves() -> None:
    """An orderly end says less: it may be half a close, and nobody is there to answer it."""
    link = linked(0, HalfOpen("server"))
    link.ended(link.upstream, Mark.END, 1.0)
    assert link.verdict(1e9) is None
    link.ended(link.upstream, Mark.RESET, 1.0)
    assert link.verdict(1.0) == "done"


def test_what_cannot_be_passed_on_is_thrown_away_and_the_sender_told() -> None:
    """After what was sent to it before. The kernel may report the reset to the writer alone."""
    link = linked(0)
    link.upstream.feed(b"more", 0.0)
    link.lost(link.upstream, 0.0)
    assert bytes_of(taken(link.upstream, 0.0, math.inf)) == b""
    link.downstream.feed(b"last words", 0.0)
    link.ended(link.downstream, Mark.END, 0.0)
    assert taken(link.downstream, 0.0, math.inf) == [(0.0, b"last words"), (0.0, Mark.RESET)]


def test_an_orderly_end_is_not_the_last_word_of_a_server_that_is_found_to_be_gone() -> None:
    link = linked(0)
    link.ended(link.downstream, Mark.END, 0.0)
    assert taken(link.downstream, 0.0, math.inf) == [(0.0, Mark.END)]
    link.lost(link.upstream, 1.0)
    assert taken(link.downstream, 1.0, math.inf) == [(1.0, Mark.RESET)]


# --- what an end waits for ------------------------------------------------------------------------


def at_its_end(*faults: Fault) -> Link:
    """Three bytes came from the server, and then a reset."""
    link = linked(0, *faults)
    link.downstream.feed(b"abc", 0.0)
    link.ended(link.downstream, Mark.RESET, 0.0)
    for _, out in taken(link.downstream, 0.0, math.inf):
        if isinstance(out, Mark):
            link.passed_on(link.downstream, out)
    return link


@pytest.mark.parametrize("faults", [(), (Cut(3),), (Cut(3, how="close"),), (Cut(3), Reset(60.0))])
def test_an_end_after_bytes_waits_for_their_arrival(faults: tuple[Fault, ...]) -> None:
    link = at_its_end(*faults)
    assert link.verdict(1.0) is not None
    assert link.promised is link.downstream


def test_an_end_at_once_waits_for_nothing() -> None:
    """Also if the connection was about to end after bytes."""
    link = at_its_end()
    link.cut("close")
    assert (link.verdict(1.0), link.promised) == ("reset", None)
    link = at_its_end(Cut(3, how="close"))
    link.change(by_name((Reset(2.0), Cut(3, how="close"))), 1.0)
    assert (link.verdict(2.9), link.promised) == ("close", link.downstream)
    assert (link.verdict(3.0), link.promised) == ("close", None)
    link = linked(0)
    link.downstream.feed(b"abc", 0.0)
    link.cut("reset")
    assert (link.verdict(0.0), link.promised) == ("reset", None)


# --- who is struck, and since when ----------------------------------------------------------------


@given(seeds)
def test_toxicity_0_strikes_none_and_1_all(seed: int) -> None:
    link = linked(seed, Reset(0, toxicity=0.0))
    assert link.due() == math.inf
    assert link.verdict(1e9) is None
    assert linked(seed, Reset(0, toxicity=1.0)).verdict(0.0) == "reset"


def test_toxicity_is_a_probability() -> None:
    struck = [seed for seed in range(2000) if linked(seed, Blackhole(toxicity=0.3)).upstream.swallows]
    assert len(struck) == pytest.approx(600, rel=0.15)


def test_what_was_drawn_stays_while_the_fault_does() -> None:
    """A change of other faults does not throw the dice again."""
    fault = Stall(toxicity=0.5)
    link = Link(Random(3))
    first = link.change(by_name((fault,)), 0.0)
    for n in range(20):
        link.change(by_name((fault, Latency(n))), 0.0)
        link.upstream.feed(b"x", 0.0)
        assert (link.upstream.due() == math.inf) == bool(first)


def test_lifting_a_latency_lets_what_waits_pass_at_once() -> None:
    link = linked(0, Latency(60.0))
    link.upstream.feed(b"late", 0.0)
    assert link.upstream.due() == 60.0
    link.change({}, 1.0)
    assert link.upstream.due() <= 1.0
    assert link.upstream.take(1.0) == b"late"


def test_a_latency_holds_back_what_is_already_on_its_way() -> None:
    link = linked(0)
    link.upstream.feed(b"early", 0.0)
    link.change(by_name((Latency(5.0),)), 0.0)
    assert link.upstream.due() == 5.0


def test_a_direction_is_left_alone_by_what_strikes_the_other() -> None:
    link = linked(0, Blackhole(direction="upstream"))
    assert bytes_of(play(link.downstream, [(0.0, b"through")])) == b"through"
