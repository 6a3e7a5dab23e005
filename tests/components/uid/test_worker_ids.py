"""Worker ids: who may lease which one when, and that no two owners ever issue the same id."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from creche import Unavailable
from creche.components.uid import Config, Layout, NoWorkerIdFree, WorkerIdLost
from creche.components.uid.errors import ClockMovedBack, MarkReached
from creche.components.uid.snowflake import SnowflakeGenerator
from creche.components.uid.worker_ids import WorkerIds, WorkerLease, lowest_gap

NOW = 1_700_000_000_000
TTL = 30_000
QUARANTINE = 60_000


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "made" / "on demand" / "uid.db")


class Machine:
    """Services on one machine, each with its own connection to the file."""

    def __init__(self, path: str | None, max_worker_id: int = 1023) -> None:
        self.config = Config(state_path=path, max_worker_id=max_worker_id)
        self.made: list[WorkerIds] = []

    def service(self, name: str) -> WorkerIds:
        self.made.append(WorkerIds(name, self.config))
        return self.made[-1]

    def close(self) -> None:
        for worker_ids in self.made:
            worker_ids.close()


@pytest.fixture(params=["file", "memory"])
def machine(request: pytest.FixtureRequest, path: str) -> Iterator[Machine]:
    machine = Machine(path if request.param == "file" else None)
    yield machine
    machine.close()


def test_each_owner_has_the_lowest_free_id(machine: Machine) -> None:
    """Owners get 0, 1, 2, whatever service they belong to."""
    first, second = machine.service("a"), machine.service("b")
    leases = [first.acquire("x", NOW), second.acquire("y", NOW), first.acquire("z", NOW)]
    assert [lease.worker_id for lease in leases] == [0, 1, 2]


def test_ids_begin_after_the_first_lease(machine: Machine) -> None:
    """Nothing is known of an id that the file does not know, so its mark is the present."""
    assert machine.service("a").acquire("x", NOW) == WorkerLease(0, "x", NOW)


def test_an_expired_lease_is_quarantined_for_others(machine: Machine) -> None:
    """Another service has the id of a dead process only after the lease and the quarantine."""
    dead, other = machine.service("a"), machine.service("b")
    dead.acquire("x", NOW)
    assert other.acquire("y", NOW + TTL + QUARANTINE - 1).worker_id == 1
    assert other.acquire("z", NOW + TTL + QUARANTINE).worker_id == 0


def test_a_service_has_its_expired_id_back_with_its_mark(machine: Machine) -> None:
    """The same service need not wait for the quarantine, but for the end of the lease, and inherits the mark."""
    service = machine.service("a")
    mark = service.renew(service.acquire("x", NOW), NOW + 777, NOW).mark
    assert service.acquire("y", NOW + TTL - 1).worker_id == 1
    assert service.acquire("z", NOW + TTL) == WorkerLease(0, "z", mark)


def test_a_released_id_keeps_its_exact_mark(machine: Machine) -> None:
    """After a clean stop the service has its id back at once, and starts after the last millisecond used."""
    service = machine.service("a")
    lease = service.renew(service.acquire("x", NOW), NOW + 1000, NOW)
    service.release(lease, NOW + 3, NOW + 5)
    assert machine.service("b").acquire("other", NOW + 5).worker_id == 1
    assert service.acquire("y", NOW + 5) == WorkerLease(0, "y", NOW + 3)


def test_renewing_holds_the_lease(machine: Machine) -> None:
    """A lease that is renewed is never given to anybody else."""
    service = machine.service("a")
    lease = service.acquire("x", NOW)
    for now in range(NOW, NOW + 10 * TTL, TTL // 2):
        lease = service.renew(lease, now, now)
        assert service.acquire(f"at {now}", now).worker_id > 0


def test_a_late_owner_may_go_on_if_nobody_came(machine: Machine) -> None:
    """An expired lease is renewed as long as the id has not been leased again."""
    service = machine.service("a")
    lease = service.acquire("x", NOW)
    assert service.renew(lease, NOW + 10 * TTL, NOW + 10 * TTL).worker_id == 0


def test_a_replaced_owner_is_told_and_cannot_move_the_mark(machine: Machine) -> None:
    """Once the id has a new owner, the old one's writes change nothing: neither the mark nor the lease."""
    service = machine.service("a")
    old = service.acquire("x", NOW)
    new = service.acquire("y", NOW + TTL)
    with pytest.raises(WorkerIdLost) as caught:
        service.renew(old, NOW + 9 * TTL, NOW + TTL)
    assert caught.value.worker_id == 0
    service.release(old, NOW + 9 * TTL, NOW + TTL)
    assert service.renew(new, new.mark, NOW + TTL) == new


