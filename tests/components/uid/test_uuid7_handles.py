"""UUIDv7 from the handle, the module and many threads.

The component writes its state file in worker threads, so these tests run in real time.
"""

from __future__ import annotations

import importlib
import os
import threading
from functools import partial
from typing import Any
from uuid import UUID

import pytest

import creche
from creche.components import uid as u
from tests.components.uid.support import Clock


def test_uuid7_ascends_within_a_thread() -> None:
    """Single ids and batches, from the module and from a handle, are one ascending sequence."""
    uid = u.Uid("uid")
    ids: list[UUID] = []
    for _ in range(200):
        ids += [u.uuid7(), *uid.take_uuid7(5), uid.uuid7()]
    assert ids == sorted(set(ids))
    assert len(ids) == 1400
    assert all(u.is_uuid7(str(one)) and uid.is_uuid7(str(one)) for one in ids)
    assert uid.take_uuid7(0) == []
    with pytest.raises(ValueError, match="-1"):
        uid.take_uuid7(-1)


def test_uuid7_serves_many_threads() -> None:
    """Each thread's ids ascend, and no id is made twice."""
    made: list[list[UUID]] = [[] for _ in range(8)]

    def make(mine: list[UUID]) -> None:
        mine.extend(u.uuid7() for _ in range(2000))

    threads = [threading.Thread(target=partial(make, mine)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in made)
    assert len({one for mine in made for one in mine}) == 16_000


def test_the_policy_module_does_not_hide_the_function() -> None:
    """`c.uid.uuid7` is the function, although a module of the package has the same name."""
    importlib.import_module("creche.components.uid.uuid7")
    assert u.is_uuid7(str(u.uuid7()))


def unix_ms_of(uuid: UUID) -> int:
    return round(u.uuid7_time(uuid).timestamp() * 1000)


def handle_with(clock: Clock, **config: Any) -> u.Uid:
    return u.Uid("uid", u.Config(**config), clock)


def test_the_policy_follow_starts_anew_from_the_clock() -> None:
    """The default: beyond the drift, times are honest again and order breaks once."""
    clock = Clock()
    ids = handle_with(clock, uuid7_max_drift=1.0)
    first = ids.uuid7()
    clock.ms -= 1000
    assert ids.uuid7() > first, "within the drift the last time is kept"
    clock.ms -= 1
    assert unix_ms_of(ids.uuid7()) == clock.ms


def test_the_policy_hold_keeps_the_order() -> None:
    """However far the clock goes back; what it has done is in the statistics."""
    clock = Clock()
    ids = handle_with(clock, uuid7_rollback="hold")
    first = ids.uuid7()
    clock.ms -= 3_600_000
    later = ids.take_uuid7(5)
    assert [first, *later] == sorted([first, *later])
    statistics = ids.uuid7_statistics()
    assert (statistics.drift, statistics.held) == (3600.0, 5)


def test_the_policy_raise_refuses() -> None:
    """Beyond the drift; the error says by how much, and with the clock back ids go on."""
    clock = Clock()
    ids = handle_with(clock, uuid7_rollback="raise", uuid7_max_drift=0.5)
    first = ids.uuid7()
    clock.ms -= 60_000
    with pytest.raises(u.ClockMovedBack) as caught:
        ids.uuid7()
    assert caught.value.retry_after == 60.0
    clock.ms += 60_000
    assert ids.uuid7() > first


def test_a_policy_of_its_own_serves_threads_and_forked_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread and each process has a generator: none copies the counter of another."""
    clock = Clock()
    ids = handle_with(clock, uuid7_rollback="hold")
    made = [ids.uuid7() for _ in range(3)]
    worker = threading.Thread(target=lambda: made.extend(ids.uuid7() for _ in range(3)))
    worker.start()
    worker.join()
    monkeypatch.setattr(os, "getpid", lambda: -1)  # what a forked child sees: another number
    made += [ids.uuid7() for _ in range(3)]
    counters = [one.int >> 32 & ((1 << 78) - 1) for one in made]
    assert counters[1] == counters[0] + 1
    assert counters[3] not in range(counters[0], counters[0] + 1000)
    assert counters[6] not in range(counters[0], counters[0] + 1000)
    assert len(set(made)) == 9


@pytest.mark.parametrize(
    ("values", "where"),
    [({"uuid7_rollback": "borrow"}, r"\$\.uuid7_rollback"), ({"uuid7_max_drift": -1.0}, r"\$\.uuid7_max_drift")],
)
def test_a_policy_that_is_none_is_refused(values: dict[str, Any], where: str) -> None:
    """Before anything starts, with its place."""
    with pytest.raises(creche.ConfigInvalid, match=where):
        u.component(u.Config(**values))
