"""What the db component tells on the runtime's event hook."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.events import Event


@dataclass(frozen=True, slots=True)
class SlowStatement(Event):
    """A statement took longer than `Config.slow_after`. `sql` has placeholders, never values; `seconds` it took."""

    sql: str
    seconds: float


@dataclass(frozen=True, slots=True)
class OutboxStalled(Event):
    """The relay could not pass messages on and tries again in `retry_in` seconds. Nothing is lost meanwhile."""

    error: str
    retry_in: float
