"""What of a partition is done: pure. No log in here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from creche.components.mq.message import Received
from creche.components.mq.progress import Entry, Partition, Window

KEYS = (None, b"a", b"b", b"c")


def record(offset: int, key: bytes | None = None) -> Received:
    return Received("t", b"%d" % offset, key, partition=0, offset=offset, time=0.0)


def offsets(entries: list[Entry]) -> list[int]:
    return [entry.record.offset for entry in entries]


def test_keys_go_side_by_side_and_each_one_in_order() -> None:
    """One record of each key is out, and every record without a key; the next one comes with the end of the first."""
    window = Window(5, by_key=True)
    out = window.add([record(5, b"a"), record(6, b"a"), record(7, b"b"), record(8), record(9)])
    assert offsets(out) == [5, 7, 8, 9]
    following = window.finish(out[0])
    assert following is not None
    assert following.record.offset == 6
    assert window.finish(following) is None


def test_in_the_order_of_the_partition_one_is_out() -> None:
    """Whatever their keys are."""
    window = Window(0, by_key=False)
    (first,) = window.add([record(0, b"a"), record(1, b"b"), record(2)])
    second = window.finish(first)
    assert second is not None
    assert second.record.offset == 1


def test_done_is_contiguously_done() -> None:
    """What is done behind a record that is not counts only when that is done; it holds its place until then."""
    window = Window(0, by_key=True)
    first, second, third = window.add([record(0), record(1), record(2)])
    window.finish(third)
    window.finish(second)
    assert (window.done, len(window)) == (0, 3)
    window.finish(first)
    assert (window.done, len(window), window.size) == (3, 0, 0)


def test_gaps_between_offsets_are_no_matter() -> None:
    """Retention, and in Kafka compaction and transactions, leave gaps."""
    window = Window(0, by_key=True)
    first, second = window.add([record(10), record(20)])
    assert (window.done, window.position) == (10, 21)
    window.finish(first)
    assert window.done == 20
    window.finish(second)
    assert window.done == 21


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 3)), max_size=30), st.booleans(), st.data())
def test_any_order_of_ends_commits_nothing_that_is_not_done(
    spec: list[tuple[bytes | None, int]], by_key: bool, data: st.DataObject
) -> None:
    """And hands out everything once, each lane in order; at the end everything is done."""
    window = Window(0, by_key=by_key)
    records: list[Received] = []
    for key, step in spec:
        records.append(record((records[-1].offset if records else 0) + step, key))
    out: list[Entry] = []
    done: set[int] = set()
    handed: list[Received] = []
    waiting = list(records)
    while waiting or out:
        if waiting and (not out or data.draw(st.booleans())):
            batch = data.draw(st.integers(1, len(waiting)))
            new = window.add(waiting[:batch])
            waiting = waiting[batch:]
        else:
            entry = out.pop(data.draw(st.integers(0, len(out) - 1)))
            done.add(entry.record.offset)
            following = window.finish(entry)
            new = [] if following is None else [following]
        out += new
        handed += [entry.record for entry in new]
        assert all(r.offset in done for r in records if r.offset < window.done)
        lanes = [entry.record.key if by_key else None for entry in out if not (by_key and entry.record.key is None)]
        assert len(lanes) == len(set(lanes))
    assert sorted(r.offset for r in handed) == [r.offset for r in records]
    for key in KEYS[1:]:
        of_key = [r.offset for r in handed if r.key == key]
        assert of_key == sorted(of_key)
    assert window.done == window.position
    assert (len(window), window.size) == (0, 0)


async def test_who_waits_for_a_partition_to_be_idle_waits_for_handlers_and_letters() -> None:
    """Both are work that may still end well."""
    partition = Partition(("t", 0), 0, by_key=True)
    (entry,) = partition.window.add([record(0)])
    partition.scopes[entry] = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partition.wait_idle)
        await wait_all_tasks_blocked()
        partition.aside.append(entry)
        del partition.scopes[entry]
        partition.tell_if_idle()
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        partition.aside.remove(entry)
        partition.tell_if_idle()


@pytest.mark.parametrize(("change", "counts", "may_begin"), [("leave", True, False), ("lose", False, False)])
async def test_what_becomes_of_entries_when_a_partition_goes(change: str, counts: bool, may_begin: bool) -> None:
    """Given away: what runs still counts, nothing begins. Lost: nothing counts, and what runs is cancelled."""
    partition = Partition(("t", 0), 0, by_key=True)
    entry, other = partition.window.add([record(0), record(1)])
    partition.scopes[entry] = trio.CancelScope()
    getattr(partition, change)()
    assert (partition.counts(entry), partition.may_begin(other)) == (counts, may_begin)
    assert partition.scopes[entry].cancel_called is (change == "lose")


def test_who_leaves_finishes_what_was_passed_over() -> None:
    """Records before one that is done or runs are still begun, for they would make that be done again; no others."""
    partition = Partition(("t", 0), 0, by_key=True)
    window = partition.window
    a0, b1, c3 = window.add([record(0, b"a"), record(1, b"b"), record(2, b"a"), record(3, b"c"), record(4, b"a")])
    partition.scopes[a0] = trio.CancelScope()
    window.finish(b1)
    window.finish(c3)
    partition.leave()
    del partition.scopes[a0]
    a2 = window.finish(a0)
    assert a2 is not None
    assert partition.may_begin(a2)
    assert not partition.is_idle()
    a4 = window.finish(a2)
    assert a4 is not None
    assert not partition.may_begin(a4)
    assert partition.is_idle()
    assert window.done == 4


@pytest.mark.parametrize("how", ["waits before", "waits after", "paused before", "paused after", "seek", "at once"])
def test_what_would_have_to_wait_ends_that(how: str) -> None:
    """Nothing that could not be committed is begun behind it."""
    partition = Partition(("t", 0), 0, by_key=True)
    first, second, third = partition.window.add([record(0), record(1), record(2)])
    partition.window.finish(third)
    first.waits = how == "waits before"
    if how == "paused before":
        partition.hold(first)
    partition.leave()
    if not how.endswith("before"):
        assert partition.may_begin(first)
        assert not partition.is_idle()
        steps: dict[str, Callable[[], object]] = {
            "waits after": lambda: partition.end_before(first),
            "paused after": lambda: partition.hold(first),
            "seek": lambda: partition.seek(5),
            "at once": partition.leave_at_once,
        }
        steps[how]()
    assert not partition.may_begin(first)
    assert not partition.may_begin(second)
    assert partition.is_idle()


@given(st.lists(st.sampled_from(KEYS), min_size=1, max_size=20), st.data())
def test_whoever_leaves_in_peace_has_done_nothing_beyond_its_last_commit(
    keys: list[bytes | None], data: st.DataObject
) -> None:
    """Whatever had begun when it was told to leave, and in whatever order things end."""
    partition = Partition(("t", 0), 0, by_key=True)
    out = partition.window.add([record(offset, key) for offset, key in enumerate(keys)])
    leave_after = data.draw(st.integers(0, len(keys)))
    done: set[int] = set()
    while True:
        if len(done) == leave_after and not partition.leaving:
            partition.leave()
        out = [entry for entry in out if entry in partition.scopes or partition.may_begin(entry)]
        if not out:
            break
        entry = data.draw(st.sampled_from(out))
        if entry not in partition.scopes and data.draw(st.booleans()):
            partition.scopes[entry] = trio.CancelScope()
            continue
        out.remove(entry)
        partition.scopes.pop(entry, None)
        following = partition.window.finish(entry)
        done.add(entry.record.offset)
        out += [] if following is None else [following]
    assert partition.is_idle()
    assert partition.window.done == len(done)
    assert done == set(range(len(done)))


def test_a_seek_makes_what_is_out_stale() -> None:
    """And nothing new is fetched before it has ended."""
    partition = Partition(("t", 0), 0, by_key=True)
    (entry,) = partition.window.add([record(0)])
    partition.scopes[entry] = trio.CancelScope()
    partition.seek(7)
    assert not partition.counts(entry)
    assert partition.is_due()
    assert partition.window.position == 7
    assert not partition.is_hungry(10, 10)
    partition.scopes.clear()
    assert partition.is_hungry(10, 10)
