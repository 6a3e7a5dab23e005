"""The handle of the cache."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple, final, overload

import trio

from ...runtime.component import ComponentHandle
from . import strings
from .access import Access, checked, checked_seconds
from .actor import CacheActor
from .config import Config, LoadPolicy
from .lock import Lock
from .namespaces import Blooms, Hashes, Sets, SortedSets
from .store import Statistics

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# How many keys a scan looks at before it lets others run.
_PAGE = 256


class Cache(ComponentHandle):
    """A cache. Valid across restarts of its actor; `NotStarted` until the component runs.

    Bytes and text are stored as they are, whole numbers in decimal, other values by the codec; a value is read as
    bytes, or as the `type` that is asked for. A miss is None, so None cannot be stored.

    Every method is atomic, and a cancellation point before anything is done: a cancel that comes out means that nothing
    was done. Other tasks are let run once in 64 calls of a task that never waits. All may raise `NotDelivered` while
    the cache is down for too long, `ActorStopped`, and `ValueError` for an empty key.

    A `ttl` is in seconds; without one it is `Config.default_ttl`; `math.inf` means that there is no end.
    """

    def __init__(self, name: str, config: Config) -> None:
        super().__init__(name)
        self._config = config
        self._opened: Access | None = None
        self.hashes = Hashes(self._access)
        self.sets = Sets(self._access)
        self.sorted_sets = SortedSets(self._access)
        self.blooms = Blooms(self._access)

    # --- one value ----------------------------------------------------------------------------------------------------

    @overload
    async def get(self, key: str) -> bytes | None: ...

    @overload
    async def get(self, key: str, *, type: type[T]) -> T | None: ...

    async def get(self, key: str, *, type: Any = bytes) -> Any:
        """The value under a key, or None.

        Raises `ValueInvalid` if it cannot be read as a `type`, and `WrongKind` if the key holds a collection.
        """
        access = self._access()
        data = await access.run(strings.read, access.keys.full(key))
        return None if data is None else access.codec.decode(key, data, type)

    async def set(self, key: str, value: object, *, ttl: float | None = None, tags: Iterable[str] = ()) -> None:
        """Store a value in place of whatever is there.

        `tags` are names by which `invalidate_tags` can end it. Raises `ValueError` for None and for a ttl that is not
        more than 0, and `TypeError` for what cannot be encoded.
        """
        access = self._access()
        data = access.codec.encode(value)
        await access.run(strings.write, access.keys.full(key), data, access.seconds(ttl), access.tags(tags))

    async def set_if_absent(self, key: str, value: object, *, ttl: float | None = None) -> bool:
        """As `set`, if there is nothing under the key. Whether it was stored."""
        access = self._access()
        data = access.codec.encode(value)
        return await access.run(strings.write_if_absent, access.keys.full(key), data, access.seconds(ttl))

    @overload
    async def get_and_set(self, key: str, value: object, *, ttl: float | None = None) -> bytes | None: ...

    @overload
    async def get_and_set(self, key: str, value: object, *, ttl: float | None = None, type: type[T]) -> T | None: ...

    async def get_and_set(self, key: str, value: object, *, ttl: float | None = None, type: Any = bytes) -> Any:
        """As `set`; returns the value that was there before, or None.

        Raises `WrongKind`, having stored nothing, and `ValueInvalid`, having stored the new value.
        """
        access = self._access()
        data = access.codec.encode(value)
        before = await access.run(strings.swap, access.keys.full(key), data, access.seconds(ttl))
        return None if before is None else access.codec.decode(key, before, type)

    async def increment(self, key: str, by: int = 1) -> int:
        """Add to a whole number and return the sum. One that is not there begins at 0, without an end.

        An end that it has stays. Raises `NotANumber`, and `WrongKind`.
        """
        access = self._access()
        return await access.run(strings.add, access.keys.full(key), checked("by", by, int))

    async def decrement(self, key: str, by: int = 1) -> int:
        """As `increment`, downwards."""
        return await self.increment(key, -by)

    # --- several ------------------------------------------------------------------------------------------------------

    @overload
    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]: ...

    @overload
    async def get_many(self, keys: Iterable[str], *, type: type[T]) -> dict[str, T]: ...

    async def get_many(self, keys: Iterable[str], *, type: Any = bytes) -> Any:
        """The values under those of the keys that are there. Raises as `get` does."""
        access = self._access()
        wanted = list(dict.fromkeys(keys))
        found = await access.run(strings.read_many, list(map(access.keys.full, wanted)))
        pairs = zip(wanted, found, strict=True)
        return {key: access.codec.decode(key, data, type) for key, data in pairs if data is not None}

    async def set_many(
        self, values: Mapping[str, object], *, ttl: float | None = None, tags: Iterable[str] = ()
    ) -> None:
        """Store several values, as `set` does; if one of them cannot be stored, none is."""
        access = self._access()
        encoded = {access.keys.full(key): access.codec.encode(value) for key, value in values.items()}
        await access.run(strings.write_many, encoded, access.seconds(ttl), access.tags(tags))

    async def delete(self, *keys: str) -> int:
        """Delete keys of any kind. How many there were.

        A load of such a key that is under way does not store what it gives, for it may have read what was there before.
        """
        access = self._access()
        return await access.run(strings.remove, list(map(access.keys.full, keys)))

    async def exists(self, *keys: str) -> int:
        """How many of the keys there are, of any kind; one that is named twice counts twice."""
        access = self._access()
        return await access.run(strings.count_existing, list(map(access.keys.full, keys)))

    # --- time ---------------------------------------------------------------------------------------------------------

    async def expire(self, key: str, *, ttl: float) -> bool:
        """Let a key of any kind end in `ttl` seconds. False if there is no such key. Raises `ValueError`."""
        access = self._access()
        return await access.run(strings.expire, access.keys.full(key), checked_seconds("ttl", ttl))

    async def persist(self, key: str) -> bool:
        """Let a key have no end. False if there is no such key."""
        access = self._access()
        return await access.run(strings.expire, access.keys.full(key), float("inf"))

    async def ttl(self, key: str) -> float | None:
        """Seconds until a key ends; `math.inf` if it has no end. None if there is no such key."""
        access = self._access()
        return await access.run(strings.time_left, access.keys.full(key))

    # --- loading ------------------------------------------------------------------------------------------------------

    @overload
    async def get_or_load(
        self,
        key: str,
        load: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        type: type[T],
        ttl: float | None = None,
        negative_ttl: float | None = None,
        tags: Iterable[str] = (),
        policy: LoadPolicy | None = None,
    ) -> T: ...

    @overload
    async def get_or_load(
        self,
        key: str,
        load: Callable[[*Ts], Awaitable[T | None]],
        *args: *Ts,
        type: type[T],
        ttl: float | None = None,
        negative_ttl: float | None = None,
        tags: Iterable[str] = (),
        policy: LoadPolicy | None = None,
    ) -> T | None: ...

    @overload
    async def get_or_load(
        self,
        key: str,
        load: Callable[[*Ts], Awaitable[bytes]],
        *args: *Ts,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        tags: Iterable[str] = (),
        policy: LoadPolicy | None = None,
    ) -> bytes: ...

    @overload
    async def get_or_load(
        self,
        key: str,
        load: Callable[[*Ts], Awaitable[bytes | None]],
        *args: *Ts,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        tags: Iterable[str] = (),
        policy: LoadPolicy | None = None,
    ) -> bytes | None: ...

    async def get_or_load(
        self,
        key: str,
        load: Callable[[*Ts], Awaitable[object]],
        *args: *Ts,
        type: Any = bytes,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        tags: Iterable[str] = (),
        policy: LoadPolicy | None = None,
    ) -> Any:
        """The value under a key; if it is not there, that of ``await load(*args)``, which is then stored.

        Whoever asks for the key while it is being loaded gets the value of the same load, decoded anew for each. A load
        runs in a task of the cache, with the baggage of the caller who began it but not his deadline: it goes on when
        callers are cancelled. It must be safe to repeat; it is run again if the cache dies over it.

        Parameters
        ----------
        load
            What it raises, its callers get, each a copy of the exception. Nothing is stored then.
        negative_ttl
            If `load` returns None, that is remembered for so many seconds: callers get None without a load. None: it is
            not remembered.
        tags
            As of `set`. What they end while it is being loaded is not used.
        policy
            About jitter, early refreshes, stale values and timeouts; `Config.loading` without one.

        Raises
        ------
        LoadTimeout
            The load took longer than the policy's `hard_timeout`, and there is no stale value.
        LoadCycle
            The load asks for its own key, directly or through others.
        ValueInvalid
            What the load returns is no `type`. What is cached and cannot be read so, is loaded anew.
        WrongKind
            The key holds a collection.
        """
        access = self._access()
        until = None if negative_ttl is None else checked_seconds("negative_ttl", negative_ttl)
        rules = (access.seconds(ttl), until, access.tags(tags), policy or access.policy)
        return await access.load(key, load, args, type, *rules)

    async def invalidate_tags(self, *tags: str) -> None:
        """Let whatever was stored with one of these tags end. It takes the same time however much that is."""
        access = self._access()
        await access.run(strings.invalidate, access.tags(tags))

    # --- keys ---------------------------------------------------------------------------------------------------------

    async def keys(self, prefix: str = "") -> list[str]:
        """All keys, of any kind, that begin with `prefix`. For a cache with many keys see `scan`."""
        return [key async for key in self.scan(prefix)]

    def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Iterate over the keys, of any kind, that begin with `prefix`.

        What is there all the time is told, once; what comes or goes meanwhile may be told or not.
        """
        return _Scan(self._access(), prefix)

    # --- locks --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lock(
        self, key: str, *, ttl: float = 30.0, wait: bool = True, max_hold: float = 3600.0
    ) -> AsyncGenerator[Lock]:
        """Hold a lock for the length of the block; it is given back however the block is left.

        Locks are granted in the order in which they were asked for. A lock is renewed for as long as the block runs, at
        most `max_hold` seconds. If it is lost, the block is cancelled, and `LockLost` raised in its place. Send
        `Lock.token` along to what the lock protects, for a block may not notice at once.

        Parameters
        ----------
        key
            The name of the lock. It has nothing to do with an entry of that name.
        ttl
            For how many seconds the lock outlives a holder that does not renew it any more.
        wait
            False: raise `LockHeld` instead of waiting.
        max_hold
            After so many seconds the lock is lost, so that a block that hangs cannot keep it for ever. `math.inf`: no
            limit.

        Raises
        ------
        LockHeld
            Somebody holds it, and `wait` is False.
        LockNested
            This task holds it.
        LockLost
            It was lost before the block ended. What the block raises itself goes first.
        """
        times = (checked_seconds("ttl", ttl), checked_seconds("max_hold", max_hold))
        lock = await self._access().lock(key, *times, wait)
        try:
            with lock.scope:
                yield lock
        finally:
            lock.leave()
        lock.check()

    # --- being looked at ----------------------------------------------------------------------------------------------

    def statistics(self) -> Statistics | None:
        """What the present incarnation has seen; None between two of them."""
        lease = self._access().granted()
        return None if lease is None else lease.store.statistics()

    def _started(self) -> None:
        self._opened = Access(self._cell(), self._handle(CacheActor), self._config)

    def _access(self) -> Access:
        self._running()
        assert self._opened is not None
        return self._opened


@final
class _Scan(AsyncIterator[str]):
    """The keys of one moment, looked at page by page."""

    def __init__(self, access: Access, prefix: str) -> None:
        self._access = access
        self._prefix = access.keys.prefix + prefix
        self._rest: list[str] | None = None  # the last one first
        self._page: list[str] = []

    async def __anext__(self) -> str:
        if self._rest is None:
            self._rest = (await self._access.run(strings.all_keys))[::-1]
        while not self._page:
            if not self._rest:
                await trio.lowlevel.checkpoint()
                raise StopAsyncIteration
            looked_at = [key for key in self._rest[-_PAGE:] if key.startswith(self._prefix)]
            del self._rest[-_PAGE:]
            self._page = await self._access.run(strings.still_there, looked_at)
        return self._access.keys.bare(self._page.pop())
