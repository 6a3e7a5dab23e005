"""A cache: values with a time to live, hashes, sets, sorted sets, loads that run once for all who ask, locks.

::

    cache = app.use(cache.component())

    profile = await cache.get_or_load(f"user:{id}:profile", fetch_profile, id, type=Profile, ttl=3600)

Today it lives in this process. See ``docs/components/cache.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...runtime.component import ComponentSpec, by_config
from ...runtime.config import validated
from ...runtime.spec import child
from .actor import CacheActor
from .config import Config as Config
from .config import LoadPolicy as LoadPolicy
from .config import default_config as default_config
from .errors import LoadCycle as LoadCycle
from .errors import LoadTimeout as LoadTimeout
from .errors import LockHeld as LockHeld
from .errors import LockLost as LockLost
from .errors import LockNested as LockNested
from .errors import NotANumber as NotANumber
from .errors import ValueInvalid as ValueInvalid
from .errors import WrongKind as WrongKind
from .events import EntryReplaced as EntryReplaced
from .events import LoadFailed as LoadFailed
from .events import LockWasLost as LockWasLost
from .handle import Cache as Cache
from .lock import Lock as Lock
from .store import Statistics as Statistics


def component(
    config: Config | None = None, *, name: str = "cache", now_ms: Callable[[], int] | None = None
) -> ComponentSpec[Cache]:
    """A cache as a child for an app, a supervisor or a runtime.

    Parameters
    ----------
    config
        None takes the section ``cache`` of the app's configuration, over `default_config` of its environment; outside
        of an app `default_config("development")`.
    name
        Of the actor in the tree.
    now_ms
        Reads the wall clock in Unix milliseconds: where the fencing tokens of locks begin. Default: the runtime's.

    Raises
    ------
    ConfigInvalid
        A value is out of range.
    """
    if config is None:
        return by_config(Config, lambda chosen: component(chosen, name=name, now_ms=now_ms))
    checked = validated(config)
    return ComponentSpec(name, child(CacheActor, checked, now_ms), partial(Cache, config=checked))
