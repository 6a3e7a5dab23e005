"""Groups in the tables: members, ownership, fencing, and where a group begins. No Trio in here."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from creche.components.mq.config import Config
from creche.components.mq.errors import GroupActive
from creche.components.mq.groups import Groups
from creche.components.mq.log import Log
from creche.components.mq.message import Message, TopicPartition
from creche.components.mq.sessions import Session


class Process:
    """One process that uses the log: a connection, a session, its groups."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.config = Config(path=str(path), **config)
        self.session = Session(self.config.path, uuid4().hex)
        self.session.open()
        self.log = Log(self.config.path, "normal", 0.0, self.config.partitions)
        self.groups = Groups(self.log, self.session, self.config)

    def sync(self, member: str, now: float = 0.0, topics: tuple[str, ...] = ("t",)) -> set[TopicPartition]:
        """What the member has after a sync, and is to keep."""
        share = self.groups.sync("g", member, topics, now)
        return set(share.owned) - set(share.release)

    def close(self) -> None:
        self.session.close()
        self.log.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def process(path: Path) -> Iterator[Process]:
    process = Process(path, session_timeout=10.0, heartbeat_interval=3.0, rebalance_timeout=30.0)
    yield process
    process.close()


T = [("t", 0), ("t", 1), ("t", 2)]


def test_a_partition_changes_hands_only_when_it_was_released(process: Process) -> None:
    """A second member is given nothing before the first one gives away what it has too much."""
    groups = process.groups
    first = groups.sync("g", "a", ["t"], 0.0)
    assert (set(first.owned), first.release, first.changed) == (set(T), [], True)
    assert groups.sync("g", "b", ["t"], 0.0).owned == {}
    told = groups.sync("g", "a", ["t"], 0.0)
    (given,) = told.release
    groups.release("g", {given: (told.owned[given][0], 7)})
    second = groups.sync("g", "b", ["t"], 0.0)
    assert [(place, offset) for place, (_, offset) in second.owned.items()] == [(given, 7)]
    assert not second.changed
    assert process.sync("a") == set(T) - {given}


def test_a_commit_of_a_former_owner_has_no_effect(process: Process) -> None:
    """Fencing: the token of an ownership never comes again, for the same member either."""
    groups = process.groups
    old = groups.sync("g", "a", ["t"], 0.0).owned
    groups.leave("g", "a", {place: (token, 1) for place, (token, _) in old.items()})
    new = groups.sync("g", "a", ["t"], 0.0).owned
    assert {offset for _, offset in new.values()} == {1}
    assert groups.commit("g", {place: (token, 5) for place, (token, _) in old.items()}) == T
    groups.release("g", {place: (token, 5) for place, (token, _) in old.items()})
    assert groups.commit("g", {("t", 0): (new["t", 0][0], 2)}) == []
    after = groups.sync("g", "a", ["t"], 0.0).owned
    assert after == {**new, ("t", 0): (new["t", 0][0], 2)}


def test_a_member_that_crashed_comes_back_to_its_partitions(process: Process) -> None:
    """Under the same name within the session timeout: no rebalance, the tokens stay."""
    groups = process.groups
    before = groups.sync("g", "a", ["t"], 0.0)
    again = groups.sync("g", "a", ["t"], 5.0)
    assert again.owned == before.owned
    assert not again.changed


def test_a_silent_member_is_expelled(process: Process) -> None:
    """After the session timeout, by whoever syncs next."""
    process.sync("a", 0.0)
    process.sync("b", 0.0)
    assert process.sync("b", 9.0) == set()
    share = process.groups.sync("g", "b", ["t"], 11.0)
    assert (set(share.owned), len(share.expelled), share.changed) == (set(T), 1, True)


def test_a_log_that_was_away_expels_nobody_at_once(process: Process, path: Path) -> None:
    """Nobody could be heard of while it was away: the time counts from its return."""
    process.sync("a", 0.0)
    process.groups = Groups(process.log, process.session, process.config)
    assert process.sync("b", 100.0) == set()
    assert process.sync("b", 109.0) == set()
    assert process.sync("b", 111.0) == set(T)


def test_who_comes_late_is_not_expelled_by_its_own_sync(process: Process) -> None:
    """It lives, and nobody has taken its partitions: they stay as they are."""
    before = process.groups.sync("g", "a", ["t"], 0.0)
    after = process.groups.sync("g", "a", ["t"], 100.0)
    assert (after.owned, after.expelled, after.changed) == (before.owned, (), False)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Another process holds the lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield


def test_a_log_that_was_unable_expels_nobody_at_once(process: Process, path: Path) -> None:
    """As one that was away: the others could not sync either. Then who is silent is expelled in time."""
    process.sync("a", 0.0)
    process.sync("b", 0.0)
    with locked(path), pytest.raises(sqlite3.OperationalError, match="locked"):
        process.sync("a", 9.0)
    for now in (15.0, 20.0, 24.0):
        assert process.groups.sync("g", "a", ["t"], now).expelled == ()
    assert len(process.groups.sync("g", "a", ["t"], 25.0).expelled) == 1


def test_an_administrator_expels_nobody_at_once_when_the_log_was_unable(process: Process, path: Path) -> None:
    """The same for who is not a member and only wants to know whether there are any."""
    process.sync("b", 0.0)
    with locked(path), pytest.raises(sqlite3.OperationalError, match="locked"):
        process.groups.set_offsets("g", {("t", 0): 5}, 9.0)
    with pytest.raises(GroupActive):
        process.groups.set_offsets("g", {("t", 0): 5}, 15.0)
    with locked(path), pytest.raises(sqlite3.OperationalError, match="locked"):
        process.groups.delete("g", 20.0)
    with pytest.raises(GroupActive):
        process.groups.delete("g", 26.0)
    assert process.groups.delete("g", 36.0)


