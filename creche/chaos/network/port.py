"""A port that can refuse connections and come back.

While nobody listens, the kernel refuses connections; but somebody else could take the port. So a second socket, which
is bound to the same address and never listens, holds it for as long as the `Port` lives.

Servers set SO_REUSEADDR, and Linux gives them a port whose other sockets all have it and do not listen. So the socket
that holds the port has it only while we listen, or are about to. The option is taken away from the bound socket: to
bind without it would fail as long as a connection of that port is open, or in TIME_WAIT.
"""

from __future__ import annotations

import socket
import sys
from typing import final

Address = tuple[str, int]

_BACKLOG = 1024
_ADDRESS_IS_SHARED = sys.platform == "linux"


@final
class Port:
    """Listens when it is made. Raises OSError with the address in its text if it cannot."""

    def __init__(self, address: Address) -> None:
        self._held = _bound(address)
        host, port = self._held.getsockname()[:2]
        self.address: Address = (host, port)
        self.listener: socket.socket | None = None
        """The socket that listens; None while connections are refused."""
        try:
            self.open()
        except OSError:
            self.close()
            raise

    def open(self) -> None:
        """Listen. Does nothing if it does already. Raises OSError, and goes on refusing, if somebody else does."""
        if self.listener is None:
            self._share(True)
            try:
                self.listener = _listening(self.address)
            except OSError:
                self._share(False)
                raise

    def refuse(self) -> None:
        """Stop to listen; the port stays ours. Whoever waits to be accepted is reset."""
        if self.listener is not None:
            self._share(False)
            self.listener.close()
            self.listener = None

    def close(self) -> None:
        """Give the port back."""
        self.refuse()
        self._held.close()

    def _share(self, shared: bool) -> None:
        if _ADDRESS_IS_SHARED:
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, shared)


def _listening(address: Address) -> socket.socket:
    listener = _bound(address)
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(address, error) from None
    return listener


def _bound(address: Address) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # On Linux this lets two sockets have one address unless one of them listens; elsewhere it takes the second.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not _ADDRESS_IS_SHARED:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setblocking(False)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _cannot_listen(address, error) from None
    return bound


def _cannot_listen(address: Address, error: OSError) -> OSError:
    return OSError(error.errno, f"cannot listen on {address[0]}:{address[1]}: {error.strerror}")
