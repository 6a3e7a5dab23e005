"""Locks of the embedded backend: the table of one incarnation, and who waits in line.

A lock goes from its holder straight to the first in line, at the moment when it is released or expires, so nobody can
get in between. It is the waiters who keep watch over the end of a holder that does not renew.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import final

import trio

from ...runtime.context import ActorContext
from ...runtime.deadlines import Timer
from .errors import LeaseLost, LockHeld, LockNested, LossReason
from .events import LockWasLost
from .lock import Lock
from .lock_table import Grant, LockTable


@final
class _Waiter:
    """Somebody in line."""

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self.called = trio.Event()
        self.grant: Grant | None = None  # None when called: there is nothing to wait for any more


@final
class Locks:
    """See above. Implements `Grants`."""

    def __init__(self, context: ActorContext, next_token: Callable[[], int]) -> None:
        self._context = context
        self._now = context.runtime.now
        self._table = LockTable(next_token)
        self._locks: dict[int, Lock] = {}  # {token: what its holder has in hand}
        self._lines: dict[str, deque[_Waiter]] = {}
        self._watches: dict[str, Timer] = {}
        self._open = True

    def __repr__(self) -> str:
        return f"<Locks: {len(self._locks)} held, {sum(map(len, self._lines.values()))} waiting>"

    @property
    def path(self) -> str:
        """See `Grants`."""
        return self._context.path

    async def acquire(self, key: str, full_key: str, ttl: float, max_hold: float, wait: bool) -> Lock:
        """Take a lock, in turn. Raises `LockHeld`, `LockNested`, and `LeaseLost`. If cancelled, it was not taken."""
        grant = None if full_key in self._lines else self._table.acquire(full_key, ttl, self._now())
        if grant is None:
            self._check_wait(key, full_key, wait)
            grant = await self._wait_in_line(full_key, ttl)
        lock = Lock(self, self._context.runtime.deadlines, key, full_key, grant.token, ttl, max_hold)
        self._locks[grant.token] = lock
        return lock

    def close(self) -> None:
        """The incarnation ends: holders are cancelled, those in line look for the next one."""
        self._open = False
        for lock in list(self._locks.values()):
            lock.lose("ended")
        for line in self._lines.values():
            for waiter in line:
                waiter.called.set()
        self._lines.clear()
        for watch in self._watches.values():
            watch.cancel()

    # --- what locks ask for -----------------------------------------------------------------------------------------

    def expires_at(self, full_key: str, token: int) -> float:
        """See `Grants`."""
        grant = self._table.holder(full_key, self._now()) if self._open else None
        return -math.inf if grant is None or grant.token != token else grant.expires_at

    def renew(self, full_key: str, token: int) -> bool:
        """See `Grants`."""
        return self._open and self._table.renew(full_key, token, self._now())

    def release(self, full_key: str, token: int) -> None:
        """See `Grants`."""
        self._locks.pop(token, None)
        if self._table.release(full_key, token, self._now()):
            self._advance(full_key)

    def lost(self, lock: Lock, reason: LossReason) -> None:
        """See `Grants`."""
        events = self._context.runtime.events
        if events.on:
            where = (self._now(), self._context.path, self._context.incarnation)
            events.emit(LockWasLost(*where, lock.key, lock.token, reason))

    # --- the line -----------------------------------------------------------------------------------------------------

    def _check_wait(self, key: str, full_key: str, wait: bool) -> None:
        grant = self._table.holder(full_key, self._now())
        if not wait:
            raise LockHeld(key, None if grant is None else grant.expires_at - self._now())
        holder = None if grant is None else self._locks.get(grant.token)
        if holder is not None and holder.task is trio.lowlevel.current_task():
            raise LockNested(key)

    async def _wait_in_line(self, full_key: str, ttl: float) -> Grant:
        waiter = _Waiter(ttl)
        self._lines.setdefault(full_key, deque()).append(waiter)
        self._watch(full_key)
        try:
            await waiter.called.wait()
        except BaseException:
            self._leave_line(full_key, waiter)
            raise
        if waiter.grant is None or not self._open:
            raise LeaseLost
        return waiter.grant

    def _leave_line(self, full_key: str, waiter: _Waiter) -> None:
        if waiter.grant is not None:
            self.release(full_key, waiter.grant.token)
        elif self._open:
            self._lines[full_key].remove(waiter)
            self._watch(full_key)

    def _advance(self, full_key: str) -> None:
        """If the lock is free, it goes to the first in line."""
        line = self._lines.get(full_key)
        if line:
            grant = self._table.acquire(full_key, line[0].ttl, self._now())
            if grant is not None:
                first = line.popleft()
                first.grant = grant
                first.called.set()
            self._watch(full_key)

    def _watch(self, full_key: str) -> None:
        """While somebody is in line: look again when the present grant would end."""
        watch = self._watches.pop(full_key, None)
        if watch is not None:
            watch.cancel()
        if not self._lines[full_key]:
            del self._lines[full_key]
            return
        now = self._now()
        grant = self._table.holder(full_key, now)  # it may have ended just now: then look at once
        when = now if grant is None else grant.expires_at
        self._watches[full_key] = Timer(self._context.runtime.deadlines, when, partial(self._advance, full_key))
