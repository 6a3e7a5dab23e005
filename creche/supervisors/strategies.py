"""Which children restart when one crashes: pure policy, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

Strategy = Literal["one_for_one", "rest_for_one"]

# strategy -> index of the first child of the group to restart, given the crashed one's; None: that child alone, by
# itself
FIRST_OF_GROUP: Mapping[Strategy, Callable[[int], int | None]] = MappingProxyType(
    {
        "one_for_one": lambda crashed: None,
        "rest_for_one": lambda crashed: crashed,
    }
)
