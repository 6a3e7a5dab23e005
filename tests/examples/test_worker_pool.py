"""The text indexer: every file is indexed once, whoever is killed; what was done is not done again."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from trio.testing import MockClock

from creche import chaos
from examples.message_service.chaos import folder_in_memory
from examples.worker_pool.app import Job, Service, build
from examples.worker_pool.audit import audit
from examples.worker_pool.indexer import Progress, Reader, Settings, again
from examples.worker_pool.text import Document, Unreadable, files_in, read_document
from tests.docs.session import environment
from tests.pages import ROOT

SUFFIXES = Settings().suffixes


def texts(folder: Path, count: int = 12) -> Path:
    """A folder of small files."""
    (folder / "deep").mkdir(parents=True)
    for number in range(count):
        place = folder / "deep" if number % 3 == 0 else folder
        (place / f"{number:02}.txt").write_text(f"Common word, word of {'abcdefghijkl'[number % 12] * 3}.\n")
    (folder / "picture.png").write_bytes(b"\x89PNG no text")
    return folder


@asynccontextmanager
async def running(folder: Path, data: Path, reader: type[Reader] = Reader) -> AsyncGenerator[Service]:
    """The service in this process."""
    service = build(Job(folder, data), reader)
    async with service.app.open():
        yield service


async def indexed(folder: Path, data: Path, reader: type[Reader] = Reader) -> Progress:
    """What the indexer says when it is done."""
    async with running(folder, data, reader) as service:
        return await service.indexer.ask.finished()


# --- in this process ---------------------------------------------------------


async def test_every_file_is_in_the_index_as_a_plain_pass_finds_it(tmp_path: Path) -> None:
    folder = texts(tmp_path / "texts")
    assert await indexed(folder, tmp_path) == Progress(found=12, done=12, finished=True)
    found = audit(tmp_path / "index.db", folder, SUFFIXES)
    assert (found.holds, found.files, found.words) == (True, 12, 12 * 5)


async def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    folder = texts(tmp_path / "texts")
    await indexed(folder, tmp_path)
    (folder / "01.txt").write_text("quite another text")
    os.utime(folder / "01.txt", ns=(0, 12345))
    (folder / "02.txt").unlink()
    (folder / "new.md").write_text("a new one")
    async with running(folder, tmp_path) as service:
        assert await service.indexer.ask.finished() == Progress(found=12, kept=10, done=2, finished=True)
        assert service.readers.statistics().handled == 2
    assert audit(tmp_path / "index.db", folder, SUFFIXES).holds


async def test_one_index_may_be_of_several_folders(tmp_path: Path) -> None:
    one, other = texts(tmp_path / "one"), texts(tmp_path / "one and more")
    await indexed(one, tmp_path)
    await indexed(other, tmp_path)
    for folder in (one, other):
        assert audit(tmp_path / "index.db", folder, SUFFIXES).holds


async def test_a_search_finds_the_files_that_have_most_of_the_words_most_densely(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in {"a": "cat", "b": "dog, and much else", "c": "cat dog", "d": "Dog", "e": "bird"}.items():
        (folder / f"{name}.txt").write_text(text)
    async with running(folder, tmp_path) as service:
        await service.indexer.ask.finished()
        hits = await service.index.search(["Cat", "dog"])
        assert [(Path(hit.path).stem, hit.words, hit.times) for hit in hits] == [
            ("c", 2, 2),
            ("a", 1, 1),
            ("d", 1, 1),
            ("b", 1, 1),
        ]
        assert await service.index.search([]) == []


class Allergic(Reader):
    """Crashes at one file, and may not read another."""

    async def read(self, path: str) -> Document:
        if path.endswith("04.txt"):
            raise RuntimeError("a bug")
        if path.endswith("05.txt"):
            raise Unreadable(404, f"cannot read {path}")
        return read_document(path)


async def test_a_file_that_crashes_its_reader_is_told_and_holds_up_nobody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    folder = texts(tmp_path / "texts")
    async with running(folder, tmp_path, Allergic) as service:
        progress = await service.indexer.ask.finished()
    assert (progress.done, [Path(path).name for path in progress.failed]) == (10, ["05.txt", "04.txt"])
    assert "a bug" in progress.failed[str(folder / "04.txt")]
    assert audit(tmp_path / "index.db", folder, SUFFIXES).missing == 2


def test_what_cannot_be_read_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        read_document(str(tmp_path / "gone.txt"))


def test_only_text_files_in_their_order(tmp_path: Path) -> None:
    folder = texts(tmp_path / "texts", 4)
    (folder / ".git").mkdir()
    (folder / ".git" / "x.txt").touch()
    (folder / "pointing nowhere.txt").symlink_to(tmp_path / "nowhere")
    assert [str(Path(path).relative_to(folder)) for path in files_in(folder, SUFFIXES)] == [
        "01.txt",
        "02.txt",
        "deep/00.txt",
        "deep/03.txt",
    ]


async def test_readers_in_processes_of_their_own_may_be_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRECHE_INDEXER__PROCESSES", "true")
    monkeypatch.setenv("CRECHE_INDEXER__WORKERS", "2")
    folder = texts(tmp_path / "texts", 40)
    service = build(Job(folder, tmp_path))
    async with service.app.open() as running:
        running.runtime.kill("root/service/readers/worker-1", "test")
        progress = await service.indexer.ask.finished()
        assert (progress.done, progress.failed) == (40, {})
        assert service.readers.statistics().restarts == 1
    assert audit(tmp_path / "index.db", folder, SUFFIXES).holds


# --- the audit ---------------------------------------------------------------

SPOILED = {
    "missing": "DELETE FROM files WHERE path LIKE '%/01.txt'",
    "wrong": "UPDATE postings SET times = times + 1 WHERE word = 'common' AND file_id = 3",
    "surplus": "INSERT INTO files (path, mtime_ns, length) SELECT path || 'x', 0, 0 FROM files WHERE id = 1",
    "stray": "INSERT INTO postings VALUES ('word', 99, 1)",
}


@pytest.mark.parametrize("what", SPOILED)
async def test_the_audit_finds(what: str, tmp_path: Path) -> None:
    folder = texts(tmp_path / "texts")
    await indexed(folder, tmp_path)
    with closing(sqlite3.connect(tmp_path / "index.db")) as connection, connection:
        connection.execute(SPOILED[what])
    found = audit(tmp_path / "index.db", folder, SUFFIXES)
    assert (found.holds, getattr(found, what)) == (False, 5 if what == "stray" and found.missing else 1)


# --- under fire --------------------------------------------------------------

RECIPE = chaos.Recipe(lasting=1.0, every=0.02, longest_hang=3.0)


async def scenario(world: chaos.World) -> None:
    """Index a folder under the plan, in memory and in virtual time."""
    with folder_in_memory() as data:
        folder = texts(data / "texts")
        service = build(Job(folder, data, under_fire=True))
        async with service.app.open() as running:
            async with world.unleashed(running.runtime):
                progress = await again(running.runtime, service.indexer.ask.finished)
            await world.eventually("healthy again", lambda: chaos.healthy(running.runtime), within=10)
            assert (progress.finished, progress.failed) == (True, {})
        found = audit(data / "index.db", folder, SUFFIXES)
        assert found.holds, found


def test_every_file_is_indexed_once_whatever_strikes() -> None:
    report = chaos.check(scenario, 30, recipe=RECIPE, patience=300)
    assert report.runs == 30


def start(folder: Path, data: Path, *options: str) -> subprocess.Popen[str]:
    """The command."""
    command = [sys.executable, "-m", "examples.worker_pool", str(folder), "--data", str(data), *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status and output of a command that must come to an end."""
    try:
        shown, told = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, shown, told


