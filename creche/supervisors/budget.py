"""How many restarts are too many: pure policy, the clock is passed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..runtime.checks import require, require_number


@dataclass(frozen=True, slots=True)
class Intensity:
    """At most `restarts` restarts in `window` seconds; one more and the supervisor gives up. OTP's word and meaning."""

    restarts: int = 3
    window: float = 5.0

    def __post_init__(self) -> None:
        require_number(self, "restarts", whole=True)
        require_number(self, "window")
        require(self, "window", self.window > 0, "seconds, more than 0")


class Budget:
    """The restarts of one supervisor within the window."""

    def __init__(self, intensity: Intensity) -> None:
        self.intensity = intensity
        self._charged: deque[float] = deque()  # times, oldest first

    def charge(self, now: float) -> bool:
        """Charge one restart at `now` (monotonic seconds). False: it is one too many."""
        self._charged.append(now)
        while self._charged and self._charged[0] <= now - self.intensity.window:
            self._charged.popleft()
        return len(self._charged) <= self.intensity.restarts

    def reset(self) -> None:
        """A new incarnation of the supervisor starts with an empty count."""
        self._charged.clear()
