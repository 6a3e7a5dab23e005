"""What a fault does to the bytes of one direction of one connection.

An effect is asked about the piece of bytes that would pass next, and told about each one that does. It knows no I/O,
takes the time as an argument, and has a random generator of its own, so that what it draws depends on nothing but the
seed and the bytes before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any, Generic, TypeVar, final

from .faults import Blackhole, Corrupt, Cut, Ending, Fault, HalfOpen, Latency, Rate, Slicer, SlowClose, Stall

F = TypeVar("F", bound=Fault)

PORTIONS = 50
"""Into so many portions a rate divides a second."""
_NO_LIMIT = 2**62


class Effect(Generic[F]):
    """Neutral: everything passes at once and as it is. Each kind overrides what it changes."""

    swallows = False
    """Whether bytes and ends of streams go nowhere."""

    def __init__(self, fault: F, random: Random) -> None:
        self.fault = fault
        self.random = random

    def begins(self) -> None:
        """The next thing in line has come to its head."""

    def delay(self, is_end: bool) -> float:
        """By how many seconds what is at the head arrives later than it was read. Delays of several effects add up."""
        return 0.0

    def not_before(self) -> float:
        """Nothing passes before this time."""
        return 0.0

    def most(self) -> int:
        """How many bytes may pass in one piece."""
        return _NO_LIMIT

    def passes(self, piece: bytes, now: float) -> bytes:
        """A piece passes, of at most so many bytes; returns what comes out in its place, of the same length."""
        return piece

    def ending(self) -> Ending | None:
        """How the connection is to end now, if it is."""
        return None


@final
class _Latency(Effect[Latency]):
    _drawn = 0.0

    def begins(self) -> None:
        self._drawn = self.random.uniform(-self.fault.jitter, self.fault.jitter)

    def delay(self, is_end: bool) -> float:
        return self.fault.seconds + self._drawn


@final
class _Rate(Effect[Rate]):
    """A token bucket that holds one portion."""

    _free_at = 0.0

    def not_before(self) -> float:
        return self._free_at

    def most(self) -> int:
        return max(1, int(self.fault.bytes_per_second / PORTIONS))

    def passes(self, piece: bytes, now: float) -> bytes:
        self._free_at = now + len(piece) / self.fault.bytes_per_second
        return piece


@final
class _Stall(Effect[Stall]):
    def not_before(self) -> float:
        return math.inf


@final
class _Swallow(Effect[Fault]):
    swallows = True


@final
class _Cut(Effect[Cut]):
    def __init__(self, fault: Cut, random: Random) -> None:
        super().__init__(fault, random)
        self._left = fault.after

    def most(self) -> int:
        return self._left

    def passes(self, piece: bytes, now: float) -> bytes:
        self._left = max(0, self._left - len(piece))  # more than the rest may be swallowed at once
        return piece

    def ending(self) -> Ending | None:
        return None if self._left else self.fault.how


@final
class _Corrupt(Effect[Corrupt]):
    """The gaps between flipped bits are drawn (geometrically), so that it does not matter how bytes are read."""

    def __init__(self, fault: Corrupt, random: Random) -> None:
        super().__init__(fault, random)
        self._offset = 0
        self._flips: dict[int, int] = {}  # {offset: mask}, of those that are to come
        if fault.at is not None:
            self._flips[fault.at] = self._mask()
        self._next = -1.0
        self._draw()

    def passes(self, piece: bytes, now: float) -> bytes:
        begin, end = self._offset, self._offset + len(piece)
        while self._next < end:
            self._flips.setdefault(int(self._next), self._mask())
            self._draw()
        self._offset = end
        now_due = [offset for offset in self._flips if offset < end]
        if not now_due:
            return piece
        flipped = bytearray(piece)
        for offset in now_due:
            flipped[offset - begin] ^= self._flips.pop(offset)
        return bytes(flipped)

    def _draw(self) -> None:
        """The next offset to be struck."""
        p = self.fault.probability
        if p == 0.0:
            self._next = math.inf
        elif p < 1.0:
            gap = math.log(1.0 - self.random.random()) / math.log1p(-p)
            self._next += 1 + math.floor(gap) if gap < _NO_LIMIT else math.inf
        else:
            self._next += 1

    def _mask(self) -> int:
        return 1 << self.random.randrange(8)


@final
class _Slicer(Effect[Slicer]):
    _size = 0
    _free_at = 0.0

    def not_before(self) -> float:
        return self._free_at

    def most(self) -> int:
        if not self._size:
            variation = self.fault.variation
            self._size = self.fault.size + self.random.randint(-variation, variation)
        return self._size

    def passes(self, piece: bytes, now: float) -> bytes:
        self._size = 0
        self._free_at = now + self.fault.pause
        return piece


@final
class _SlowClose(Effect[SlowClose]):
    def delay(self, is_end: bool) -> float:
        return self.fault.seconds if is_end else 0.0


_EFFECTS: dict[type[Fault], Callable[[Any, Random], Effect[Any]]] = {
    Latency: _Latency,
    Rate: _Rate,
    Stall: _Stall,
    Blackhole: _Swallow,
    HalfOpen: _Swallow,
    Cut: _Cut,
    Corrupt: _Corrupt,
    Slicer: _Slicer,
    SlowClose: _SlowClose,
}


def effect_of(fault: Fault, random: Random) -> Effect[Any]:
    """The effect of a fault on one direction; neutral for what concerns the whole connection only."""
    return _EFFECTS.get(type(fault), Effect)(fault, random)
