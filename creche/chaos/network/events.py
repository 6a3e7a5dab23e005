"""What a proxy tells on the runtime's event hook."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.events import Event


@dataclass(frozen=True, slots=True)
class ConnectionOpened(Event):
    """A client has connected. `number` counts from 1; `faults` are the names of those that strike it from the start."""

    number: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConnectionClosed(Event):
    """A connection has ended.

    `how`: ``done`` (both sides have closed), ``reset``, ``close`` (cut in an orderly way), ``unreachable`` (there was
    no server) or ``stopped`` (with the proxy). `upstream` and `downstream` are the bytes that were passed on.
    """

    number: int
    how: str
    upstream: int
    downstream: int


@dataclass(frozen=True, slots=True)
class FaultsChanged(Event):
    """Other faults are in force, `faults` by name. `struck` open connections have been struck by a new one."""

    faults: tuple[str, ...]
    struck: int


@dataclass(frozen=True, slots=True)
class ListenerChanged(Event):
    """The proxy accepts connections again, or refuses them from now on."""

    listening: bool


@dataclass(frozen=True, slots=True)
class UpstreamUnreachable(Event):
    """The server could not be reached, so the client's connection `number` is reset."""

    number: int
    error: str
