"""What the holder of a lock has in hand.

Theory of operation
-------------------
A `Lock` lives in its holder's block. A timer renews it every third of its ttl, and ends with the block; there is no
task that could outlive it. When the lock is lost, the block's scope is cancelled, synchronously, and the block ends in
`LockLost`. Where the grants are kept is the business of a `Grants`.
"""

from __future__ import annotations

import math
from typing import Protocol, final

import trio

from ...runtime.deadlines import Deadlines, Timer
from .errors import LockLost, LossReason

_RENEW_EVERY = 1 / 3  # of the ttl


class Grants(Protocol):
    """Where locks are granted; keys are full ones."""

    @property
    def path(self) -> str:
        """Of the component, for errors."""
        ...

    def expires_at(self, full_key: str, token: int) -> float:
        """When that grant ends unless it is renewed; minus infinity if it has ended."""
        ...

    def renew(self, full_key: str, token: int) -> bool:
        """False if it has ended."""
        ...

    def release(self, full_key: str, token: int) -> None:
        """Nothing happens if it has ended."""
        ...

    def lost(self, lock: Lock, reason: LossReason) -> None:
        """The lock tells that it is lost."""
        ...


@final
class Lock:
    """A lock that is held, for as long as its block runs. Made by `Cache.lock`."""

    def __init__(
        self, grants: Grants, deadlines: Deadlines, key: str, full_key: str, token: int, ttl: float, max_hold: float
    ) -> None:
        self._grants = grants
        self._deadlines = deadlines
        self._key = key
        self._full_key = full_key
        self._token = token
        self._ttl = ttl
        self._until = trio.current_time() + max_hold
        self._reason: LossReason | None = None
        self._over = False
        self._timer: Timer | None = None
        self.scope = trio.CancelScope()  # around the block; not for users
        self.task = trio.lowlevel.current_task()  # not for users
        self._set_timer()

    def __repr__(self) -> str:
        state = f"lost ({self._reason})" if self._reason is not None else "held" if self.held else "released"
        return f"<Lock {self._key!r} token {self._token}, {state}>"

    @property
    def key(self) -> str:
        """The name it was asked for by."""
        return self._key

    @property
    def token(self) -> int:
        """The fencing token: greater than that of every earlier holder. Send it along to what the lock protects."""
        return self._token

    @property
    def held(self) -> bool:
        """Whether it is still held, as far as can be known here without waiting."""
        if self._over or self._reason is not None:
            return False
        return trio.current_time() < self._grants.expires_at(self._full_key, self._token)

    @property
    def reason(self) -> LossReason | None:
        """Why it was lost; None if it was not."""
        return self._reason

    def lose(self, reason: LossReason) -> None:
        """It is lost: cancel the block. The first reason counts. Not for users."""
        if self._over or self._reason is not None:
            return
        self._reason = reason
        self._stop_timer()
        self.scope.cancel(f"the lock {self._key!r} was lost ({reason})")
        self._grants.lost(self, reason)

    def leave(self) -> None:
        """The block is over: give the lock back. Synchronous, so that no cancel can come between. Not for users."""
        if not self._over:
            if self._reason is None and not self.held:
                self.lose("expired")
            self._over = True
            self._stop_timer()
            self._grants.release(self._full_key, self._token)

    def check(self) -> None:
        """Raise `LockLost` if it was lost before the block was over. Not for users."""
        if self._reason is not None:
            raise LockLost(self._grants.path, self._key, self._token, self._reason)

    def _set_timer(self) -> None:
        when = min(trio.current_time() + self._ttl * _RENEW_EVERY, self._until)
        if when != math.inf:
            self._timer = Timer(self._deadlines, when, self._renew)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _renew(self) -> None:
        if trio.current_time() >= self._until:
            self.lose("max_hold")  # and leave it to the block to end: it has the rest of the ttl for that
        elif self._grants.renew(self._full_key, self._token):
            self._set_timer()
        else:
            self.lose("expired")
