"""The policy of distribution, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.message_service.distribution import Direct, Fanout, Plan, Scheduled, World, plan
from examples.message_service.errors import ErrorCode, InvalidInput


def people(count: int) -> tuple[str, ...]:
    return tuple(f"user-{number}" for number in range(count))


PLANS = {
    "single": ("single", people(2), Direct(people(2))),
    "group of one": ("group", people(1), Fanout(people(1))),
    "group at the limit": ("group", people(500), Fanout(people(500))),
    "group above the limit": ("group", people(501), Scheduled((people(500), people(501)[500:]))),
    "group of two limits": ("group", people(1000), Scheduled((people(500), people(1000)[500:]))),
    "world": ("world", (), World()),
}

REFUSED = {
    "unknown kind": ("broadcast", people(2), "kind: one of single, group, world, not 'broadcast'"),
    "kind in capitals": ("GROUP", people(2), "not 'GROUP'"),
    "no kind": ("", (), "not ''"),
    "single alone": ("single", people(1), "a single session has 2, not 1"),
    "single of three": ("single", people(3), "a single session has 2, not 3"),
    "empty group": ("group", (), "a group has at least 1"),
    "world with a list": ("world", people(3), "this one names 3"),
    "twice": ("group", ("ada", "ada"), "named twice"),
}


@pytest.mark.parametrize(("kind", "members", "expected"), PLANS.values(), ids=PLANS)
def test_the_kind_and_the_number_of_members_decide(kind: str, members: tuple[str, ...], expected: Plan) -> None:
    """Single and small groups at once, large groups in batches, the world on its own."""
    assert plan(kind, members) == expected


@pytest.mark.parametrize(("kind", "members", "complaint"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_delivered_is_invalid_input(kind: str, members: tuple[str, ...], complaint: str) -> None:
    """An unknown kind, or members that do not go with it, are answered with what is wrong."""
    with pytest.raises(InvalidInput) as refused:
        plan(kind, members)
    assert refused.value.code is ErrorCode.INVALID_INPUT
    assert complaint in refused.value.message


@given(count=st.integers(1, 60), limit=st.integers(1, 20))
def test_each_member_of_a_group_is_in_one_batch_and_none_is_larger_than_the_limit(count: int, limit: int) -> None:
    """Whatever its size and the limit, a plan names each member once, in order."""
    match plan("group", people(count), realtime_group_limit=limit):
        case Fanout(members):
            batches: tuple[tuple[str, ...], ...] = (members,)
        case Scheduled(batches):
            assert count > limit
        case other:
            raise AssertionError(other)
    assert sum(batches, ()) == people(count)
    assert all(0 < len(batch) <= limit for batch in batches)
