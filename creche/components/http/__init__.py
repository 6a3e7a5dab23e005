"""HTTP: an ASGI application served by an actor at the edge of the tree, on Hypercorn's Trio worker.

The listening socket belongs to the cell, not to the incarnation: while the actor restarts, the kernel keeps accepting
connections into the backlog, and clients see a pause where they would see a refusal.
"""

from __future__ import annotations

from ...runtime.asgi import ASGIApp
from ...runtime.component import ComponentSpec, by_config
from ...runtime.config import validated
from ...runtime.spec import child
from .actor import HttpActor, ServerStatistics
from .config import ServerConfig, default_config
from .handle import HttpServer

__all__ = ["ASGIApp", "HttpServer", "ServerConfig", "ServerStatistics", "default_config", "http_server"]


def http_server(config: ServerConfig | None, app: ASGIApp, *, name: str = "http") -> ComponentSpec[HttpServer]:
    """An HTTP/1.1 and HTTP/2 server for `app`, as a child of the edge.

    Parameters
    ----------
    config
        Where to listen, and for how long to wait. None takes the section ``server`` of the app's configuration, or that
        of its name if it is not called ``http``. Port 0 lets the kernel choose: ask the handle for the address.
    app
        An ASGI application. Its calls to actors run in the requests' tasks, so a client that goes away cancels what
        it waits for.
    name
        Of the actor in the tree, and, if it is not ``http``, of the section.

    Raises
    ------
    ConfigInvalid
        A value is out of range.
    """
    if config is None:
        return by_config(ServerConfig, lambda chosen: http_server(chosen, app, name=name))
    checked = validated(config)
    patience = checked.drain + 1.0  # of the stop as a whole, and of the exit of the lifespan, which does the draining
    inner = child(HttpActor, checked, app).options(drain=patience, shutdown=patience)
    return ComponentSpec(name, inner, HttpServer, layer="edge", section="server" if name == "http" else "")
