"""Who holds which lock, and until when: a pure state machine, the clock is passed in.

::

    free ──acquire──▶ held(token, expires_at) ──release, or expires_at has come──▶ free
                          └──renew──▶ held(same token, later)

Only `token` proves that a lock is one's own. Tokens rise from one `acquire` to the next: a resource that refuses what
comes with a smaller token than it has seen is safe from holders that do not know yet that they have lost the lock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final


@dataclass(slots=True)
class Grant:
    """A lock that is held. `ttl` and `expires_at` are in seconds."""

    token: int
    ttl: float
    expires_at: float


@final
class LockTable:
    """See above. `next_token` gives a greater number each time."""

    def __init__(self, next_token: Callable[[], int]) -> None:
        self._next_token = next_token
        self._grants: dict[str, Grant] = {}

    def __len__(self) -> int:
        """How many are held, or were until they expired unseen."""
        return len(self._grants)

    def holder(self, key: str, now: float) -> Grant | None:
        """None if the lock is free."""
        grant = self._grants.get(key)
        if grant is not None and grant.expires_at <= now:
            del self._grants[key]
            return None
        return grant

    def acquire(self, key: str, ttl: float, now: float) -> Grant | None:
        """None if somebody holds it."""
        if self.holder(key, now) is not None:
            return None
        grant = self._grants[key] = Grant(self._next_token(), ttl, now + ttl)
        return grant

    def renew(self, key: str, token: int, now: float) -> bool:
        """Hold it for another `ttl` from now on. False if it is not held under that token any more."""
        grant = self.holder(key, now)
        if grant is None or grant.token != token:
            return False
        grant.expires_at = now + grant.ttl
        return True

    def release(self, key: str, token: int, now: float) -> bool:
        """Let go of it. False if it was not held under that token any more."""
        grant = self.holder(key, now)
        if grant is None or grant.token != token:
            return False
        del self._grants[key]
        return True
