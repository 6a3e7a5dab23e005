"""Numbers that are stored as text and counted up in place, as Redis does: decimal, 64 bits, with a sign."""

from __future__ import annotations

from .errors import NotANumber

_LEAST, _MOST = -(2**63), 2**63 - 1
_DIGITS = len(str(_MOST))


def increased(key: str, text: bytes, by: int) -> int:
    """The number in `text`, and `by`. Raises `NotANumber`; `key` is for that error."""
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > _DIGITS or b"%d" % int(text) != text:
        raise NotANumber(key, "not a decimal number of 64 bits")
    total = int(text) + by
    if not _LEAST <= total <= _MOST:
        raise NotANumber(key, "the sum does not fit into 64 bits")
    return total
