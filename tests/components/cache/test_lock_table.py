"""The table of locks: every step of its states, and random histories against a model."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from creche.components.cache.lock_table import Grant, LockTable


def new_table() -> LockTable:
    return LockTable(itertools.count(1).__next__)


def test_a_lock_is_held_until_it_is_released() -> None:
    """Nobody else gets it before."""
    table = new_table()
    assert table.acquire("l", 10, now=0) == Grant(1, 10, 10)
    assert table.acquire("l", 10, now=5) is None
    assert table.release("l", 1, now=6) is True
    assert table.acquire("l", 10, now=6) == Grant(2, 10, 16)


def test_or_until_its_time_is_up() -> None:
    """At that very moment it is free; renewed, it is held from then on for another ttl."""
    table = new_table()
    table.acquire("l", 10, now=0)
    assert table.renew("l", 1, now=9) is True
    assert table.acquire("l", 10, now=18) is None
    assert table.acquire("l", 10, now=19) == Grant(2, 10, 29)


def test_an_old_token_does_nothing() -> None:
    """Neither renewing nor releasing: the new holder is not concerned."""
    table = new_table()
    table.acquire("l", 10, now=0)
    table.acquire("l", 10, now=10)
    assert table.renew("l", 1, now=11) is False
    assert table.release("l", 1, now=11) is False
    assert table.holder("l", now=11) == Grant(2, 10, 20)


def test_too_late_is_too_late() -> None:
    """A lock that has expired cannot be renewed or released, although nobody has taken it."""
    for act in (LockTable.renew, LockTable.release):
        table = new_table()
        table.acquire("l", 10, now=0)
        assert act(table, "l", 1, 10) is False
        assert table.holder("l", 10) is None
        assert len(table) == 0


ACT = st.tuples(
    st.sampled_from(["acquire", "renew", "release"]),
    st.sampled_from(["a", "b"]),
    st.integers(1, 6),  # a token, held or not
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),  # a pause before it
)


@given(st.lists(ACT, max_size=40))
def test_random_histories(history: list[tuple[str, str, int, float]]) -> None:
    """At most one holder, by the model's clock; tokens rise, and only the holder's does anything."""
    table, now = new_table(), 0.0
    model: dict[str, tuple[int, float]] = {}
    last = 0
    for act, key, token, pause in history:
        now += pause
        held = model.get(key)
        if held is not None and held[1] <= now:
            held = model.pop(key, None) and None
        mine = held is not None and held[0] == token
        if act == "acquire":
            grant = table.acquire(key, 2.0, now)
            assert (grant is None) == (held is not None)
            if grant is not None:
                assert grant.token > last
                last = grant.token
                model[key] = (grant.token, now + 2.0)
        elif act == "renew":
            assert table.renew(key, token, now) == mine
            if mine:
                model[key] = (token, now + 2.0)
        else:
            assert table.release(key, token, now) == mine
            if mine:
                del model[key]
