"""Rotation: files that are set aside, compressed and deleted, and not a byte lost or torn over it."""

from __future__ import annotations

import gzip
import json
import os
from collections import defaultdict
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import creche
from creche.components import clog
from creche.components.clog.rotation import Backup, RotatingFile, backup_name, backups_of, too_many
from tests.components.clog.support import Clock, log_to, read

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
DAY = 86400.0


class Place:
    """A log file in a folder of its own, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "service.log"
        self.clock = Clock(NOON.timestamp())
        self.opened: list[RotatingFile] = []

    def open(self, **values: Any) -> RotatingFile:
        """`max_size` may be smaller than a config would allow."""
        config = clog.Rotation(**{"max_backups": 0, "max_age": 0, **values})
        self.opened.append(RotatingFile(self.path, config, self.clock))
        return self.opened[-1]

    def backups(self) -> list[str]:
        """What the backups hold, the oldest first, compressed or not."""
        return [text_of(backup.path) for backup in reversed(backups_of(self.path))]


@pytest.fixture
def place(tmp_path: Path) -> Generator[Place]:
    place = Place(tmp_path)
    yield place
    for file in place.opened:
        file.close()


def text_of(path: Path) -> str:
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()


def write(file: RotatingFile, text: str) -> None:
    """All of it, as the outlet does."""
    data = memoryview(text.encode())
    while data:
        data = data[file.write(data, 0.0) :]


def tidy(file: RotatingFile) -> None:
    while file.untidy:
        file.tidy()


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_full_file_is_set_aside(place: Place) -> None:
    """Under a name with the time; the next line begins a new file."""
    file = place.open(max_size=8)
    write(file, "one\ntwo\n")
    assert place.backups() == []
    write(file, "three\n")
    assert place.backups() == ["one\ntwo\n"]
    assert place.path.read_text() == "three\n"
    assert backup_name(place.path, NOON).name == "service-2026-01-02T12-00-00.000000.log"
    assert backup_name(place.path, NOON).exists()


def test_a_batch_is_divided_between_lines(place: Place) -> None:
    """However many files it takes; a line that fits into none has one for itself."""
    file = place.open(max_size=8)
    write(file, "aaa\nbbb\nccc\nthis is a long line\nddd\n")
    assert place.backups() == ["aaa\nbbb\n", "ccc\n", "this is a long line\n"]
    assert place.path.read_text() == "ddd\n"


def test_what_is_there_counts(place: Place) -> None:
    """A file that an earlier process has filled is set aside, not grown."""
    place.path.write_text("old and full\n")
    write(place.open(max_size=8), "new\n")
    assert place.backups() == ["old and full\n"]


def test_a_line_that_was_begun_ends_in_its_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system takes only some bytes, the rest follows them, though the file is full."""
    file = place.open(max_size=8)
    real = os.write
    monkeypatch.setattr("os.write", lambda fd, data: real(fd, bytes(data)[:3]))
    lines = ["aaaa\n", "bbbbbbb\n", "longer than a file\n", "cc\n"]
    write(file, "".join(lines))
    assert [*place.backups(), place.path.read_text()] == lines


@given(lines=st.lists(st.integers(0, 30), max_size=30), max_size=st.integers(1, 60), piece=st.integers(1, 40))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_lost_or_torn(tmp_path: Path, lines: list[int], max_size: int, piece: int) -> None:
    """All files together are the lines in their order; each ends with a line, and none but single lines is too long."""
    place = Place(tmp_path / os.urandom(8).hex())
    file = place.open(max_size=max_size)
    text = "".join(f"{'x' * length}\n" for length in lines)
    batches = text.splitlines(keepends=True)
    for start in range(0, len(batches), piece):
        write(file, "".join(batches[start : start + piece]))
    file.close()
    parts = [*place.backups(), place.path.read_text()]
    assert "".join(parts) == text
    for part in parts:
        assert len(part) <= max_size or part.count("\n") == 1
        assert part.endswith("\n") or not part


