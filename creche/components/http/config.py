"""Where the server listens and how long it waits."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ...runtime.config import Config, PositiveSeconds
from ...runtime.spec import Environment


class ServerConfig(Config, frozen=True, kw_only=True):
    """Times are in seconds.

    `read_timeout` bounds the wait for the next bytes of a request's body, `write_timeout` that for the application's
    whole response, `idle_timeout` that for the head of the next request on a connection. `drain` is what open
    connections get at a stop.

    At most `requests` are handled at once, the others wait in line. The server has too much to do when those that are
    let in have waited longer than `wait_target` for all of `wait_interval`. Then, until the line has been empty once,
    requests that have waited longer than `wait_target` are refused: 503.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    backlog: Annotated[int, Meta(ge=1)] = 1024
    read_timeout: PositiveSeconds = 30.0
    write_timeout: PositiveSeconds = 60.0
    idle_timeout: PositiveSeconds = 15.0
    drain: PositiveSeconds = 3.0
    requests: Annotated[int, Meta(ge=1)] = 1024
    wait_target: PositiveSeconds = 1.0
    wait_interval: PositiveSeconds = 10.0

    @classmethod
    def for_environment(cls, env: Environment) -> ServerConfig:
        """See `default_config`."""
        return default_config(env)


def default_config(env: Environment) -> ServerConfig:
    """Loopback in development, all interfaces in production, port 8000."""
    return ServerConfig(host="0.0.0.0" if env == "production" else "127.0.0.1")  # behind the platform's firewall
