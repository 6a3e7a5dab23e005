"""What uid tells on the runtime's event hook. Ids never appear in it."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.events import Event


@dataclass(frozen=True, slots=True)
class WorkerIdLeased(Event):
    """Snowflakes have this worker id from now on, and times after `mark`, in Unix milliseconds."""

    worker_id: int
    mark: int


@dataclass(frozen=True, slots=True)
class WorkerIdWasLost(Event):
    """The worker id has gone to another process; a new one is leased next."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class IdsUnavailable(Event):
    """The promise in the state file cannot be moved on, or no worker id is free: ids end at the present mark."""

    error: str


@dataclass(frozen=True, slots=True)
class IdsAvailable(Event):
    """Ids can be issued again."""
