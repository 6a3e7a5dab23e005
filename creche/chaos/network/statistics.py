"""What a proxy has done so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counted over all incarnations of the proxy, but for what is said to be of this moment.

    `open` connections of this moment; `total` that were ever accepted; `unreachable` those for which the server could
    not be reached. `upstream` and `downstream` are bytes passed on to the server and to the client, `swallowed` those
    that went nowhere, and `waiting` those that wait at this moment. `struck` says how many connections each fault has
    struck, by the fault's name. `listening` is False while connections are refused.
    """

    open: int
    total: int
    unreachable: int
    upstream: int
    downstream: int
    swallowed: int
    waiting: int
    struck: Mapping[str, int]
    listening: bool
