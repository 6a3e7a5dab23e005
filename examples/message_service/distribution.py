"""Who gets a message: pure policy, no I/O. `delivery` carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from .errors import InvalidInput

REALTIME_GROUP_LIMIT = 500  # members; a larger group gets its messages in batches, in the background


class Kind(StrEnum):
    """The kinds of sessions."""

    SINGLE = "single"
    GROUP = "group"
    WORLD = "world"


@dataclass(frozen=True)
class Direct:
    """Both partners of a conversation, at once."""

    members: tuple[str, ...]


@dataclass(frozen=True)
class Fanout:
    """All members of a group that is small enough, at once."""

    members: tuple[str, ...]


@dataclass(frozen=True)
class Scheduled:
    """The members of a large group, one batch after another."""

    batches: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class World:
    """Everybody: stored once, and merged into each inbox when it is read."""


Plan = Direct | Fanout | Scheduled | World


def plan(kind: str, members: Sequence[str], *, realtime_group_limit: int = REALTIME_GROUP_LIMIT) -> Plan:
    """How a message of such a session is to be delivered.

    Raises `InvalidInput` for an unknown kind, and for members that do not go with the kind.
    """
    if len(set(members)) != len(members):
        raise InvalidInput("members: somebody is named twice")
    match kind, len(members):
        case Kind.SINGLE, 2:
            return Direct(tuple(members))
        case Kind.GROUP, count if 0 < count <= realtime_group_limit:
            return Fanout(tuple(members))
        case Kind.GROUP, count if count:
            return Scheduled(_batches(tuple(members), realtime_group_limit))
        case Kind.WORLD, 0:
            return World()
    raise InvalidInput(_complaint(kind, len(members)))


def _batches(members: tuple[str, ...], size: int) -> tuple[tuple[str, ...], ...]:
    return tuple(members[start : start + size] for start in range(0, len(members), size))


def _complaint(kind: str, count: int) -> str:
    match kind:
        case Kind.SINGLE:
            return f"members: a single session has 2, not {count}"
        case Kind.GROUP:
            return "members: a group has at least 1"
        case Kind.WORLD:
            return f"members: the world session has no list of members, this one names {count}"
        case _:
            return f"kind: one of {', '.join(Kind)}, not {kind[:40]!r}"
