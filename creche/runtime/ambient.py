"""What a runtime takes from the system around it: the wall clock, and randomness that keeps processes apart.

The one place of the core that reads either. A deterministic run has its own, see `simulation`.
"""

from __future__ import annotations

import secrets
import time
from typing import Protocol


class Ambient(Protocol):
    """Where a runtime's wall clock and its random bits come from."""

    def wall_clock(self) -> float:
        """Seconds since 1970."""
        ...

    def stopwatch(self) -> float:
        """Seconds that only go forward: for how long code takes. In any thread."""
        ...

    def randbits(self, k: int) -> int:
        """`k` random bits."""
        ...


class System:
    """The system that the process runs on."""

    def wall_clock(self) -> float:
        """See `Ambient`."""
        return time.time()

    def stopwatch(self) -> float:
        """See `Ambient`."""
        return time.perf_counter()

    def processor(self) -> float:
        """Seconds that all threads of this process have been at work. For the watchdog, which a run never has."""
        return time.process_time()

    def randbits(self, k: int) -> int:
        """See `Ambient`."""
        return secrets.randbits(k)