def test_rotations_of_one_moment_have_different_names(place: Place) -> None:
    """Also when the clock was set back: their order is that of the lines."""
    file = place.open(max_size=2)
    for number in range(5):
        if number == 3:
            place.clock.now -= DAY
        write(file, f"{number}\n")
    assert place.backups() == ["0\n", "1\n", "2\n", "3\n"]


def test_a_file_that_somebody_has_moved(place: Place) -> None:
    """A new one is begun."""
    file = place.open(max_size=4)
    write(file, "one\n")
    place.path.unlink()
    write(file, "two\n")
    assert place.path.read_text() == "two\n"
    assert place.backups() == []


# --- backups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_backups", "max_age", "deleted"),
    [(0, 0.0, []), (2, 0.0, [2, 3]), (0, 1.5 * DAY, [2, 3]), (3, 0.5 * DAY, [1, 2, 3]), (9, 9 * DAY, [])],
)
def test_which_backups_are_too_many(max_backups: int, max_age: float, deleted: list[int]) -> None:
    """By number and by age; 0 means any."""
    backups = [Backup(NOON - timedelta(days=days), Path(str(days))) for days in range(4)]
    rotation = clog.Rotation(max_backups=max_backups, max_age=max_age)
    assert [int(str(backup.path)) for backup in too_many(backups, rotation, NOON)] == deleted


def test_backups_are_deleted_by_tidying(place: Place) -> None:
    """The oldest first; also those that an earlier process has left."""
    file = place.open(max_size=2)
    for number in range(6):
        write(file, f"{number}\n")
    file.close()
    later = place.open(max_size=2, max_backups=2)
    tidy(later)
    assert place.backups() == ["3\n", "4\n"]
    place.clock.now += DAY
    write(later, "6\n")
    aged = place.open(max_size=2, max_age=DAY / 2)
    tidy(aged)
    assert place.backups() == ["5\n"]


def test_files_of_others_are_left_alone(place: Place) -> None:
    """Whatever is not named as a backup of this very file stays, however much it looks like one."""
    names = [
        "service.log.1",
        "service-2001-01-01.log",
        "service-2001-01-01T00-00-00.000000.txt",
        "service-2001-99-01T00-00-00.000000.log",
        "other-2001-01-01T00-00-00.000000.log",
        "service-x-2001-01-01T00-00-00.000000.log",
        "service-2001-01-01T00-00-00.000000.log.gz.bak",
    ]
    for name in names:
        place.path.with_name(name).write_text("mine")
    file = place.open(max_size=2, max_backups=1, max_age=1.0, compress=True)
    for number in range(5):
        write(file, f"{number}\n")
    tidy(file)
    for name in names:
        assert place.path.with_name(name).read_text() == "mine"
    assert place.backups() == ["3\n"]


def test_backups_are_compressed_in_steps(place: Place) -> None:
    """The oldest first, while lines are written; the plain file goes when the compressed one is whole."""
    file = place.open(max_size=600_000, compress=True)
    texts = [f"{number}" * 599_999 + "\n" for number in range(3)]
    for text in texts:
        write(file, text)
    steps = 0
    while file.untidy:
        file.tidy()
        write(file, f"{steps}\n")
        steps += 1
        assert len(place.backups()) in (2, 3)
    assert steps > 4
    assert [backup.path.suffix for backup in backups_of(place.path)] == [".gz"] * 3
    assert place.backups()[:3] == texts


def test_a_compression_that_was_cut_short_begins_anew(place: Place) -> None:
    """By the end of the file's owner, or of the process: the backup stays as it was, and nothing else is left."""
    file = place.open(max_size=2, compress=True)
    write(file, "0\n1\n")
    file.tidy()
    (backup,) = backups_of(place.path)
    part = backup.path.with_name(f"{backup.path.name}.gz.part")
    assert part.exists()
    file.close()
    assert not part.exists()
    part.write_bytes(b"half of a gzip file")  # as a killed process leaves it
    tidy(place.open(max_size=2, compress=True))
    assert place.backups() == ["0\n"]
    assert sorted(path.suffix for path in place.path.parent.iterdir()) == [".gz", ".log"]


