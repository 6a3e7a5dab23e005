"""The restarts that are left: pure policy, the clock is passed in."""

from __future__ import annotations

from collections import deque

from ..runtime.intensity import Intensity


class Budget:
    """The restarts of one supervisor, or of one child, within the window."""

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
        """Forget what was charged: a new incarnation of the supervisor, or a child that has been healthy."""
        self._charged.clear()
