"""A Bloom filter that grows."""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import final

# As in RedisBloom: each layer has twice the room of the one before it and half its rate of errors.
_GROWTH = 2
_TIGHTENING = 0.5


@final
class Bloom:
    """Whether something may have been added: never a wrong no; a wrong yes with a probability of `error_rate`.

    Bloom 1970; layers as in *Scalable Bloom filters* (Almeida, Baquero, Preguiça, Hutchison, 2007). `capacity` is the
    room of the first layer: a filter that has to grow takes more memory than one of the right size.
    """

    __slots__ = ("_layers", "capacity", "error_rate")

    def __init__(self, error_rate: float, capacity: int) -> None:
        self.error_rate = error_rate
        self.capacity = capacity
        # So that all layers together keep to the rate.
        self._layers = [Layer(error_rate * _TIGHTENING, capacity)]

    @property
    def memory(self) -> int:
        """What it takes, in bytes."""
        return sum(layer.memory for layer in self._layers)

    def add(self, item: bytes) -> bool:
        """False if it seems to be there already."""
        if item in self:
            return False
        last = self._layers[-1]
        if last.left <= 0:
            last = Layer(last.error_rate * _TIGHTENING, last.capacity * _GROWTH)
            self._layers.append(last)
        last.add(item)
        return True

    def __contains__(self, item: bytes) -> bool:
        return any(item in layer for layer in self._layers)


@final
class Layer:
    """A plain Bloom filter."""

    __slots__ = ("_bits", "_hashes", "_size", "capacity", "error_rate", "left")

    def __init__(self, error_rate: float, capacity: int) -> None:
        self.error_rate = error_rate
        self.capacity = self.left = capacity
        self._size = max(8, bits_for(error_rate, capacity))
        self._hashes = max(1, round(self._size / capacity * math.log(2)))
        self._bits = bytearray((self._size + 7) // 8)

    @property
    def memory(self) -> int:
        """What it takes, in bytes."""
        return len(self._bits)

    def add(self, item: bytes) -> None:
        """One more, which takes room."""
        self.left -= 1
        for place in self._places(item):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, item: bytes) -> bool:
        return all(self._bits[place >> 3] & 1 << (place & 7) for place in self._places(item))

    def _places(self, item: bytes) -> list[int]:
        # Double hashing: Kirsch and Mitzenmacher, *Less hashing, same performance*, 2006.
        digest = blake2b(item, digest_size=16).digest()
        first, second = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little") | 1
        return [(first + number * second) % self._size for number in range(self._hashes)]


def bits_for(error_rate: float, capacity: int) -> int:
    """How many bits so many members need."""
    return math.ceil(-capacity * math.log(error_rate) / math.log(2) ** 2)
