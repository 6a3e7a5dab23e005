"""Dead letters: messages that nobody will handle any more, kept to be looked at and sent again.

They are casts that were lost, for which nobody waits who could be told, and poison: messages that are declared
idempotent and whose every attempt has died. The store is bounded and in memory: what it holds ends with its runtime.
Without one nothing is kept, and it costs nothing.

It keeps the arguments as they are, not copies: whoever changes an object after it was sent changes it here, too.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .envelope import NEVER
from .errors import CallFailed, NotStarted, SpecInvalid

if TYPE_CHECKING:
    from .actor import MessageSpec
    from .envelope import Cast
    from .node import Node


@dataclass(frozen=True, slots=True, eq=False)
class LostMessage:
    """A message in the store.

    Parameters
    ----------
    number
        Counts from 1, in the order in which they came.
    time
        When it was given up, in seconds since 1970.
    path
        The actor or pool that it was sent to, and can be sent to again.
    message, args, kwargs
        What was sent.
    reason
        ``"poison"``, ``"crash"`` (it was in hand and is not declared idempotent), ``"wrong arguments"``, or as in
        `NotDelivered`.
    attempts
        How often a handler had begun with it.
    causes
        What each attempt died of, one line each. The tracebacks are in the events `Crashed`.
    """

    number: int
    time: float
    path: str
    message: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reason: str
    attempts: int
    causes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeadLetterStatistics:
    """The store at this moment, and what became of messages that are in it no more.

    `kept` counts all that came, by reason. `evicted` had to go because there was no room.
    """

    waiting: int
    capacity: int
    kept: Mapping[str, int]
    evicted: int
    replayed: int
    discarded: int


class DeadLetters:
    """The dead letters of a runtime. Made by `Runtime.keep_dead_letters`."""

    def __init__(self, node_of: Callable[[object], Node], wall_clock: Callable[[], float], capacity: int) -> None:
        self._node_of = node_of
        self._wall_clock = wall_clock
        self._letters: deque[tuple[LostMessage, MessageSpec]] = deque()
        self._capacity = 0
        self._kept = Counter[str]()
        self._evicted = self._replayed = self._discarded = 0
        self.resize(capacity)

    def __len__(self) -> int:
        return len(self._letters)

    def __repr__(self) -> str:
        return f"<DeadLetters {len(self)} of {self._capacity}>"

    def list(self, *, path: str | None = None, reason: str | None = None) -> list[LostMessage]:
        """Those that match, the oldest first.

        Parameters
        ----------
        path
            Of the actor, or of a supervisor or pool above it. Default: all.
        reason
            Default: all.
        """
        return [letter for letter, _ in self._letters if _matches(letter, path, reason)]

    def replay(self, *letters: LostMessage, path: str | None = None, reason: str | None = None) -> int:
        """Send messages again, as casts, to where they were sent before. Returns how many were accepted.

        Those leave the store; those that are refused, because the actor is gone or its mailbox full, stay in it. The
        attempts are counted anew. Do it when what killed them has been mended.

        Parameters
        ----------
        letters
            Which ones. Default: all that match `path` and `reason`, see `list`.
        """
        sent = [entry for entry in self._chosen(letters, path, reason) if self._send(*entry)]
        self._take_out(sent)
        self._replayed += len(sent)
        return len(sent)

    def discard(self, *letters: LostMessage, path: str | None = None, reason: str | None = None) -> int:
        """Forget messages. Returns how many. See `replay` for which."""
        gone = list(self._chosen(letters, path, reason))
        self._take_out(gone)
        self._discarded += len(gone)
        return len(gone)

    def statistics(self) -> DeadLetterStatistics:
        """How many there are, and what became of the others."""
        return DeadLetterStatistics(
            len(self), self._capacity, dict(sorted(self._kept.items())), self._evicted, self._replayed, self._discarded
        )

    # --- for the runtime --------------------------------------------------------------------------

    def resize(self, capacity: int) -> None:
        """Keep so many from now on."""
        if not (type(capacity) is int and capacity >= 1):
            raise SpecInvalid("keep_dead_letters(capacity=...)", capacity, "a whole number, 1 or more")
        self._capacity = capacity
        self._evict()

    def keep(self, path: str, item: Cast, reason: str, causes: Sequence[str]) -> None:
        """One more."""
        spec, args, kwargs, _, _ = item
        number = self._kept.total() + 1
        letter = LostMessage(
            number, self._wall_clock(), path, spec.name, args, kwargs, reason, len(causes), tuple(causes)
        )
        self._kept[reason] += 1
        self._letters.append((letter, spec))
        self._evict()

    def _evict(self) -> None:
        while len(self._letters) > self._capacity:
            self._letters.popleft()
            self._evicted += 1

    def _chosen(
        self, letters: tuple[LostMessage, ...], path: str | None, reason: str | None
    ) -> Iterator[tuple[LostMessage, MessageSpec]]:
        if letters and (path is not None or reason is not None):
            raise SpecInvalid("dead letters", path or reason, "name the letters, or say which by path and reason")
        for letter, spec in list(self._letters):
            if letter in letters if letters else _matches(letter, path, reason):
                yield letter, spec

    def _send(self, letter: LostMessage, spec: MessageSpec) -> bool:
        try:
            intake = self._node_of(letter.path).intake
            if intake is None or intake.messages.get(letter.message) is None:
                return False
            intake.cast_nowait(intake.messages[letter.message], letter.args, letter.kwargs, NEVER)
        except (CallFailed, NotStarted, KeyError):
            return False
        return True

    def _take_out(self, entries: Sequence[tuple[LostMessage, MessageSpec]]) -> None:
        numbers = {letter.number for letter, _ in entries}
        self._letters = deque(entry for entry in self._letters if entry[0].number not in numbers)


def _matches(letter: LostMessage, path: str | None, reason: str | None) -> bool:
    below = path is None or letter.path == path or letter.path.startswith(f"{path}/")
    return below and (reason is None or letter.reason == reason)
