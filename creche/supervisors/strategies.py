"""Which children restart when one crashes: pure policy, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
STRATEGIES: tuple[Strategy, ...] = ("one_for_one", "one_for_all", "rest_for_one")

# strategy -> index of the first child of the group to restart, given the crashed one's. Without an entry there is no
# group: the crashed child restarts alone, and by itself.
FIRST_OF_GROUP: Mapping[Strategy, Callable[[int], int]] = MappingProxyType(
    {
        "one_for_all": lambda crashed: 0,
        "rest_for_one": lambda crashed: crashed,
    }
)
