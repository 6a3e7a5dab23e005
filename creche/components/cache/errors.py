"""What the cache answers when it does not answer with a value. A miss is no error: it is None.

None of them shows a value that is cached, for it may be a secret.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import trio

from ...runtime.errors import CallFailed, CrecheError, DomainError, Unavailable

Kind = Literal["string", "hash", "set", "sorted_set", "bloom"]
LossReason = Literal["expired", "max_hold", "ended"]


class WrongKind(CrecheError):
    """The key holds another kind of value than the method is for. A bug of whoever chose the key; nothing was done.

    `found` is what it holds, `wanted` what the method works on.
    """

    def __init__(self, key: str, found: Kind, wanted: Kind) -> None:
        super().__init__(key, found, wanted)
        self.key = key
        self.found: Kind = found
        self.wanted: Kind = wanted

    def __str__(self) -> str:
        return f"{self.key!r} holds a {self.found}, not a {self.wanted}"


class NotANumber(CrecheError):
    """What is to be incremented is no decimal integer of 64 bits, or would not be one any more. Nothing was changed.

    Of a score in a sorted set: the sum would be NaN.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.key!r}: {self.reason}"


class ValueInvalid(CrecheError):
    """What is cached under the key cannot be read as the type that was asked for.

    It was stored as another type, or by another version of the program. It is left in the cache. Contrast
    `get_or_load`, which replaces what it cannot read.
    """

    def __init__(self, key: str, type: object, reason: str) -> None:
        super().__init__(f"{key!r} does not hold a {getattr(type, '__name__', type)}: {reason}")
        self.key = key
        self.type = type
        self.reason = reason


class LoadTimeout(Unavailable, trio.TooSlowError):
    """The load of `key` took longer than `seconds`, the policy's `hard_timeout`, and was cancelled.

    It is only raised where there is no stale value to fall back on. It crashes no actor on its way, as `Unavailable`.
    """

    def __init__(self, name: str, key: str, seconds: float) -> None:
        super().__init__(name, f"loading {key!r} took longer than {seconds:g} s")
        self.key = key
        self.seconds = seconds


class LoadCycle(CrecheError):
    """The load would wait for itself. `chain` lists the keys, from the one being loaded round to itself."""

    def __init__(self, chain: tuple[str, ...]) -> None:
        super().__init__("load cycle: " + " -> ".join(map(repr, chain)) + "; a load must not ask for its own key")
        self.chain = chain


class LockHeld(DomainError):
    """Somebody else holds the lock, and the caller did not want to wait.

    `retry_after` is in seconds: by then the lock is free unless its holder renews it.
    """

    http_status: ClassVar[int] = 409
    grpc_status: ClassVar[str] = "ABORTED"

    def __init__(self, key: str, retry_after: float | None = None) -> None:
        super().__init__(409, "it is being worked on already")
        self.key = key
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"the lock {self.key!r} is held"


class LockNested(CrecheError):
    """The task that holds the lock waits for it again, and would wait for itself."""

    def __init__(self, key: str) -> None:
        super().__init__(f"this task holds the lock {key!r} already; locks are not re-entrant")
        self.key = key


class LockLost(CallFailed):
    """The lock was lost while the block ran: somebody else may hold it since then. The block has been cancelled.

    `reason`: ``expired`` (it could not be renewed in time: the event loop stood still for longer than its ttl),
    ``max_hold`` (the block took longer than that), ``ended`` (the cache's incarnation has ended, and its locks with
    it). `token` is the fencing token that was lost.
    """

    def __init__(self, path: str, key: str, token: int, reason: LossReason) -> None:
        super().__init__(path, f"the lock {key!r} (token {token}) was lost ({reason})")
        self.key = key
        self.token = token
        self.reason: LossReason = reason


class LeaseLost(Exception):
    """The incarnation whose lease was used has ended: ask for the next one. Never leaves the component."""
