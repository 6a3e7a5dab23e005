"""A hash of keys that is the same in every process, which Python's own is not: it is seeded for texts and bytes."""

from __future__ import annotations

import hashlib
from typing import TypeAlias, cast

StableKey: TypeAlias = "str | bytes | int | float | tuple[StableKey, ...] | None"


def stable_hash(key: StableKey) -> int:
    """64 bits of a key: BLAKE2b over a text of it. Keys that are equal have one hash, so ``1``, ``1.0`` and ``True``.

    Raises TypeError for keys of other types.
    """
    text = _text_of(key).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _text_of(key: object) -> str:
    if isinstance(key, (int, float)):
        return f"number {hash(key)}"  # of numbers it is not seeded
    if key is None or isinstance(key, (str, bytes)):
        return repr(key)
    if isinstance(key, tuple):
        return f"({','.join(map(_text_of, cast('tuple[object, ...]', key)))})"
    raise TypeError(f"a key is a str, bytes, a number, None or a tuple of these, not {key!r}")