def test_the_mark_never_moves_back(machine: Machine) -> None:
    """A renewal with an earlier mark, after the clock was set back, keeps the later one."""
    service = machine.service("a")
    lease = service.renew(service.acquire("x", NOW), NOW + 500, NOW)
    assert service.renew(lease, NOW - 9000, NOW - 10_000).mark == NOW + 500


def test_an_id_used_by_a_clock_far_ahead_is_left_alone(machine: Machine) -> None:
    """After the clock was set back, a fresh id goes on at once; the old one is free when the clock is near its mark."""
    service = machine.service("a")
    service.release(service.acquire("x", NOW), NOW, NOW)
    assert service.acquire("y", NOW - 5000).worker_id == 1
    assert service.acquire("z", NOW).worker_id == 0


def test_no_free_id_says_when_to_come_back(path: str) -> None:
    """With all ids leased, the error carries the seconds until the first may be free."""
    machine = Machine(path, max_worker_id=1)
    first, second = machine.service("a"), machine.service("b")
    first.acquire("x", NOW)
    first.acquire("y", NOW + 1000)
    with pytest.raises(NoWorkerIdFree) as own:
        first.acquire("z", NOW + 2000)
    with pytest.raises(NoWorkerIdFree) as others:
        second.acquire("z", NOW + 2000)
    assert (own.value.retry_after, own.value.max_worker_id) == (28.0, 1)
    assert others.value.retry_after == 88.0
    machine.close()


def test_a_smaller_maximum_never_sees_greater_ids(path: str) -> None:
    """Leases above a service's own maximum do not count for it."""
    wide, narrow = Machine(path), Machine(path, max_worker_id=2)
    for number in range(2):
        wide.service("a").acquire(f"x{number}", NOW)
    assert narrow.service("a").acquire("y", NOW).worker_id == 2
    wide.close()
    narrow.close()


def lease_in_any_weather(worker_ids: WorkerIds, owner: str) -> WorkerLease:
    """As the component does it: on a disk that is busy for seconds, again."""
    while True:
        try:
            return worker_ids.acquire(owner, NOW)
        except NoWorkerIdFree:
            raise
        except Unavailable:
            pass


def test_racing_processes_get_different_ids(path: str) -> None:
    """Connections that create the file and lease from it at once get an id each."""
    barrier = threading.Barrier(8)
    leases: list[WorkerLease] = []

    def start(number: int) -> None:
        worker_ids = WorkerIds("a", Config(state_path=path))
        barrier.wait()
        leases.append(lease_in_any_weather(worker_ids, f"owner {number}"))
        worker_ids.close()

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lease.worker_id for lease in leases) == list(range(8))


def test_a_file_that_another_process_is_making_is_waited_for(path: str) -> None:
    """SQLite lets nobody wait who makes a file one with a WAL, and a first start that fails would be a failed start."""
    Path(path).parent.mkdir(parents=True)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.1, other.execute, ["ROLLBACK"])
    end.start()
    try:
        worker_ids = WorkerIds("a", Config(state_path=path))
        assert worker_ids.acquire("x", NOW).worker_id == 0
        worker_ids.close()
    finally:
        end.join()
        other.close()


