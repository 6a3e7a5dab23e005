"""How often keys were used, of those that are not in the cache any more: a count-min sketch that ages."""

from __future__ import annotations

from hashlib import blake2b
from struct import unpack
from typing import final

MOST = 15  # a counter goes no higher: what was popular once must not stay so for long
_ROWS = 4
_HALVES = bytes(count >> 1 for count in range(256))


@final
class FrequencySketch:
    """Counters in four rows of `width` each, a power of two; an estimate is the least of a key's four counters.

    Cormode and Muthukrishnan, *An improved data stream summary: the count-min sketch*, 2005, with the conservative
    update of Estan and Varghese. `salt`, at most 16 bytes, keeps outsiders from choosing keys that collide.
    """

    def __init__(self, width: int, salt: bytes) -> None:
        self.width = 1 << max(width - 1, 15).bit_length()
        self._salt = salt
        self._rows = [bytearray(self.width) for _ in range(_ROWS)]

    def estimate(self, key: str) -> int:
        """How often `key` was used; never less than was remembered of it, apart from ageing."""
        first, second, third, fourth = self._rows
        a, b, c, d = self._places(key)
        return min(first[a], second[b], third[c], fourth[d])

    def remember(self, key: str, count: int) -> None:
        """`key` was used `count` times, of which the sketch may know some already."""
        count = min(count, MOST)
        for row, place in zip(self._rows, self._places(key), strict=True):
            if row[place] < count:
                row[place] = count

    def age(self) -> None:
        """Halve all counters."""
        self._rows = [row.translate(_HALVES) for row in self._rows]

    def grow(self) -> None:
        """Twice the width. Every estimate stays as it is."""
        self.width *= 2
        self._rows = [row + row for row in self._rows]

    def _places(self, key: str) -> tuple[int, int, int, int]:
        # No built-in hash: it differs from process to process, and so would the victims of a run that is replayed.
        digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, salt=self._salt).digest()
        a, b, c, d = unpack("<4I", digest)
        mask = self.width - 1
        return a & mask, b & mask, c & mask, d & mask
