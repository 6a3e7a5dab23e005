"""How many retries a dependency can bear: pure policy, shared by all who call it.

When a dependency fails, each of its callers alone does well to try again; all together they double its load when it
can least bear it. The budget is a bucket of tokens (gRPC's retry throttling, proposal A6): a failure takes one, a
success gives back a part of one, and nobody retries while it is at most half full. So in good times every failure is
retried, and in bad times nearly none is, without any rate to be tuned.
"""

from __future__ import annotations

from .errors import SpecInvalid


class RetryBudget:
    """One dependency's budget. Give the same object to all who call it.

    Parameters
    ----------
    tokens
        How many failures in a row, beginning with a full bucket, use it up: half of them may be retried.
    ratio
        What a success gives back: 0.1 means that in the long run one call in ten may be retried.

    Raises
    ------
    SpecInvalid
        A value is out of range.
    """

    __slots__ = ("_most", "_ratio", "_tokens", "refused")

    def __init__(self, tokens: float = 10.0, ratio: float = 0.1) -> None:
        for name, value, most in (("tokens", tokens, float("inf")), ("ratio", ratio, 1.0)):
            if not 0 < value <= most or value == float("inf"):
                raise SpecInvalid(f"RetryBudget.{name}", value, f"a number above 0{'' if most != 1 else ', at most 1'}")
        self._most = self._tokens = float(tokens)
        self._ratio = ratio
        self.refused = 0  # how many retries were not allowed

    def __repr__(self) -> str:
        return f"<RetryBudget {self._tokens:g} of {self._most:g} tokens, {self.refused} retries refused>"

    @property
    def tokens(self) -> float:
        """What is left."""
        return self._tokens

    def succeeded(self) -> None:
        """A call has been answered."""
        self._tokens = min(self._most, self._tokens + self._ratio)

    def failed(self) -> bool:
        """A call has failed in a way that a retry might cure. True: it may be retried."""
        self._tokens = max(0.0, self._tokens - 1.0)
        if self._tokens > self._most / 2:
            return True
        self.refused += 1
        return False
