"""Who talks to whom in the demo: sessions of every kind, and who posts each message."""

from __future__ import annotations

from collections.abc import Iterator

from .distribution import REALTIME_GROUP_LIMIT, Kind
from .model import Session, User

CROWD = tuple(sorted(f"user-{number}" for number in range(REALTIME_GROUP_LIMIT + 1)))
FRIENDS = CROWD[:7]


def _session(number: int) -> Session:
    name = f"session-{number}"
    if number == 0:
        return Session(name, Kind.WORLD)
    if number == 1:
        return Session(name, Kind.GROUP, CROWD)
    if number % 2:
        return Session(name, Kind.GROUP, FRIENDS)
    return Session(name, Kind.SINGLE, (FRIENDS[number % 3], FRIENDS[3 + number % 4]))


USERS = tuple(User(name, name.title()) for name in CROWD)
SESSIONS = tuple(map(_session, range(50)))


def session_of(number: int) -> Session:
    """The session that the message of this number goes to."""
    return SESSIONS[number % len(SESSIONS)]


def poster_of(number: int) -> str:
    """Who posts the message of this number: a member of its session."""
    may_post = session_of(number).members or CROWD
    return may_post[number // len(SESSIONS) % len(may_post)]


def inbox_rows(session: Session, message_id: int) -> Iterator[tuple[str, int]]:
    """What one message leaves in the inboxes. What is for everybody is stored once, under no name."""
    return ((user, message_id) for user in session.members or ("",))