def test_each_process_watches_by_itself(process: Process, path: Path) -> None:
    """One that could not write takes time to see who lives; one that always could expels in time."""
    other = Process(path, session_timeout=10.0, heartbeat_interval=3.0)
    process.sync("a", 0.0)
    process.sync("hangs", 0.0)
    other.sync("b", 0.0)
    with locked(path), pytest.raises(sqlite3.OperationalError, match="locked"):
        process.sync("a", 9.0)
    assert process.groups.sync("g", "a", ["t"], 11.0).expelled == ()
    assert other.groups.sync("g", "b", ["t"], 11.0).expelled == (f"hangs@{process.session.id}",)
    other.close()


def test_members_of_a_dead_process_are_expelled_at_once(process: Process, path: Path) -> None:
    """Whose session is over is known to be dead; members of different processes may have one name."""
    other = Process(path)
    assert other.sync("a", 0.0) == set(T)
    assert process.sync("a", 0.0) == set()
    other.close()
    assert process.sync("a", 0.0) == set(T)


def test_who_does_not_release_in_time_loses_the_partition(process: Process) -> None:
    """After the rebalance timeout, and only that partition."""
    process.sync("a", 0.0)
    process.sync("b", 0.0)
    for now in (8.0, 16.0, 24.0):
        assert len(process.sync("a", now)) == 2
        assert process.sync("b", now) == set()
    share = process.groups.sync("g", "a", ["t"], 31.0)
    assert len(share.owned) == 2
    assert share.changed
    assert len(process.sync("b", 31.0)) == 1


def test_a_partition_is_kept_when_the_newcomer_has_gone_again(process: Process) -> None:
    """And the time to release it begins anew with the next newcomer."""
    process.sync("a", 0.0)
    process.sync("b", 0.0)
    process.groups.leave("g", "b", {})
    assert process.sync("a", 5.0) == set(T)
    process.sync("b", 9.0)
    assert len(process.groups.sync("g", "a", ["t"], 15.0).owned) == 3
    assert len(process.groups.sync("g", "a", ["t"], 24.0).owned) == 3


def test_members_may_want_different_topics(process: Process) -> None:
    """Each gets only those that it wants; who wants less gives the rest away."""
    assert process.sync("a", topics=("t", "u")) == {*T, ("u", 0), ("u", 1), ("u", 2)}
    assert process.sync("a", topics=("u",)) == {("u", 0), ("u", 1), ("u", 2)}


@pytest.mark.parametrize(("reset", "begin"), [("earliest", 0), ("latest", 2)])
def test_a_new_group_begins_as_the_config_says(reset: str, begin: int, path: Path) -> None:
    """At the first record, or behind the last one; partitions that are added later are read from their first."""
    process = Process(path, offset_reset=reset, partitions=1)
    process.log.append([Message("t", b"0"), Message("t", b"1")], 0.0)
    assert [offset for _, offset in process.groups.sync("g", "a", ["t"], 0.0).owned.values()] == [begin]
    process.log.create_partitions("t", 2)
    process.log.append([Message("t", b"%d" % n) for n in range(4)], 0.0)
    assert process.groups.sync("g", "a", ["t"], 0.0).owned["t", 1][1] == 0
    process.close()


def test_a_deleted_topic_begins_anew(process: Process) -> None:
    """Its members get it again with other tokens, so what they knew of the old one is not taken for the new one."""
    process.log.append([Message("t", b"0", b"k")], 0.0)
    before = process.groups.sync("g", "a", ["t"], 0.0).owned
    process.groups.commit("g", {place: (token, 1) for place, (token, _) in before.items()})
    assert process.log.delete_topic("t")
    assert not process.log.delete_topic("t")
    after = process.groups.sync("g", "a", ["t"], 0.0).owned
    assert all(after[place][0] != before[place][0] and after[place][1] == 0 for place in T)


def test_a_deleted_topic_is_read_from_its_beginning_wherever_groups_begin(path: Path) -> None:
    """Somebody may send to it before its members hear of it: that is for them."""
    process = Process(path, offset_reset="latest", partitions=1)
    process.groups.sync("g", "a", ["t"], 0.0)
    process.log.delete_topic("t")
    process.log.append([Message("t", b"0")], 0.0)
    assert [offset for _, offset in process.groups.sync("g", "a", ["t"], 0.0).owned.values()] == [0]
    process.close()


def test_the_lag_counts_what_is_there(process: Process) -> None:
    """What is not committed and not expired; never less than nothing; groups are apart."""
    process.log.append([Message("t", b"%d" % n) for n in range(9)], 0.0)
    owned = process.groups.sync("g", "a", ["t"], 0.0).owned
    committed = {("t", 0): 2, ("t", 1): 0, ("t", 2): 9}
    process.groups.commit("g", {place: (owned[place][0], offset) for place, offset in committed.items()})
    assert process.groups.lag("g") == {("t", 0): 1, ("t", 1): 3, ("t", 2): 0}
    assert process.groups.lag("h") == {}


def test_a_session_ends_with_its_file(path: Path) -> None:
    """It tells who lives; closing it twice is fine, and leaves nothing behind."""
    one, two = Session(str(path), "one"), Session(str(path), "two")
    one.open()
    two.open()
    two.open()
    assert one.is_alive(two.id)
    assert one.is_alive(one.id)
    assert not one.is_alive("nobody")
    two.close()
    two.close()
    assert not one.is_alive(two.id)
    one.close()
    assert list(path.parent.glob("*/*")) == []
