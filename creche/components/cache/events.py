"""What the cache tells on the runtime's event hook. Keys appear in it, values never."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.events import Event
from .errors import LossReason


@dataclass(frozen=True, slots=True)
class LoadFailed(Event):
    """A load of `get_or_load` raised, or took too long. `stale`: there is an old value, which is served meanwhile."""

    key: str
    error: str
    stale: bool


@dataclass(frozen=True, slots=True)
class EntryReplaced(Event):
    """What was cached under the key could not be read as the type asked for, so `get_or_load` loads it anew."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class LockWasLost(Event):
    """A lock was lost while its holder still worked; the holder is cancelled and gets `LockLost`."""

    key: str
    token: int
    reason: LossReason
