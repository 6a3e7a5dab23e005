"""The one place where keys get their prefix, and lose it again."""

from __future__ import annotations

from typing import final


@final
class Keys:
    """Entries, locks and tags have names of their own: an entry and a lock may both be called ``order:1``."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def full(self, key: str) -> str:
        """Of an entry. Raises `ValueError` for an empty key, `TypeError` for one that is not text."""
        if not key:
            raise ValueError("a key must not be empty")
        return self.prefix + key

    def of_lock(self, key: str) -> str:
        """As `full`, of a lock."""
        return self.full("lock:") + self._named("lock", key)

    def of_tag(self, tag: str) -> str:
        """As `full`, of a tag."""
        return self.full("tag:") + self._named("tag", tag)

    def bare(self, full_key: str) -> str:
        """The entry's key as its user knows it."""
        return full_key.removeprefix(self.prefix)

    def _named(self, what: str, name: str) -> str:
        if not name:
            raise ValueError(f"the name of a {what} must not be empty")
        return name
