"""The actor that owns the cache, and what it lends to its handles.

Theory of operation
-------------------
The data are in memory and a command on them never waits, so a message would only add two task switches to it: six times
the command itself (measured). Instead the actor lends its handles the store, and they run the commands on it in their
callers' tasks, one at a time, for nothing in a command awaits. The actor decides how long: the lease is revoked,
synchronously, when the incarnation begins to end, which its background work is the first to see; at the latest before a
successor starts with an empty store. Whoever finds no lease asks for `ready`, which the next incarnation answers.

What else there is runs in the actor's background: loads (`loads`) and the purge of what has expired. Locks (`locks`)
are granted by the lease, too.

A command that fails with anything but an answer has left the store in a state that nobody knows. So its error is the
actor's crash, as if it had been a message in hand: its caller gets `OutcomeUnknown`, and everybody else a new store.

Kept over incarnations is one thing: the count of fencing tokens. It begins at the wall clock's microseconds, so that
the tokens of a restarted process are greater than those of the one before it: no process grants locks faster than one
a microsecond.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import final

import trio

from ...runtime.actor import Actor, message
from ...runtime.context import ActorContext
from ...runtime.errors import OutcomeUnknown
from .config import Config
from .loads import Loads
from .locks import Locks
from .store import Store


@final
class CacheLease:
    """What one incarnation lends to its handles: good until it is `over`."""

    def __init__(self, context: ActorContext, config: Config, next_token: Callable[[], int]) -> None:
        runtime = context.runtime
        self._path = context.path
        self.store = Store(runtime.now, runtime.random, config.max_entries, config.max_bytes)
        self.loads = Loads(self.store, context, self.revoke)
        self.locks = Locks(context, next_token)
        self.over = False
        self._failure: Exception | None = None
        self._failed = trio.Event()

    def fail(self, error: Exception) -> OutcomeUnknown:
        """A command has failed in the middle: let the incarnation die of it. Returns what its caller gets."""
        self._failure = self._failure or error
        self._failed.set()
        self.revoke()
        return OutcomeUnknown(self._path)

    def revoke(self) -> None:
        """See `creche.runtime.context.Lease`. Idempotent."""
        self.over = True
        self.loads.close()
        self.locks.close()

    async def hold(self) -> None:
        """The incarnation's background task: die of a failure; when it ends, so does the lease."""
        try:
            await self._failed.wait()
        finally:
            self.revoke()
        assert self._failure is not None
        raise self._failure


class CacheActor(Actor):
    """See above. `now_ms` reads the wall clock in Unix milliseconds."""

    def __init__(self, config: Config, now_ms: Callable[[], int] | None = None) -> None:
        self._config = config
        read_ms = now_ms or self.context.runtime.wall_clock_ms
        self._tokens = self.context.keep("tokens", lambda: itertools.count(1000 * read_ms()), lambda _: None)

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """An empty store."""
        lease = CacheLease(self.context, self._config, lambda: next(self._tokens))
        self.context.spawn(lease.store.deadlines.run)
        self.context.spawn(lease.hold)
        self.context.grant(lease)
        yield

    @message(on_caller_gone="cancel")
    async def ready(self) -> None:
        """Answered as soon as there is an incarnation, and so a lease, again."""