def test_a_backup_that_goes_takes_its_unfinished_compression_along(place: Place) -> None:
    """Nothing is left of what a killed process has begun."""
    write(place.open(max_size=2), "0\n1\n2\n")
    for backup in backups_of(place.path):
        backup.path.with_name(f"{backup.path.name}.gz.part").write_bytes(b"half")
    tidy(place.open(max_size=2, max_backups=1))
    assert len(list(place.path.parent.glob("*.part"))) == 1


# --- the component ----------------------------------------------------------------------------------------------------


def all_lines(path: Path) -> list[dict[str, Any]]:
    """Of all backups and of the file itself."""
    texts = [text_of(backup.path) for backup in reversed(backups_of(path))]
    return [json.loads(line) for text in [*texts, path.read_text()] for line in text.splitlines()]


async def test_rotation_under_kills_loses_nothing(tmp_path: Path) -> None:
    """Each line is once in one of the files, whole and in order, however often the clog actor is killed."""
    path, count = tmp_path / "service.log", 3000
    rotation = clog.Rotation(max_size=20_000, max_backups=0, max_age=0, compress=True)
    async with log_to(path, rotation=rotation, buffer=100_000) as log:
        for number in range(count):
            clog.info("line", number=number)
            if not number % 150:
                await log.kill()
            if not number % 10:
                await trio.lowlevel.checkpoint()
        await log.handle.flush()
    numbers: dict[str, list[int]] = defaultdict(list)
    for entry in all_lines(path):
        numbers[entry["msg"]].append(entry.get("number", 0))
    assert numbers["line"] == list(range(count))
    assert len(backups_of(path)) > 10


async def test_the_component_tidies_while_it_runs(tmp_path: Path) -> None:
    """Backups beyond the number are deleted and the others compressed, without a line that asks for it."""
    path = tmp_path / "service.log"
    rotation = clog.Rotation(max_size=2000, max_backups=2, compress=True)
    async with log_to(path, rotation=rotation) as log:
        for number in range(200):
            clog.info("line", number=number)
        await log.handle.flush()
        while [backup.path.suffix for backup in backups_of(path)] != [".gz", ".gz"]:
            await trio.lowlevel.checkpoint()
    assert all_lines(path)[-1]["number"] == 199


async def test_backups_that_cannot_be_deleted_are_told(tmp_path: Path) -> None:
    """In a line of the log; writing goes on."""
    path = tmp_path / "service.log"
    backup_name(path, NOON).mkdir()  # a folder in the place of a backup
    async with log_to(path, rotation=clog.Rotation(max_backups=1, max_age=1.0)) as log:
        clog.info("line")
        while not any("tidied" in entry["msg"] for entry in await log.entries()):
            await trio.lowlevel.checkpoint()
        assert log.runtime.node_of(log.handle).incarnation == 1
    messages = [entry["msg"] for entry in read(path)]
    assert sorted(messages) == ["backup of the log not tidied", "line"]


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"rotation": clog.Rotation(max_size=10)}, "$.rotation.max_size"),
        ({"rotation": clog.Rotation(max_backups=-1)}, "$.rotation.max_backups"),
        ({"rotation": clog.Rotation(), "output": "stdout"}, "$.rotation"),
        ({"rotation": clog.Rotation(), "output": "logging"}, "$.rotation"),
    ],
)
def test_bad_rotations(values: dict[str, Any], path: str) -> None:
    """Refused before anything starts, with the path to the value."""
    with pytest.raises(creche.ConfigInvalid) as caught:
        clog.component(clog.Config(**{"output": "service.log", **values}))
    assert caught.value.path == path


def test_no_environment_rotates_by_default() -> None:
    """Nothing is deleted that nobody has asked to be deleted."""
    assert clog.Config().rotation is None
    assert clog.default_config("development").rotation is None
    assert clog.default_config("production").rotation is None
