"""One connection: two lines, and what strikes both of them at once.

As pure as the lines: the time is an argument, randomness comes from one seed for each connection, drawn from in an
order that depends on its own faults only. Faults strike a connection or spare it (`toxicity`) once, when they meet; a
change that leaves a fault as it is leaves what was drawn, and what was counted, as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, final

from .effects import Effect, effect_of
from .faults import Direction, Ending, Fault, HalfOpen, Reset
from .line import Line, Mark

End = Ending | Literal["done"]
Side = Literal["client", "server"]


@dataclass(frozen=True, slots=True)
class _Met:
    """A fault and this connection, since they met."""

    fault: Fault
    struck: bool
    since: float
    upstream: Effect[Any]
    downstream: Effect[Any]


@final
class Link:
    """See above."""

    def __init__(self, random: Random) -> None:
        self.upstream = Line()
        self.downstream = Line()
        self.gone: Side | None = None
        """The side that has vanished without the other being told."""
        self.promised: Line | None = None
        """The line whose bytes are to arrive before the connection ends; None: the end waits for none."""
        self._random = random
        self._met: dict[str, _Met] = {}
        self._end: End | None = None
        self._ended: set[Line] = set()  # those whose end has been read
        self._passed_on: list[Line] = []  # those whose end has been passed on

    def change(self, faults: Mapping[str, Fault], now: float) -> list[str]:
        """These faults, and no others, are in force from now on. Returns the names of those that begin to strike."""
        before = self._met
        self._met = {name: self._meet(before.get(name), fault, now) for name, fault in faults.items()}
        self.upstream.strike(self._effects("upstream"))
        self.downstream.strike(self._effects("downstream"))
        self._see_what_is_lost()
        return [name for name, met in self._met.items() if met.struck and met is not before.get(name)]

    def due(self) -> float:
        """When to ask for the `verdict`, unless something happens before."""
        return min(
            (met.since + met.fault.after for met in self._striking() if isinstance(met.fault, Reset)), default=math.inf
        )

    def verdict(self, now: float) -> End | None:
        """How the connection is to end now, if it is; then that stands."""
        for line in (self.upstream, self.downstream):
            if self._end is None and (how := line.ending()) is not None:
                self._end_after(line, how)
        if self.due() <= now:
            self.cut("reset")
        return self._end

    def cut(self, how: End) -> None:
        """End it, and at once: no promise is kept any more."""
        self._end = self._end or how
        self.promised = None

    def ended(self, line: Line, mark: Mark, now: float) -> None:
        """Whoever sends into `line` has ended the stream."""
        self._ended.add(line)
        if self._other(line).deaf:
            mark = Mark.RESET  # the kernel reports a reset once: to a writer, and then the reader sees an orderly end
        if self.gone is None:
            line.end(mark, now)
        elif mark is Mark.RESET and line is (self.upstream if self.gone == "server" else self.downstream):
            self.cut("done")  # the one that was left has left, too; its orderly end may be half a close

    def passed_on(self, line: Line, mark: Mark) -> None:
        """The stream's end has come out of `line`."""
        self._passed_on.append(line)
        if mark is Mark.RESET:
            self._end_after(line, "reset")
        elif self.upstream in self._passed_on and self.downstream in self._passed_on:
            self.cut("done")

    def lost(self, line: Line, now: float) -> None:
        """What came out of `line` could not be passed on, for nobody is there.

        The other direction says so at its end: what was sent in it before may still have to be read.
        """
        line.deaf = True
        if self._other(line) in self._ended:
            self.ended(self._other(line), Mark.RESET, now)

    def _other(self, line: Line) -> Line:
        return self.downstream if line is self.upstream else self.upstream

    def _end_after(self, line: Line, how: End) -> None:
        if self._end is None:
            self._end, self.promised = how, line

    def _meet(self, before: _Met | None, fault: Fault, now: float) -> _Met:
        if before is not None and before.fault == fault:
            return before
        struck = self._random.random() < fault.toxicity
        upstream, downstream = (effect_of(fault, Random(self._random.getrandbits(64))) for _ in range(2))
        return _Met(fault, struck, now, upstream, downstream)

    def _striking(self) -> list[_Met]:
        return [met for met in self._met.values() if met.struck]

    def _effects(self, direction: Direction) -> list[Effect[Any]]:
        striking = [met for met in self._striking() if met.fault.strikes(direction)]
        return [met.upstream if direction == "upstream" else met.downstream for met in striking]

    def _see_what_is_lost(self) -> None:
        """A stream with a hole in it does not go on, nor does one whose other side has vanished."""
        half_open: list[Side] = [met.fault.gone for met in self._striking() if isinstance(met.fault, HalfOpen)]
        holes = any(line.torn and not line.swallows for line in (self.upstream, self.downstream))
        if holes or (self.gone is not None and self.gone not in half_open):
            self.cut("reset")
        elif half_open:
            self.gone = half_open[0]
