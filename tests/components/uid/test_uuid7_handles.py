"""UUIDv7 from the handle, the module and many threads.

The component writes its state file in worker threads, so these tests run in real time.
"""

from __future__ import annotations

import importlib
import threading
from functools import partial
from uuid import UUID

import pytest

from creche.components import uid as u


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
