"""The flight recorder: what an actor would have said at a lower level, kept for the day on which it crashes."""

from __future__ import annotations

from collections import deque

from .entry import Entry

_ACTORS = 10_000  # lines may come late, from threads of actors that are gone: they must not add up


class Recorder:
    """The latest lines of each living incarnation. For one thread at a time.

    `size` is the number of lines for each actor.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._rings: dict[str, tuple[int, deque[Entry]]] = {}  # {path: (incarnation, its latest lines)}

    def keep(self, path: str, incarnation: int, entry: Entry) -> None:
        """Keep a line that is not written. The oldest makes room; those of an older incarnation all go."""
        known = self._rings.get(path)
        if known is None or known[0] != incarnation:
            self._rings.pop(path, None)
            if len(self._rings) >= _ACTORS:
                del self._rings[next(iter(self._rings))]
            known = self._rings[path] = (incarnation, deque(maxlen=self._size))
        known[1].append(entry)

    def take(self, path: str, incarnation: int) -> list[Entry]:
        """The lines of an incarnation, oldest first; they are kept no longer."""
        known = self._rings.pop(path, None)
        return list(known[1]) if known is not None and known[0] == incarnation else []

    def forget(self, path: str) -> None:
        """This actor has ended, and did not crash."""
        self._rings.pop(path, None)
