"""The index: which word is in which file how often, in a database. To save a document twice is to save it once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, MetaData, String, Table, delete, func, select
from sqlalchemy.dialects.sqlite import insert

from creche import components as c

from .text import Document

metadata = MetaData()
files = Table(
    "files",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("path", String, unique=True, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("length", Integer, nullable=False),  # in words
)
postings = Table(
    "postings",
    metadata,
    Column("word", String, primary_key=True),
    Column("file_id", ForeignKey("files.id"), primary_key=True),
    Column("times", Integer, nullable=False),
    Index("postings_of_a_file", "file_id"),
    sqlite_with_rowid=False,
)


class Hit(NamedTuple):
    """A file that was found."""

    path: str
    words: int  # how many of those that were asked for are in it
    times: int  # how often, together


class TextIndex:
    """Raises what the database raises."""

    def __init__(self, db: c.db.Db) -> None:
        self._db = db

    async def save(self, document: Document) -> None:
        """Take in a document, whole or not at all, in the place of an older version of it."""
        await self._db.transact_sync(_save, document)

    async def forget(self, paths: Sequence[str]) -> None:
        """Files that are there no more."""
        await self._db.transact_sync(_forget, paths)

    async def files_below(self, folder: Path) -> dict[str, int]:
        """The paths of the files of a folder that are in the index, and when each had been changed."""
        below = select(files.c.path, files.c.mtime_ns).where(files.c.path.startswith(f"{folder}/", autoescape=True))
        return {row.path: row.mtime_ns for row in await self._db.reader.all(below.order_by(files.c.path))}

    async def search(self, words: Sequence[str], limit: int = 10) -> list[Hit]:
        """The files that have most of these words, and among those have them most densely."""
        found, times = func.count(postings.c.word), func.sum(postings.c.times)
        query = (
            select(files.c.path, found, times)
            .join(postings, postings.c.file_id == files.c.id)
            .where(postings.c.word.in_([word.lower() for word in words]))
            .group_by(files.c.id)
            .order_by(found.desc(), (times * 1.0 / files.c.length).desc(), files.c.path)
            .limit(limit)
        )
        return [Hit(*row) for row in await self._db.reader.all(query)]


def _save(tx: c.db.SyncTransaction, document: Document) -> None:
    new = {"mtime_ns": document.mtime_ns, "length": sum(document.words.values())}
    tx.execute(insert(files).values(path=document.path, **new).on_conflict_do_update(index_elements=["path"], set_=new))
    file_id = tx.scalar(select(files.c.id).where(files.c.path == document.path))
    tx.execute(delete(postings).where(postings.c.file_id == file_id))
    rows = [{"word": word, "file_id": file_id, "times": times} for word, times in document.words.items()]
    if rows:
        tx.execute(insert(postings), rows)


def _forget(tx: c.db.SyncTransaction, paths: Sequence[str]) -> None:
    for path in paths:
        of_the_file = select(files.c.id).where(files.c.path == path).scalar_subquery()
        tx.execute(delete(postings).where(postings.c.file_id == of_the_file))
        tx.execute(delete(files).where(files.c.path == path))
