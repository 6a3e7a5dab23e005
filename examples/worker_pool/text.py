"""Files and their words: plain functions, the same for the workers and for the audit that checks them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import msgspec

import creche

_WORD = re.compile(r"[^\W\d_]{2,40}")
_PASSED_OVER = ("__pycache__", "node_modules", "site-packages")


class Document(msgspec.Struct, frozen=True):
    """What is known of a file. `mtime_ns` is of before it was read: a change while it is read is noticed next time."""

    path: str
    mtime_ns: int
    words: dict[str, int]  # how often each is in it


class Unreadable(creche.DomainError):
    """The file is gone, or may not be read: an answer, not a crash."""


def files_in(folder: Path, suffixes: Collection[str]) -> dict[str, int]:
    """The paths of the text files below a folder, in order, and when each was changed."""
    found: dict[str, int] = {}
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _PASSED_OVER)
        for path in (Path(root, name) for name in sorted(names) if Path(name).suffix in suffixes):
            if path.is_file():
                found[str(path)] = path.stat().st_mtime_ns
    return found


def read_document(path: str) -> Document:
    """Read a file and count its words. Takes its time: both are for a thread. Raises `Unreadable`."""
    try:
        changed = os.stat(path).st_mtime_ns
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Unreadable(404, f"cannot read {path}: {error.strerror}") from error
    return Document(path, changed, Counter(_WORD.findall(text.lower())))
