"""What a consumer tells about records that it could not handle."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.events import Event
from .retry import Action


@dataclass(frozen=True, slots=True)
class RecordFailed(Event):
    """A handler raised `error` (one line), and this is what follows.

    `delay` is in seconds, for ``"retry"``. `attempt` counts as `Received.attempt`. `group` is the consumer's.
    """

    group: str
    topic: str
    partition: int
    offset: int
    attempt: int
    error: str
    action: Action
    delay: float
