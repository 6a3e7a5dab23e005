"""Which children restart when one crashes: pure policy, as data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one", "dependents"]
STRATEGIES: tuple[Strategy, ...] = ("one_for_one", "one_for_all", "rest_for_one", "dependents")
Needs = Callable[[str], Collection[str]]  # which siblings a child depends on
GroupOf = Callable[[Sequence[str], str, Needs], Sequence[str]]  # siblings in start order, and the crashed one's name


def _all(siblings: Sequence[str], crashed: str, needs: Needs) -> Sequence[str]:
    return siblings


def _rest(siblings: Sequence[str], crashed: str, needs: Needs) -> Sequence[str]:
    return siblings[siblings.index(crashed) :]


def _dependents(siblings: Sequence[str], crashed: str, needs: Needs) -> Sequence[str]:
    """It and what depends on it, on that, and so on; a dependency usually stands before, but need not."""
    edges = {name: needs(name) for name in siblings}
    group, before = {crashed}, 0
    while len(group) > before:
        before = len(group)
        group.update(name for name in siblings if not group.isdisjoint(edges[name]))
    return [name for name in siblings if name in group]


# Without an entry there is no group: the crashed child restarts alone, and by itself.
GROUP_OF: Mapping[Strategy, GroupOf] = MappingProxyType(
    {"one_for_all": _all, "rest_for_one": _rest, "dependents": _dependents}
)
