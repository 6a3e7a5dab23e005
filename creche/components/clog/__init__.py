"""Structured logging: lines with the actor, the trace and the caller's fields, which nobody waits for.

::

    app.use(clog.component())
    log = clog.namespace("orders").bind(shop=7)
    log.info("order placed", order_id=order.id)

The functions work everywhere: before, outside of and after a running component they write warnings and worse
to standard error.
"""

from __future__ import annotations

from collections.abc import Callable

from ...runtime.component import ComponentSpec, by_config
from ...runtime.config import validated
from ...runtime.spec import child
from .actor import ClogActor
from .asgi import asgi_middleware
from .capture import Capture, capture
from .config import Config, Rotation, Sampling, default_config
from .errors import OutputFailed
from .handle import Clog
from .levels import Level
from .logger import Logger, critical, debug, error, exception, info, logger, namespace, warning
from .outlet import Statistics
from .trace import is_trace_id, new_trace_id, trace, trace_id, traced

__all__ = [
    "Capture",
    "Clog",
    "Config",
    "Level",
    "Logger",
    "OutputFailed",
    "Rotation",
    "Sampling",
    "Statistics",
    "asgi_middleware",
    "capture",
    "component",
    "critical",
    "debug",
    "default_config",
    "error",
    "exception",
    "info",
    "is_trace_id",
    "logger",
    "namespace",
    "new_trace_id",
    "trace",
    "trace_id",
    "traced",
    "warning",
]


def component(
    config: Config | None = None, *, name: str = "clog", clock: Callable[[], float] | None = None
) -> ComponentSpec[Clog]:
    """The log of a runtime, in its foundation. One runtime has one.

    Parameters
    ----------
    config
        None takes the section of the app's configuration that is called as the component, over `default_config` of its
        environment; outside of an app `default_config("development")`.
    name
        Of the actor in the tree.
    clock
        Seconds since the epoch, for the time of each line. Default: the runtime's wall clock.

    Raises
    ------
    ConfigInvalid
        A value is wrong. An output that cannot be opened is found out at the start, which then fails.
    """
    if config is None:
        return by_config(Config, lambda chosen: component(chosen, name=name, clock=clock))
    return ComponentSpec(name, child(ClogActor, validated(config), clock), Clog, layer="foundation")
