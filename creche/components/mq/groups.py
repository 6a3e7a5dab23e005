"""Consumer groups in SQLite: members, who reads what, and how far. Plain blocking code on the log's connection.

Theory of operation
-------------------
A group rebalances step by step and without stopping anybody, as Kafka's newer protocol does (KIP-848). Each member
*syncs* now and then, which is its heartbeat, and whenever it hears of a change. A sync is one transaction: it expels
members that are dead, works out who should read what (see `assignor`), and gives this member what is meant for it and
belongs to nobody. What it has and should not have it is told to release: it ends the handlers that run there, and
`release` commits and frees the partition in one transaction. So a partition has one owner at most. Who does not release
within the rebalance timeout loses the partition.

Each ownership has a token, a number that never comes again, and a commit holds only with the token of the present
owner: what a member that has lost its partition still commits has no effect (fencing).

A member's row lives on when its actor crashes: the next incarnation syncs under the same name and gets the same
partitions. Dead is whoever's process has ended (see `sessions`), and whoever has not synced for the session timeout;
the latter counts only when the log itself has been there all that time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal

import msgspec

from .assignor import assign
from .config import Config
from .errors import GroupActive
from .log import Log
from .message import TopicPartition
from .schema import transaction
from .sessions import Session

End = Literal["beginning", "end"]

_COMMIT = 'INSERT OR REPLACE INTO commits ("group", topic, partition, "offset") VALUES (?, ?, ?, ?)'
_JOIN = """
INSERT OR IGNORE INTO commits SELECT ?, topic, partition, CASE WHEN ? THEN next_offset ELSE begin_offset END
FROM topics WHERE topic = ?
"""
_COMMITTED = 'SELECT partition, "offset" FROM commits WHERE "group" = ? AND topic = ?'
_AHEAD = """
SELECT partition, "offset", next_offset FROM commits JOIN topics USING (topic, partition)
WHERE "group" = ? AND topic = ? ORDER BY partition
"""
_COMMITS = 'SELECT topic, partition, "offset" FROM commits WHERE "group" = ? ORDER BY topic, partition'
_NAMES = 'SELECT "group" FROM commits UNION SELECT "group" FROM members ORDER BY "group"'
_LAG = """
SELECT topic, partition, max(0, next_offset - max("offset", begin_offset)) FROM commits JOIN topics
USING (topic, partition) WHERE "group" = ? ORDER BY topic, partition
"""
_MEMBERS = 'SELECT member, session, topics, expires FROM members WHERE "group" = ? ORDER BY member'
_SET_MEMBER = "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?)"
_OWNERS = 'SELECT topic, partition, member, token, release_by FROM owners WHERE "group" = ?'
_CLAIM = "INSERT INTO owners VALUES (?, ?, ?, ?, ?, NULL)"
_ONE = '"group" = ? AND topic = ? AND partition = ?'


class Owner(msgspec.Struct, frozen=True):
    """Of a partition."""

    member: str
    token: int
    release_by: float | None


class GroupInfo(msgspec.Struct, frozen=True):
    """A consumer group as it is now."""

    group: str

    members: dict[str, tuple[TopicPartition, ...]]
    """What each member reads, by its name: the path of its consumer, ``@``, and the id of its process."""

    committed: dict[TopicPartition, int]
    """The offset that the group goes on from, in each partition that it has ever been given."""

    lag: dict[TopicPartition, int]
    """How many records are not committed, of each of them."""


class Share(msgspec.Struct, frozen=True):
    """What a member has of its group, after a sync."""

    owned: dict[TopicPartition, tuple[int, int]]
    """Token, and the offset to go on from."""

    release: list[TopicPartition]
    """Those of them that it should release."""

    expelled: tuple[str, ...]
    """Members that this sync has removed."""

    changed: bool
    """Whether other members should sync now."""


class Groups:
    """Of one log, for one incarnation of it."""

    def __init__(self, log: Log, session: Session, config: Config) -> None:
        self._log: Final = log
        self._db: Final = log.db
        self._session = session
        self._config = config
        self._opened: float | None = None  # when it was asked for the first time, in seconds since the epoch

    # --- members ------------------------------------------------------------------------------------------------------

    def sync(self, group: str, member: str, topics: Sequence[str], now: float) -> Share:
        """The member lives and wants these topics, which are created if need be.

        Its name is one of this process; other processes may have members of that name.
        """
        member = self._full_name(member)
        with transaction(self._db):
            expelled = self._expel(group, now)
            joined = self._set_member(group, member, topics, now)
            for topic in topics:
                self._begin(group, topic, is_new=joined)
            freed, release = self._rebalance(group, member, now)
            owned = self._owned(group, member)
        return Share(owned, release, expelled, changed=joined or freed or bool(expelled))

    def release(self, group: str, offsets: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """Commit, as `commit` does, and give the partitions back."""
        with transaction(self._db):
            self._commit(group, offsets)
            for place, (token, _offset) in offsets.items():
                self._db.execute(f"DELETE FROM owners WHERE {_ONE} AND token = ?", (group, *place, token))

    def leave(self, group: str, member: str, offsets: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """The same, and the member is one no more."""
        with transaction(self._db):
            self._commit(group, offsets)
            self._remove(group, self._full_name(member))

    # --- how far ------------------------------------------------------------------------------------------------------

    def begin(self, group: str, topic: str) -> dict[TopicPartition, tuple[int, int]]:
        """What a group without members has before it: the offset to go on from, at first the beginning, and the end.

        Of each partition; nothing without the topic.
        """
        with transaction(self._db):
            self._db.execute(_JOIN, (group, False, topic))
            rows = self._db.execute(_AHEAD, (group, topic))
            return {(topic, partition): (offset, end) for partition, offset, end in rows}

    def commit(self, group: str, offsets: Mapping[TopicPartition, tuple[int, int]]) -> list[TopicPartition]:
        """Set where the group will go on in each partition, given as token and offset.

        Returns those that have another owner by now: for them nothing was changed.
        """
        with transaction(self._db):
            return self._commit(group, offsets)

    def commit_unowned(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """The same for a group without members."""
        with transaction(self._db):
            self._db.executemany(_COMMIT, [(group, *place, offset) for place, offset in offsets.items()])

    def lag(self, group: str) -> dict[TopicPartition, int]:
        """How many records the group has not committed, of each partition that it has ever been given."""
        return {(topic, partition): lag for topic, partition, lag in self._db.execute(_LAG, (group,))}

    # --- administration -----------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All groups that have members or offsets."""
        return [name for (name,) in self._db.execute(_NAMES)]

    def lags_above(self, limit: int) -> list[tuple[str, int]]:
        """The groups that have more than so many records before them, and how many."""
        return [(group, lag) for group in self.names() if (lag := sum(self.lag(group).values())) > limit]

    def describe(self, group: str) -> GroupInfo:
        """What the group is like; empty if there is none of that name."""
        with transaction(self._db):
            members: dict[str, tuple[TopicPartition, ...]] = {
                row[0]: () for row in self._db.execute(_MEMBERS, (group,))
            }
            for place, owner in sorted(self._owners(group).items()):
                members[owner.member] = (*members[owner.member], place)
            return GroupInfo(group, members, self._commits(group), self.lag(group))

    def set_offsets(self, group: str, offsets: Mapping[TopicPartition, int | End], now: float) -> None:
        """Have a group without members go on from these offsets. All of them are set, or none.

        Raises `GroupActive` and `TopicUnknown`.
        """
        with transaction(self._db):
            self._must_be_idle(group, now)
            for place, offset in offsets.items():
                begin, end = self._log.bounds(place)
                number = {"beginning": begin, "end": end}[offset] if isinstance(offset, str) else offset
                self._db.execute(_COMMIT, (group, *place, number))

    def delete(self, group: str, now: float) -> bool:
        """Forget a group without members: its next consumer begins anew. Whether it was there. Raises `GroupActive`."""
        with transaction(self._db):
            self._must_be_idle(group, now)
            return self._db.execute('DELETE FROM commits WHERE "group" = ?', (group,)).rowcount > 0

    # --- inside; all of it requires a transaction ---------------------------------------------------------------------

    def _full_name(self, member: str) -> str:
        return f"{member}@{self._session.id}"

    def _begin(self, group: str, topic: str, *, is_new: bool) -> None:
        self._log.ends(topic)
        known = self._db.execute(_COMMITTED, (group, topic)).fetchone()
        # Partitions that a topic got later are read from their beginning, and so is a topic that was deleted while it
        # was read and is made anew: nobody has seen anything of them.
        at_end = is_new and self._config.offset_reset == "latest" and known is None
        self._db.execute(_JOIN, (group, at_end, topic))

    def _must_be_idle(self, group: str, now: float) -> None:
        self._expel(group, now)
        members = self._members(group)
        if members:
            raise GroupActive(group, members)

    def _members(self, group: str) -> tuple[str, ...]:
        return tuple(row[0] for row in self._db.execute(_MEMBERS, (group,)))

    def _commits(self, group: str) -> dict[TopicPartition, int]:
        return {(topic, partition): offset for topic, partition, offset in self._db.execute(_COMMITS, (group,))}

    def _expel(self, group: str, now: float) -> tuple[str, ...]:
        rows = self._db.execute(_MEMBERS, (group,)).fetchall()
        if self._opened is None:
            self._opened = now
        watched = now >= self._opened + self._config.session_timeout
        dead = tuple(
            member
            for member, session, _topics, expires in rows
            if (watched and expires < now) or not self._session.is_alive(session)
        )
        for member in dead:
            self._remove(group, member)
        return dead

    def _remove(self, group: str, member: str) -> None:
        self._db.execute('DELETE FROM members WHERE "group" = ? AND member = ?', (group, member))
        self._db.execute('DELETE FROM owners WHERE "group" = ? AND member = ?', (group, member))

    def _set_member(self, group: str, member: str, topics: Sequence[str], now: float) -> bool:
        """Whether the group is another one than before."""
        wanted = msgspec.json.encode(sorted(topics)).decode()
        before = self._db.execute(
            'SELECT topics FROM members WHERE "group" = ? AND member = ?', (group, member)
        ).fetchone()
        expires = now + self._config.session_timeout
        self._db.execute(_SET_MEMBER, (group, member, self._session.id, wanted, expires))
        return bool(before != (wanted,))

    def _rebalance(self, group: str, member: str, now: float) -> tuple[bool, list[TopicPartition]]:
        """Claim what is meant for the member and free. Whether others lost something, and what it should release."""
        owners = self._owners(group)
        target = self._target(group, owners)
        freed = False
        for place, owner in owners.items():
            freed |= self._remind(group, place, owner, target.get(place), now)
        mine = [place for place, meant in target.items() if meant == member]
        for place in mine:
            if place not in owners or self._is_free(group, place):
                self._db.execute(_CLAIM, (group, *place, member, self._next_token()))
        release = [place for place, owner in owners.items() if owner.member == member and target.get(place) != member]
        return freed, [place for place in release if not self._is_free(group, place)]

    def _remind(self, group: str, place: TopicPartition, owner: Owner, meant: str | None, now: float) -> bool:
        """Set by when a partition must be released; free it when that is over: True."""
        release_by = owner.release_by
        if owner.member == meant:
            due = None
        else:
            due = now + self._config.rebalance_timeout if release_by is None else release_by
        if due is not None and due < now:
            self._db.execute(f"DELETE FROM owners WHERE {_ONE}", (group, *place))
            return True
        if due != release_by:
            self._db.execute(f"UPDATE owners SET release_by = ? WHERE {_ONE}", (due, group, *place))
        return False

    def _target(self, group: str, owners: Mapping[TopicPartition, Owner]) -> dict[TopicPartition, str]:
        rows = self._db.execute(_MEMBERS, (group,)).fetchall()
        wanted = {member: frozenset(msgspec.json.decode(topics)) for member, _, topics, _ in rows}
        topics = sorted(frozenset[str]().union(*wanted.values()))
        places = [(topic, number) for topic in topics for number in range(len(self._log.ends_of(topic)))]
        return assign(wanted, places, {place: owner.member for place, owner in owners.items()})

    def _owners(self, group: str) -> dict[TopicPartition, Owner]:
        rows = self._db.execute(_OWNERS, (group,))
        return {(topic, partition): Owner(*about) for topic, partition, *about in rows}

    def _owned(self, group: str, member: str) -> dict[TopicPartition, tuple[int, int]]:
        tokens = {place: owner.token for place, owner in self._owners(group).items() if owner.member == member}
        offsets = {topic: dict(self._db.execute(_COMMITTED, (group, topic))) for topic in _topics(tokens)}
        return {place: (token, offsets[place[0]][place[1]]) for place, token in tokens.items()}

    def _commit(self, group: str, offsets: Mapping[TopicPartition, tuple[int, int]]) -> list[TopicPartition]:
        refused: list[TopicPartition] = []
        for place, (token, offset) in offsets.items():
            owner = self._db.execute(f"SELECT token FROM owners WHERE {_ONE}", (group, *place)).fetchone()
            if owner == (token,):
                self._db.execute(_COMMIT, (group, *place, offset))
            else:
                refused.append(place)
        return refused

    def _is_free(self, group: str, place: TopicPartition) -> bool:
        return self._db.execute(f"SELECT 1 FROM owners WHERE {_ONE}", (group, *place)).fetchone() is None

    def _next_token(self) -> int:
        self._db.execute("UPDATE tokens SET last = last + 1")
        (token,) = self._db.execute("SELECT last FROM tokens").fetchone()
        return int(token)


def _topics(places: Collection[TopicPartition]) -> list[str]:
    return sorted({topic for topic, _ in places})