def test_memory_is_shared_and_forgotten_with_the_last_user() -> None:
    """Without a file, the components of a process still get different ids; the last to close takes all with it."""
    first, second = Machine(None), Machine(None)
    assert first.service("a").acquire("x", NOW).worker_id == 0
    assert second.service("b").acquire("y", NOW).worker_id == 1
    first.close()
    assert second.service("b").acquire("z", NOW).worker_id == 2
    second.close()
    assert first.service("a").acquire("x", NOW).worker_id == 0
    first.close()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    """What SQLite says becomes the reason, with the path, and nothing is left open."""
    file = tmp_path / "uid.db"
    file.write_text("certainly no database" * 100)
    with pytest.raises(Unavailable, match=r"uid\.db: file is not a database") as caught:
        WorkerIds("a", Config(state_path=str(file))).acquire("x", NOW)
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    with pytest.raises(Unavailable, match="uid"):
        WorkerIds("a", Config(state_path=str(file / "below"))).acquire("x", NOW)


@pytest.mark.parametrize(("taken", "gap"), [([], 0), ([0], 1), ([1], 0), ([0, 1, 3], 2), ([0, 1, 2], 3)])
def test_lowest_gap(taken: list[int], gap: int) -> None:
    """The least number that is not taken."""
    assert lowest_gap(taken) == gap


class Process:
    """An owner with its generator, as the actor runs it, on a clock that all share."""

    def __init__(self, machine: Fencing, number: int) -> None:
        self.machine = machine
        self.worker_ids = machine.machine.service(f"service {number % 2}")
        self.lease = self.worker_ids.acquire(f"owner {number}", machine.ms)
        mark = self.lease.mark
        self.generator = SnowflakeGenerator(TINY, self.lease.worker_id, lambda: machine.ms, high_water=mark, limit=mark)

    def renew(self) -> bool:
        try:
            self.lease = self.worker_ids.renew(self.lease, self.generator.reserve(1000), self.machine.ms)
        except WorkerIdLost:
            return False
        self.generator.extend(self.lease.mark)
        return True


TINY = Layout(sequence_bits=3)


class Fencing(RuleBasedStateMachine):
    """Processes come, renew when they please, issue ids, and vanish with or without a word; the clock jumps about."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(None, max_worker_id=1)
        self.machine.service("anchor").acquire("keeps the memory", NOW - 10**9)
        self.ms = NOW
        self.started = 0
        self.processes: list[Process] = []
        self.issued: set[int] = set()

    @rule(step=st.integers(-5000, 5000))
    def clock(self, step: int) -> None:
        self.ms += step

    @rule(step=st.sampled_from([TTL, TTL + QUARANTINE, TTL + QUARANTINE, -TTL]))
    def jump(self, step: int) -> None:
        """Perhaps past the end of every lease."""
        self.ms += step

    @rule()
    def start(self) -> None:
        self.started += 1
        try:
            self.processes.append(Process(self, self.started))
        except NoWorkerIdFree:
            pass

    @rule()
    def renew(self) -> None:
        self.processes = [process for process in self.processes if process.renew()]

    @rule(n=st.integers(1, 10))
    def issue(self, n: int) -> None:
        """All of them, also those that do not know yet that their worker id has gone to somebody else."""
        for process in self.processes:
            try:
                ids = process.generator.take(n)
            except (ClockMovedBack, MarkReached):
                continue
            if isinstance(ids, list):
                assert self.issued.isdisjoint(ids)
                self.issued.update(ids)

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), cleanly=st.booleans())
    def end(self, data: st.DataObject, cleanly: bool) -> None:
        process = data.draw(st.sampled_from(self.processes))
        self.processes.remove(process)
        if cleanly:
            process.worker_ids.release(process.lease, process.generator.high_water, self.ms)

    def teardown(self) -> None:
        self.machine.close()


TestFencing = Fencing.TestCase
TestFencing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
