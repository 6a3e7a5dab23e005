"""A file that is set aside when it is full, and what becomes of those that were.

Theory of operation
-------------------
`write` runs in the log's writer thread. A line goes into one file as a whole: the file changes only where a line
begins, and the first line of a file is taken whatever its size. Setting aside is a rename; a process that dies next to
it finds the backup, and no file to append to, when it starts again.

What takes longer is done by `tidy`, in steps of a few milliseconds between which a stop or a kill is obeyed, while
lines go on being written: compress one piece of the oldest backup that is not compressed yet, into a ``.part`` that is
renamed when it is whole; then delete what is too much or too old. It looks at the folder, not at a memory of its own,
so that what an earlier process has left is taken up. Only names that `backup_name` makes are ever touched.

One process owns the file. A second one would go on writing into what the first one has set aside.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from .config import Rotation
from .files import File, open_file

_STEP = 256 * 1024  # bytes: some milliseconds of gzip
_STAMP = "%Y-%m-%dT%H-%M-%S.%f"
_NAME = re.compile(r"-(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6})$")


@dataclass(frozen=True, slots=True, order=True)
class Backup:
    """A file that was set aside, and when."""

    time: datetime
    path: Path


def backup_name(path: Path, time: datetime) -> Path:
    """``logs/service.log`` becomes ``logs/service-2026-01-02T03-04-05.678901.log``."""
    return path.with_name(f"{path.stem}-{time.strftime(_STAMP)}{path.suffix}")


def backups_of(path: Path) -> list[Backup]:
    """The backups of a file, compressed ones included, the newest first."""
    found = (_as_backup(path, candidate) for candidate in path.parent.iterdir())
    return sorted((backup for backup in found if backup is not None), reverse=True)


def _as_backup(path: Path, candidate: Path) -> Backup | None:
    plain = candidate.name.removesuffix(".gz")
    if not (plain.startswith(f"{path.stem}-") and plain.endswith(path.suffix)):
        return None
    stamp = _NAME.fullmatch(plain[len(path.stem) : len(plain) - len(path.suffix)])
    if stamp is None:
        return None
    try:
        return Backup(datetime.strptime(stamp[1], _STAMP).replace(tzinfo=UTC), candidate)
    except ValueError:  # digits that are no date
        return None


def too_many(backups: list[Backup], rotation: Rotation, now: datetime) -> list[Backup]:
    """Which of them, the newest first, are to be deleted."""
    kept = rotation.max_backups or len(backups)
    return [
        backup
        for place, backup in enumerate(backups)
        if place >= kept or (rotation.max_age and (now - backup.time).total_seconds() > rotation.max_age)
    ]


class RotatingFile:
    """See above. An `Output`. `clock` gives seconds since the epoch."""

    terminal = False

    def __init__(self, path: Path, rotation: Rotation, clock: Callable[[], float]) -> None:
        self._path = path
        self._rotation = rotation
        self._clock = clock
        self._file: File | None = open_file(path)
        self._size = path.stat().st_size
        self._line_begins = True
        self._compression: Compression | None = None
        self.untidy = True  # an earlier process may have left something

    def write(self, data: memoryview, patience: float) -> int:
        """See `Output`."""
        share = self._share(data)  # which may set the file aside
        taken = self._opened().write(data[:share], patience)
        if taken:
            self._size += taken
            self._line_begins = data[taken - 1] == 0x0A
        return taken

    def _share(self, data: memoryview) -> int:
        """How many bytes go into the present file, or into a new one if not even a line fits into this one."""
        text = bytes(data)
        if not self._line_begins:
            return text.find(b"\n") + 1
        fits = text.rfind(b"\n", 0, max(self._rotation.max_size - self._size, 0)) + 1
        if not fits and self._size:
            self._set_aside()
            fits = text.rfind(b"\n", 0, self._rotation.max_size) + 1
        return fits or text.find(b"\n") + 1

    def _set_aside(self) -> None:
        now = datetime.fromtimestamp(self._clock(), UTC)
        newest = next(iter(backups_of(self._path)), None)
        if newest is not None and newest.time >= now:  # in the same microsecond, or the clock was set back
            now = newest.time + datetime.resolution
        self._close_file()
        try:
            self._path.rename(backup_name(self._path, now))
        except FileNotFoundError:  # somebody has moved it already
            pass
        self._size = 0
        self.untidy = True

    def _opened(self) -> File:
        if self._file is None:
            self._file = open_file(self._path)
            self._size = self._path.stat().st_size
        return self._file

    def tidy(self) -> None:
        """See `Output`. What fails is tried again after the next rotation."""
        self.untidy = False
        backups = backups_of(self._path)
        for backup in too_many(backups, self._rotation, datetime.fromtimestamp(self._clock(), UTC)):
            self._stop_compressing(backup.path)
            backup.path.unlink(missing_ok=True)
            _part_of(backup.path).unlink(missing_ok=True)  # of a process that died over it
            backups.remove(backup)
        self.untidy = self._rotation.compress and self._compress_some(backups)

    def _compress_some(self, backups: list[Backup]) -> bool:
        """Compress a piece of the oldest one that is plain; whether there is more to do."""
        plain = [backup.path for backup in backups if backup.path.suffix != ".gz"]
        if not plain:
            return False
        if self._compression is None or self._compression.path != plain[-1]:
            self._stop_compressing()
            self._compression = Compression(plain[-1])
        if self._compression.step():
            return True
        self._compression = None
        return len(plain) > 1

    def _stop_compressing(self, path: Path | None = None) -> None:
        if self._compression is not None and path in (None, self._compression.path):
            self._compression.abandon()
            self._compression = None

    def close(self) -> None:
        """See `Output`. The next write opens it again."""
        self._stop_compressing()
        self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz.part")


class Compression:
    """One backup on its way to a ``.gz`` beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = _part_of(path)
        self._source: BinaryIO = path.open("rb")
        try:
            self._target = gzip.GzipFile(self._part, "wb", compresslevel=6)
        except BaseException:
            self._source.close()
            raise

    def step(self) -> bool:
        """Compress one piece; whether there is more. After the last one the plain file is gone. Raises OSError."""
        try:
            piece = self._source.read(_STEP)
            if piece:
                self._target.write(piece)
                return True
            self._finish()
        except BaseException:
            self.abandon()
            raise
        return False

    def _finish(self) -> None:
        self._target.close()
        self._source.close()
        shutil.copystat(self.path, self._part)
        self._part.rename(self.path.with_name(f"{self.path.name}.gz"))
        self.path.unlink()

    def abandon(self) -> None:
        """Leave the plain file as it is."""
        self._source.close()
        self._target.close()
        self._part.unlink(missing_ok=True)
