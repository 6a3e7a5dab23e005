"""One direction of one connection: bytes go in, and come out changed, later, in pieces, or not at all.

Theory of operation
-------------------
Bytes wait as they were read, with the time at which they were. The effects are asked only about the head of the line,
at the moment when it might pass. So a change of faults is at once in force for everything that has not come out yet:
lift a latency of a minute, and what has been waiting passes now. What has passed is never taken back.

No I/O, no clock: `due` says when to call `take`, which says what to do. Two things end a stream, in turn with its
bytes: its orderly end (`END`) and its reset (`RESET`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Any, final

from .effects import Effect
from .faults import Ending


class Mark(Enum):
    """How a stream ends."""

    END = "end"
    RESET = "reset"


@final
class _Waiting:
    """What was read at one time: bytes, those before `start` having passed, or a mark."""

    __slots__ = ("at", "begun", "data", "mark", "start")

    def __init__(self, data: bytes, mark: Mark | None, at: float) -> None:
        self.data = data
        self.mark = mark
        self.at = at
        self.start = 0
        self.begun = False


@final
class Line:
    """See above."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes that wait."""
        self.swallowed = 0
        """Bytes that went nowhere."""
        self.torn = False
        """Whether something has been swallowed: what comes out is not what went in any more."""
        self.deaf = False
        """Whether nobody is there to whom anything could be passed on."""
        self.in_hand = False
        """Whether what was taken last is still being passed on."""
        self._line: deque[_Waiting] = deque()
        self._effects: Sequence[Effect[Any]] = ()

    def strike(self, effects: Sequence[Effect[Any]]) -> None:
        """These effects, and no others, are in force from now on."""
        for effect in effects:
            if effect not in self._effects and self._line and self._line[0].begun:
                effect.begins()
        self._effects = effects

    @property
    def swallows(self) -> bool:
        """Whether what passes now goes nowhere."""
        return self.deaf or any(effect.swallows for effect in self._effects)

    def feed(self, data: bytes, now: float) -> None:
        """Bytes were read."""
        self._line.append(_Waiting(data, None, now))
        self.size += len(data)

    def end(self, mark: Mark, now: float) -> None:
        """The stream has ended."""
        self._line.append(_Waiting(b"", mark, now))

    def due(self) -> float:
        """When to `take`; infinity: not before something is fed or the faults change."""
        if not self._line:
            return math.inf
        head = self._begun()
        time = head.at
        for effect in self._effects:
            time += effect.delay(head.mark is not None)
        return max([time, *(effect.not_before() for effect in self._effects)])

    def ending(self) -> Ending | None:
        """How the whole connection is to end now, if it is: not before what it ends after has been passed on."""
        if self.in_hand:
            return None
        return next((how for effect in self._effects if (how := effect.ending()) is not None), None)

    def take(self, now: float) -> bytes | Mark:
        """What comes out at the time `now`, which is `due`: a piece of bytes, none if swallowed, or the stream's end.

        Not to be called when the connection is `ending`.
        """
        head = self._begun()
        out = self._piece(head, now) if head.mark is None else head.mark
        if head.start == len(head.data):
            self._line.popleft()
        if not self.swallows:
            return out
        self.torn = True
        self.swallowed += len(out) if isinstance(out, bytes) else 0
        return b""

    def _begun(self) -> _Waiting:
        head = self._line[0]
        if not head.begun:
            head.begun = True
            for effect in self._effects:
                effect.begins()
        return head

    def _piece(self, head: _Waiting, now: float) -> bytes:
        left = len(head.data) - head.start
        size = left if self.swallows else min([left, *(effect.most() for effect in self._effects)])
        piece = head.data[head.start : head.start + size]
        head.start += size
        self.size -= size
        for effect in self._effects:
            piece = effect.passes(piece, now)
        return piece
