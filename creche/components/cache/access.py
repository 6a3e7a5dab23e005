"""The way from the handle to the cache: commands, loads and locks on the lease of the incarnation that lives.

There is no await between looking at the lease and using it, so one that has been revoked is never used. Every method
here is a cancellation point, before anything has been done; what was done is not undone by a cancel.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, TypeVarTuple, cast, final

from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from ...runtime.context import baggage
from ...runtime.errors import OutcomeUnknown
from ...runtime.handle import Handle
from . import strings
from .actor import CacheActor, CacheLease
from .codec import Codec
from .config import Config, LoadPolicy
from .errors import LeaseLost, NotANumber, ValueInvalid, WrongKind
from .events import EntryReplaced
from .keys import Keys
from .loads import Job
from .lock import Lock
from .store import Store

if TYPE_CHECKING:
    from ...runtime.cell import Cell

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# A task that uses the cache in a loop lets others run once in so many: each time would cost more than the command.
_YIELD_EVERY = 64


@final
class Access:
    """See above. One for each time that a handle is bound."""

    def __init__(self, cell: Cell, actor: Handle[CacheActor], config: Config) -> None:
        prefix = f"{cell.runtime.name}:" if config.key_prefix is None else config.key_prefix
        self.keys = Keys(prefix)
        self.codec = Codec(config.codec)
        self.policy = config.loading
        self._default_ttl = math.inf if config.default_ttl is None else config.default_ttl
        self._cell = cell
        self._actor = actor
        self._turns = 0

    async def run(self, command: Callable[Concatenate[Store, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a command; its keys are full ones."""
        lease = await self._lease()
        try:
            value = command(lease.store, *args, **kwargs)
        except (WrongKind, NotANumber) as error:
            error.key = self.keys.bare(error.key)
            raise
        except Exception as error:
            raise lease.fail(error) from error
        return value

    async def load(
        self,
        key: str,
        load: Callable[[*Ts], Awaitable[object]],
        args: tuple[*Ts],
        type: Any,
        ttl: float,
        negative_ttl: float | None,
        tags: tuple[str, ...],
        policy: LoadPolicy,
    ) -> Any:
        """See `Cache.get_or_load`."""
        full_key = self.keys.full(key)
        found = (await self._lease()).loads.hit(full_key, policy)
        if found is not None:
            try:
                return None if found.negative else self.codec.decode(key, found.value, type)
            except ValueInvalid:
                pass  # it is loaded anew below

        async def run() -> bytes | None:
            value = await load(*args)
            return None if value is None else self._encoded(key, value, type)

        def job() -> Job:
            return Job(key, run, ttl, negative_ttl, tags, policy, baggage())

        while True:
            data, loaded = await self._get(full_key, policy, job)
            if data is None:
                return None
            try:
                return self.codec.decode(key, data, type)
            except ValueInvalid as error:
                if loaded:
                    raise
                await self._discard(full_key, error)

    async def lock(self, key: str, ttl: float, max_hold: float, wait: bool) -> Lock:
        """Take a lock, wherever it is granted by then."""
        full_key = self.keys.of_lock(key)
        while True:
            lease = await self._lease()
            try:
                return await lease.locks.acquire(key, full_key, ttl, max_hold, wait)
            except LeaseLost:
                pass

    def granted(self) -> CacheLease | None:
        """What the present incarnation has granted; None between two of them."""
        lease = cast("CacheLease | None", self._cell.granted)
        return None if lease is None or lease.over else lease

    def seconds(self, ttl: float | None) -> float:
        """A ttl that a user gave, or else the default one. Raises `ValueError`."""
        return self._default_ttl if ttl is None else checked_seconds("ttl", ttl)

    def tags(self, tags: Iterable[str]) -> tuple[str, ...]:
        """Full tags, each once. Raises `TypeError` for a text, which would be taken for many tags of one character."""
        if tags == ():
            return ()
        if isinstance(tags, str):
            raise TypeError(f"tags = {tags!r}: pass several, for instance [{tags!r}]")
        return tuple(dict.fromkeys(map(self.keys.of_tag, tags)))

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _lease(self) -> CacheLease:
        """That of the incarnation that lives. A cancellation point, and now and then a full checkpoint."""
        self._turns += 1
        if self._turns % _YIELD_EVERY:
            await checkpoint_if_cancelled()
        else:
            await checkpoint()
        lease = self.granted()
        while lease is None:
            try:
                await self._actor.call(CacheActor.ready)
            except OutcomeUnknown:
                pass  # the actor died over the question, which does no harm asked twice
            lease = self.granted()
        return lease

    async def _get(self, full_key: str, policy: LoadPolicy, job: Callable[[], Job]) -> tuple[bytes | None, bool]:
        while True:
            lease = await self._lease()
            try:
                return await lease.loads.get(full_key, policy, job)
            except LeaseLost:
                pass
            except WrongKind as error:
                error.key = self.keys.bare(error.key)
                raise

    def _encoded(self, key: str, value: object, type: Any) -> bytes:
        data = self.codec.encode(value)
        self.codec.decode(key, data, type)  # what could not be read must not be cached
        return data

    async def _discard(self, full_key: str, error: ValueInvalid) -> None:
        await self.run(strings.remove, [full_key])
        cell = self._cell
        if cell.runtime.events.on:
            cell.emit(EntryReplaced, error.key, error.reason)


def checked_seconds(name: str, seconds: float) -> float:
    """The same number; raises `ValueError` if it is not more than 0."""
    if not seconds > 0:
        raise ValueError(f"{name} = {seconds!r}: seconds, more than 0; math.inf for no end")
    return seconds


def checked(name: str, value: T, kind: type[T]) -> T:
    """The same value; raises `TypeError` if it is not of that kind: a command that failed of it would be a crash."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} = {value!r}: expected {kind.__name__}")
    return value
