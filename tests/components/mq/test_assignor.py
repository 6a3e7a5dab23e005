"""Who reads what: tables and properties of a pure function."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.components.mq.assignor import assign
from creche.components.mq.message import TopicPartition

T = frozenset(["t"])
Owners = dict[TopicPartition, str]


def of_t(count: int) -> list[TopicPartition]:
    return [("t", number) for number in range(count)]


def shares(target: Owners) -> dict[str, int]:
    return dict(Counter(target.values()))


@pytest.mark.parametrize(
    ("members", "partitions", "sizes"),
    [("a", 3, [3]), ("ab", 3, [1, 2]), ("abc", 3, [1, 1, 1]), ("abcd", 3, [1, 1, 1]), ("ab", 0, [])],
)
def test_partitions_are_shared_evenly(members: str, partitions: int, sizes: list[int]) -> None:
    """Nobody has two more than another; who comes last may have none."""
    target = assign(dict.fromkeys(members, T), of_t(partitions), {})
    assert sorted(shares(target).values()) == sizes
    assert len(target) == partitions


def test_a_new_member_takes_only_its_share() -> None:
    """Of six partitions of two members, a third one gets two, one of each; the others stay."""
    before = assign(dict.fromkeys("ab", T), of_t(6), {})
    after = assign(dict.fromkeys("abc", T), of_t(6), before)
    moved = {place for place in before if before[place] != after[place]}
    assert shares(after) == {"a": 2, "b": 2, "c": 2}
    assert len(moved) == 2


def test_members_get_only_topics_that_they_want() -> None:
    """Also if that leaves them uneven; a topic that nobody wants is nobody's."""
    places = [("t", 0), ("t", 1), ("u", 0), ("u", 1), ("v", 0)]
    target = assign({"a": frozenset("tu"), "b": frozenset("u")}, places, {})
    assert target == {("t", 0): "a", ("t", 1): "a", ("u", 0): "b", ("u", 1): "b"}


topics = st.frozensets(st.sampled_from("tuv"), min_size=1)
groups = st.dictionaries(st.sampled_from("abcde"), topics, min_size=1)
counts = st.dictionaries(st.sampled_from("tuv"), st.integers(1, 7))


@given(counts, groups, groups)
def test_any_group_is_balanced_and_moves_nothing_needlessly(
    counts: dict[str, int], before: dict[str, frozenset[str]], after: dict[str, frozenset[str]]
) -> None:
    """Each wanted partition has one owner who wants it; none can be moved to better; doing it again changes nothing."""
    places = [(topic, number) for topic, count in counts.items() for number in range(count)]
    target = assign(after, places, assign(before, places, {}))
    assert set(target) == {place for place in places if any(place[0] in wanted for wanted in after.values())}
    loads = dict.fromkeys(after, 0) | shares(target)
    for place, owner in target.items():
        assert place[0] in after[owner]
        takers = [member for member, wanted in after.items() if place[0] in wanted]
        assert loads[owner] - min(loads[member] for member in takers) < 2
    assert assign(after, places, target) == target


@given(st.integers(1, 6), st.integers(0, 12))
def test_what_a_leaving_member_had_is_all_that_moves(members: int, partitions: int) -> None:
    """The others keep what they have."""
    names = "abcdef"[:members]
    before = assign(dict.fromkeys(names, T), of_t(partitions), {})
    if members > 1:
        after = assign(dict.fromkeys(names[1:], T), of_t(partitions), before)
        assert all(after[place] == owner for place, owner in before.items() if owner != "a")
