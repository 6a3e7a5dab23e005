"""Unique ids: Snowflakes with a leased worker id, and UUIDv7.

`uuid7`, `is_uuid7` and `parse` need no runtime. Snowflakes come from the handle `Uid`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...runtime.component import ComponentSpec, by_config
from ...runtime.config import validated
from ...runtime.spec import child
from .actor import UidActor
from .config import Config, default_config
from .errors import ClockMovedBack, LayoutExhausted, MarkReached, NoWorkerIdFree, WorkerIdLost
from .events import IdsAvailable, IdsUnavailable, WorkerIdLeased, WorkerIdWasLost
from .snowflake import Layout, Snowflake, SnowflakeStatistics, from_text, parse, to_text
from .uuid7 import Uuid7Statistics, is_uuid7, uuid7_time

# isort: split
from .handle import Uid, uuid7  # last, so that `uuid7` is the function and not the module above

__all__ = [
    "ClockMovedBack",
    "Config",
    "IdsAvailable",
    "IdsUnavailable",
    "Layout",
    "LayoutExhausted",
    "MarkReached",
    "NoWorkerIdFree",
    "Snowflake",
    "SnowflakeStatistics",
    "Uid",
    "Uuid7Statistics",
    "WorkerIdLeased",
    "WorkerIdLost",
    "WorkerIdWasLost",
    "component",
    "default_config",
    "from_text",
    "is_uuid7",
    "parse",
    "to_text",
    "uuid7",
    "uuid7_time",
]


def component(
    config: Config | None = None, *, name: str = "uid", now_ms: Callable[[], int] | None = None
) -> ComponentSpec[Uid]:
    """Unique ids, as a child of the foundation.

    Parameters
    ----------
    config
        Where worker ids are leased, and what an id looks like. None takes the section of the app's configuration that
        is called as the component, over `default_config` of its environment; outside of an app
        `default_config("development")`.
    name
        Of the actor in the tree.
    now_ms
        Reads the wall clock in Unix milliseconds. Default: the runtime's wall clock.

    Raises
    ------
    ConfigInvalid
        A value is out of range, or the values do not fit together.
    """
    if config is None:
        return by_config(Config, lambda chosen: component(chosen, name=name, now_ms=now_ms))
    checked = validated(config)
    handle = partial(Uid, config=checked, now_ms=now_ms)
    return ComponentSpec(name, child(UidActor, checked, now_ms), handle, layer="foundation")
