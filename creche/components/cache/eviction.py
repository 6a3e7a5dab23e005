"""Which entries a full cache keeps: W-TinyLFU.

Theory of operation
-------------------
Einziger, Eytan, Friedman and Manes, *Adaptive software cache management*, Middleware 2018; Caffeine's policy.

    new ──▶ window ──full──▶ probation ◀──full── protected
                                 └───────used again─▲

Every segment is ordered by last use. A newcomer enters the window. Who is pushed out of the window is a *candidate*: it
goes to probation, and while the whole is too large, it competes with the *victim*, the entry of probation that was not
used for longest; the one that was used less often goes. So a scan passes through the window and displaces nothing,
while what is used twice within the window stays.

The window's share of the capacity is not fixed, as traces where recency counts want a large one: a hill climber moves
it, a step each sample, in the direction in which the ratio of hits rose.

What differs from the papers: an entry in the cache counts its own uses, exactly, and the sketch holds those of the keys
that have been evicted. So a hit touches no sketch, which in Python costs more than all the rest of a read.

Pure: no clock, no I/O; randomness comes in as an argument.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Protocol, final

from .sketch import MOST, FrequencySketch

# In uses per entry: after so many all counts are halved, or the window is adjusted. (Caffeine does both after 10. Steps
# half as large five times as often follow a change sooner, and cost nothing where there is none: measured. Steps as
# large as Caffeine's gain a tenth where only recency counts and lose a quarter on loops; steps that grow with success
# and shrink with failure gain on some seeds of a trace and lose on others.)
_AGE_EVERY = 10
_CLIMB_EVERY = 2
_COUNTERS = 4  # per entry, in each row of the sketch: it remembers many more keys than there are entries
_LEAST_SAMPLE = 2000  # uses: the ratio of fewer is mere noise
_PROTECTED = 0.8  # of what is not window
_FIRST_WINDOW = 0.01
_MOST_WINDOW = 0.8
_FIRST_STEP = 1 / 32  # of the capacity
_STEP_DECAY = 0.98
_RESTART = 0.05  # a change of the hit ratio that begins the climb anew
# A candidate that is used often and loses all the same is let in now and then: else whoever knows how keys collide
# could keep everything out by one popular victim.
_WARM = 6
_LUCK = 1 / 128


class Randomness(Protocol):
    """The part of `random.Random` that is used here."""

    def random(self) -> float: ...

    def randbytes(self, n: int, /) -> bytes: ...


@final
class Segment:
    """Entries in the order of their last use, and what they weigh in all."""

    __slots__ = ("entries", "name", "weight")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: OrderedDict[str, Resident] = OrderedDict()
        self.weight = 0

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.entries)} entries, weight {self.weight}>"

    def append(self, resident: Resident) -> None:
        self.entries[resident.key] = resident
        self.weight += resident.weight
        resident.segment = self

    def remove(self, resident: Resident) -> None:
        del self.entries[resident.key]
        self.weight -= resident.weight
        resident.segment = None

    def oldest(self) -> Resident | None:
        return next(iter(self.entries.values()), None)


class Resident:
    """What the policy knows of an entry: where it is, what it weighs, how often it was used (as of `epoch`)."""

    __slots__ = ("count", "epoch", "key", "segment", "weight")

    def __init__(self, key: str, weight: int) -> None:
        self.key = key
        self.weight = weight
        self.count = 0
        self.epoch = 0
        self.segment: Segment | None = None


@final
class TinyLfu:
    """See above. `capacity` is the most that all entries may weigh."""

    def __init__(self, capacity: int, random: Randomness, *, adaptive: bool = True) -> None:
        self.capacity = capacity
        self._random = random
        self._adaptive = adaptive
        self._sketch = FrequencySketch(16, random.randbytes(16))
        self._window = Segment("window")
        self._probation = Segment("probation")
        self._protected = Segment("protected")
        self._entries = 0
        self._epoch = 0
        self._hits = self._misses = 0  # since the window was adjusted
        self._uses = 0  # from the last ageing to then
        self._ratio = 0.0
        self._step = _FIRST_STEP
        self._share = _FIRST_WINDOW

    def __len__(self) -> int:
        return self._entries

    def __repr__(self) -> str:
        return f"<TinyLfu {self.weight} of {self.capacity}: {', '.join(map(repr, self._segments()))}>"

    @property
    def weight(self) -> int:
        """Of all entries."""
        return self._window.weight + self._probation.weight + self._protected.weight

    def touch(self, resident: Resident) -> None:
        """It was used."""
        if resident.epoch != self._epoch:
            self._bring_up_to_date(resident)
        if resident.count < MOST:
            resident.count += 1
        self._hits += 1
        segment = resident.segment
        if segment is self._probation:
            self._promote(resident)
        elif segment is not None:
            segment.entries.move_to_end(resident.key)

    def add(self, resident: Resident) -> list[Resident]:
        """A new entry. Returns those that must go, which may include the new one; they are forgotten here already."""
        self._misses += 1
        if resident.weight > self.capacity:
            return [resident]
        self._entries += 1
        if self._entries * _COUNTERS > self._sketch.width:
            self._sketch.grow()
        resident.count = min(self._sketch.estimate(resident.key) + 1, MOST)
        resident.epoch = self._epoch
        self._window.append(resident)
        evicted = self._evict()
        self._sample()
        return evicted

    def resize(self, resident: Resident, weight: int) -> list[Resident]:
        """An entry weighs something else now. Returns those that must go."""
        if resident.segment is None:
            return []
        resident.segment.weight += weight - resident.weight
        resident.weight = weight
        if weight > self.capacity:
            self.remove(resident)
            return [resident]
        return self._evict()

    def remove(self, resident: Resident) -> None:
        """It has been deleted, or has expired."""
        if resident.segment is not None:
            resident.segment.remove(resident)
            self._entries -= 1

    # --- inside -------------------------------------------------------------------------------------------------------

    def _segments(self) -> tuple[Segment, Segment, Segment]:
        return self._window, self._probation, self._protected

    def _bring_up_to_date(self, resident: Resident) -> None:
        resident.count >>= self._epoch - resident.epoch
        resident.epoch = self._epoch

    def _promote(self, resident: Resident) -> None:
        self._probation.remove(resident)
        self._protected.append(resident)
        self._demote()

    def _demote(self) -> None:
        most = _PROTECTED * (self.capacity - self._window_capacity())
        while self._protected.weight > most and len(self._protected.entries) > 1:
            self._move(self._protected, self._probation)

    def _move(self, source: Segment, target: Segment) -> Resident:
        oldest = source.oldest()
        assert oldest is not None
        source.remove(oldest)
        target.append(oldest)
        return oldest

    def _window_capacity(self) -> int:
        return max(1, int(self._share * self.capacity))

    def _evict(self) -> list[Resident]:
        """Let the window give up what is too much, and candidates compete with victims until the rest fits."""
        candidates: deque[Resident] = deque()
        room = self._window_capacity()
        while self._window.weight > room:
            candidates.append(self._move(self._window, self._probation))
        evicted: list[Resident] = []
        while self.weight > self.capacity:
            while candidates and candidates[0].segment is None:  # it has lost
                candidates.popleft()
            victim = self._victim()
            loser = self._loser(candidates[0], victim) if candidates else victim
            self._sketch.remember(loser.key, self._frequency(loser))
            self.remove(loser)
            evicted.append(loser)
        return evicted

    def _victim(self) -> Resident:
        victim = self._probation.oldest() or self._protected.oldest() or self._window.oldest()
        assert victim is not None  # something weighs more than the capacity
        return victim

    def _loser(self, candidate: Resident, victim: Resident) -> Resident:
        if candidate is victim or candidate.weight > self.capacity:
            return candidate
        ours, theirs = self._frequency(candidate), self._frequency(victim)
        if ours > theirs or (ours >= _WARM and self._random.random() < _LUCK):
            return victim
        return candidate

    def _frequency(self, resident: Resident) -> int:
        self._bring_up_to_date(resident)
        return resident.count

    # --- once in a sample ---------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        uses = self._hits + self._misses
        if uses < _LEAST_SAMPLE:
            return
        if uses < _CLIMB_EVERY * self._entries:
            return
        if self._adaptive:
            self._climb(self._hits / uses)
        self._hits = self._misses = 0
        self._uses += uses
        if self._uses >= _AGE_EVERY * self._entries:
            self._uses = 0
            self._epoch += 1
            self._sketch.age()

    def _climb(self, ratio: float) -> None:
        """Move the window's share; turn round when the ratio of hits fell."""
        change, self._ratio = ratio - self._ratio, ratio
        if change < 0:
            self._step = -self._step
        if abs(change) >= _RESTART:
            self._step = _FIRST_STEP if self._step > 0 else -_FIRST_STEP
        self._share = min(max(self._share + self._step, _FIRST_WINDOW), _MOST_WINDOW)
        self._step *= _STEP_DECAY
        self._demote()