LIBRARY = Path(os.__file__).parent


def test_a_run_under_kills_ends_with_an_audit_that_holds(tmp_path: Path) -> None:
    # Not faster: whoever is killed needs some time to come up before it is its turn again.
    status, shown, told = ended(start(LIBRARY / "asyncio", tmp_path, "--kill-every", "0.03", "--query", "taskgroup"))
    *hits, last = shown.splitlines()
    assert status == 0, told
    assert any(hit.endswith("asyncio/taskgroups.py") for hit in hits)
    figures = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", last)}
    count = len(files_in(LIBRARY / "asyncio", SUFFIXES))
    assert figures["files"] == count
    assert figures["restarts"] > 0


def test_a_process_that_is_killed_is_taken_up_where_it_was(tmp_path: Path) -> None:
    first = start(LIBRARY / "asyncio", tmp_path)
    assert first.stderr is not None
    told = ""
    while not re.search(r"[1-9]\d* of \d+ files", told):
        told += first.stderr.read(1)
    first.kill()
    ended(first)
    status, shown, told = ended(start(LIBRARY / "asyncio", tmp_path, "--audit"))
    assert (status, "missing=0 twice=0 wrong=0 surplus=0 stray=0" in shown) == (0, True), told
    assert max(map(int, re.findall(r"files, (\d+) unchanged", told))) > 0


@pytest.mark.parametrize(
    ("argument", "complaint"), [("nowhere", "is no folder"), ("--kill-every=x", "invalid float value")]
)
def test_a_wrong_command_is_refused_with_status_2(argument: str, complaint: str, tmp_path: Path) -> None:
    process = start(tmp_path, tmp_path, argument) if argument.startswith("-") else start(tmp_path / argument, tmp_path)
    status, _, told = ended(process)
    assert (status, complaint in told) == (2, True)
