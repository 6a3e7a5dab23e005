"""The audit: the index, read with plain sqlite3, against a plain pass over the folder in one thread."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from .text import Unreadable, files_in, read_document

_FILES = "SELECT path FROM files"
_POSTINGS = "SELECT path, word, times FROM postings JOIN files ON files.id = file_id"
_STRAY = "SELECT count(*) FROM postings WHERE file_id NOT IN (SELECT id FROM files)"


@dataclass(frozen=True)
class Findings:
    """Numbers of files, and of words of no file. `words` is how many are in the index, each as often as it occurs."""

    files: int
    missing: int  # not in the index
    twice: int  # in it more than once, or with a word more than once
    wrong: int  # in it with other words, or another number of some word, than the plain pass finds
    surplus: int  # in it, and not in the folder
    stray: int
    words: int

    @property
    def holds(self) -> bool:
        """Every file that can be read is in the index once, as it is, and nothing else is."""
        return not (self.missing or self.twice or self.wrong or self.surplus or self.stray)


def audit(database: Path, folder: Path, suffixes: Collection[str]) -> Findings:
    """Compare. The folder must not change meanwhile; other folders in the index are left alone."""
    plain = plain_pass(folder, suffixes)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        files = Counter(path for (path,) in connection.execute(_FILES) if path.startswith(f"{folder}/"))
        postings = [row for row in connection.execute(_POSTINGS) if row[0] in files]
        stray = int(connection.execute(_STRAY).fetchone()[0])
    indexed: dict[str, Counter[str]] = {path: Counter() for path in files}
    for path, word, times in postings:
        indexed[path][word] += times
    rows = Counter(path for path, _, _ in postings)
    return Findings(
        files=len(plain),
        missing=sum(path not in files for path in plain),
        twice=sum(files[path] > 1 or rows[path] > len(words) for path, words in indexed.items()),
        wrong=sum(path in plain and plain[path] != words for path, words in indexed.items()),
        surplus=sum(path not in plain for path in files),
        stray=stray,
        words=sum(words.total() for words in indexed.values()),
    )


def plain_pass(folder: Path, suffixes: Collection[str]) -> dict[str, Counter[str]]:
    """The words of every file that can be read, one file after the other."""
    found: dict[str, Counter[str]] = {}
    for path in files_in(folder, suffixes):
        try:
            found[path] = Counter(read_document(path).words)
        except Unreadable:
            pass
    return found
