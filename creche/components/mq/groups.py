"""Consumer groups in SQLite: members, who reads what, and how far. Plain blocking code on the log's connection.

Theory of operation
-------------------
A group rebalances step by step and without stopping anybody, as Kafka's newer protocol does (KIP-848). Each member
*syncs* now and then, which is its heartbeat, and whenever it hears of a change. A sync is one transaction: it expels
members that are dead, works out who should read what (see `assignor`), and gives this member what is meant for it and
belongs to nobody. What it has and should not have it is told to release: it ends the handlers that run there, and
`release` commits and frees the partition in one transaction. So a partition has one owner at most. Who does not release
within the rebalance timeout loses the partition.

What a sync claims has a token, a number that never comes again, and a commit holds only with the token of the present
owner: what a member that has lost its partition still commits has no effect (fencing).

A member's row lives on when its actor crashes: the next incarnation syncs under the same name and gets the same
partitions. Dead is whoever's process has ended (see `sessions`), and whoever has not synced for the session timeout;
the latter counts only when the log itself has been there, and able to take syncs, all that time. Whether it was, each
process knows of itself alone, from the syncs that it tried: what keeps it from writing may keep the others from it,
too. So after one that failed it watches for a whole session timeout before it takes silence for death.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
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

_ONE = '"group" = ? AND topic = ? AND partition = ?'
_COMMIT = 'INSERT OR REPLACE INTO commits ("group", topic, partition, "offset") VALUES (?, ?, ?, ?)'
_COMMIT_AS_OWNER = f"""
INSERT OR REPLACE INTO commits SELECT "group", topic, partition, ? FROM owners WHERE {_ONE} AND token = ?
"""
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
_NEXT_TOKEN = "UPDATE tokens SET last = last + 1 RETURNING last"
_CLAIM = "INSERT INTO owners VALUES (?, ?, ?, ?, ?, NULL)"


class Member(msgspec.Struct, frozen=True):
    """Of a group. The topics that it wants are a JSON array, in order."""

    session: str
    topics: str
    expires: float


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
        self._watching_since: float | None = None  # in seconds since the epoch; None: nobody is being watched

    # --- members ------------------------------------------------------------------------------------------------------

    def sync(self, group: str, member: str, topics: Sequence[str], now: float) -> Share:
        """The member lives and wants these topics, which are created if need be.

        Its name is one of this process; other processes may have members of that name. However late it comes, it is not
        expelled by its own sync.
        """
        member = self._full_name(member)
        with self._watching():
            members = self._members(group)
            expelled = self._expel(group, members, now, but=member)
            joined = self._set_member(group, member, members, topics, now)
            offsets = {topic: self._begin(group, topic, is_new=joined) for topic in topics}
            owners = self._owners(group)
            freed, release = self._rebalance(group, member, members, owners, now)
            owned = self._owned(group, member, owners, offsets)
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
            members: dict[str, tuple[TopicPartition, ...]] = dict.fromkeys(self._members(group), ())
            for place, owner in sorted(self._owners(group).items()):
                members[owner.member] = (*members[owner.member], place)
            return GroupInfo(group, members, self._commits(group), self.lag(group))

    def set_offsets(self, group: str, offsets: Mapping[TopicPartition, int | End], now: float) -> None:
        """Have a group without members go on from these offsets. All of them are set, or none.

        Raises `GroupActive` and `TopicUnknown`.
        """
        with self._watching():
            self._must_be_idle(group, now)
            for place, offset in offsets.items():
                begin, end = self._log.bounds(place)
                number = {"beginning": begin, "end": end}[offset] if isinstance(offset, str) else offset
                self._db.execute(_COMMIT, (group, *place, number))

    def delete(self, group: str, now: float) -> bool:
        """Forget a group without members: its next consumer begins anew. Whether it was there. Raises `GroupActive`."""
        with self._watching():
            self._must_be_idle(group, now)
            return self._db.execute('DELETE FROM commits WHERE "group" = ?', (group,)).rowcount > 0

    # --- inside -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _watching(self) -> Generator[None]:
        """A transaction that may expel. If SQLite fails, whoever else lives may have failed to sync, too."""
        try:
            with transaction(self._db):
                yield
        except sqlite3.Error:
            self._watching_since = None
            raise

    # --- inside; all of it requires a transaction ---------------------------------------------------------------------

    def _full_name(self, member: str) -> str:
        return f"{member}@{self._session.id}"

    def _begin(self, group: str, topic: str, *, is_new: bool) -> dict[int, int]:
        """Where the group goes on in each partition of a topic, which is created if need be."""
        partitions = range(len(self._log.ends(topic)))
        offsets = self._offsets(group, topic)
        if offsets.keys() >= set(partitions):
            return offsets
        # Partitions that a topic got later are read from their beginning, and so is a topic that was deleted while it
        # was read and is made anew: nobody has seen anything of them.
        at_end = is_new and self._config.offset_reset == "latest" and not offsets
        self._db.execute(_JOIN, (group, at_end, topic))
        return self._offsets(group, topic)

    def _offsets(self, group: str, topic: str) -> dict[int, int]:
        return dict(self._db.execute(_COMMITTED, (group, topic)).fetchall())

    def _must_be_idle(self, group: str, now: float) -> None:
        members = self._members(group)
        self._expel(group, members, now)
        if members:
            raise GroupActive(group, tuple(members))

    def _members(self, group: str) -> dict[str, Member]:
        return {member: Member(*about) for member, *about in self._db.execute(_MEMBERS, (group,))}

    def _commits(self, group: str) -> dict[TopicPartition, int]:
        return {(topic, partition): offset for topic, partition, offset in self._db.execute(_COMMITS, (group,))}

    def _expel(self, group: str, members: dict[str, Member], now: float, but: str | None = None) -> tuple[str, ...]:
        """Remove those that are dead, of the group and of `members`; never the one that is asking."""
        if self._watching_since is None:
            self._watching_since = now
        watched = now >= self._watching_since + self._config.session_timeout
        dead = tuple(
            name
            for name, member in members.items()
            if name != but and ((watched and member.expires < now) or not self._session.is_alive(member.session))
        )
        for name in dead:
            self._remove(group, name)
            del members[name]
        return dead

    def _remove(self, group: str, member: str) -> None:
        self._db.execute('DELETE FROM members WHERE "group" = ? AND member = ?', (group, member))
        self._db.execute('DELETE FROM owners WHERE "group" = ? AND member = ?', (group, member))

    def _set_member(self, group: str, name: str, members: dict[str, Member], topics: Sequence[str], now: float) -> bool:
        """Whether the group is another one than before."""
        wanted = msgspec.json.encode(sorted(topics)).decode()
        before = members.get(name)
        member = members[name] = Member(self._session.id, wanted, now + self._config.session_timeout)
        self._db.execute(_SET_MEMBER, (group, name, member.session, member.topics, member.expires))
        return before is None or before.topics != wanted

    def _rebalance(
        self,
        group: str,
        member: str,
        members: Mapping[str, Member],
        owners: dict[TopicPartition, Owner],
        now: float,
    ) -> tuple[bool, list[TopicPartition]]:
        """Claim what is meant for the member and free. Whether others lost something, and what it should release."""
        target = self._target(members, owners)
        freed = [place for place, owner in owners.items() if self._remind(group, place, owner, target.get(place), now)]
        for place in freed:
            del owners[place]
        free = [place for place, meant in target.items() if meant == member and place not in owners]
        owners.update(self._claimed(group, member, free))
        release = [place for place, owner in owners.items() if owner.member == member and target.get(place) != member]
        return bool(freed), release

    def _claimed(self, group: str, member: str, places: Sequence[TopicPartition]) -> dict[TopicPartition, Owner]:
        if not places:
            return {}
        ((token,),) = self._db.execute(_NEXT_TOKEN).fetchall()
        claimed = dict.fromkeys(places, Owner(member, token, None))
        self._db.executemany(_CLAIM, [(group, *place, member, token) for place in places])
        return claimed

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

    def _target(
        self, members: Mapping[str, Member], owners: Mapping[TopicPartition, Owner]
    ) -> dict[TopicPartition, str]:
        wanted = {name: frozenset(msgspec.json.decode(members[name].topics)) for name in sorted(members)}
        topics = sorted(frozenset[str]().union(*wanted.values()))
        places = [(topic, number) for topic in topics for number in range(len(self._log.ends_of(topic)))]
        return assign(wanted, places, {place: owner.member for place, owner in owners.items()})

    def _owners(self, group: str) -> dict[TopicPartition, Owner]:
        rows = self._db.execute(_OWNERS, (group,))
        return {(topic, partition): Owner(*about) for topic, partition, *about in rows}

    def _owned(
        self,
        group: str,
        member: str,
        owners: Mapping[TopicPartition, Owner],
        offsets: dict[str, dict[int, int]],
    ) -> dict[TopicPartition, tuple[int, int]]:
        owned: dict[TopicPartition, tuple[int, int]] = {}
        for topic, partition in sorted(place for place, owner in owners.items() if owner.member == member):
            if topic not in offsets:  # it does not want it any more
                offsets[topic] = self._offsets(group, topic)
            owned[topic, partition] = owners[topic, partition].token, offsets[topic][partition]
        return owned

    def _commit(self, group: str, offsets: Mapping[TopicPartition, tuple[int, int]]) -> list[TopicPartition]:
        return [
            place
            for place, (token, offset) in offsets.items()
            if self._db.execute(_COMMIT_AS_OWNER, (offset, group, *place, token)).rowcount == 0
        ]
