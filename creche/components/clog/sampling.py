"""Which of many equal lines are written: the first few in each tick, then every so-manieth (zap's rule).

Pure apart from its counts; the clock is passed in. Nothing is left out unseen: the next line of the kind that is
written says how many were.
"""

from __future__ import annotations

from .config import Sampling

Kind = tuple[object, ...]

_KINDS = 4096  # messages that are data, not constants of the code, must not fill the memory
_OTHERS: Kind = ("others",)


class Sampler:
    """For one thread at a time. `now` is in seconds of any clock."""

    def __init__(self, config: Sampling) -> None:
        self._config = config
        self._until = 0.0
        self._seen: dict[Kind, int] = {}  # in this tick
        self._left_out: dict[Kind, int] = {}  # since the last line of the kind that was written

    def admits(self, kind: Kind, now: float) -> bool:
        """Whether the next line of this kind is written."""
        if not self._until - self._config.tick <= now < self._until:  # also after the clock was set back
            self._seen.clear()
            self._until = now + self._config.tick
        kind = self._bounded(kind)
        seen = self._seen[kind] = self._seen.get(kind, 0) + 1
        beyond, every = seen - self._config.first, self._config.thereafter
        if beyond <= 0 or (every and beyond % every == 0):
            return True
        self._left_out[kind] = self._left_out.get(kind, 0) + 1
        return False

    def left_out(self, kind: Kind) -> int:
        """How many lines of this kind were left out since this was last asked."""
        return self._left_out.pop(self._bounded(kind), 0) if self._left_out else 0

    def _bounded(self, kind: Kind) -> Kind:
        if kind in self._seen or kind in self._left_out:
            return kind
        return kind if len(self._seen) + len(self._left_out) < _KINDS else _OTHERS
