"""A fault: a patch of one file that must fit exactly once, and the tests that must catch it.

A patch is written as a diff: each line begins with a space (it stays), a minus (it goes) or a plus (it comes).
"""

from __future__ import annotations

from dataclasses import dataclass

FUZZ = "tests/core/test_fuzz.py"


@dataclass(frozen=True)
class Mutant:
    """A fault. `caught_by` are pytest's arguments: at least one of these tests must fail."""

    name: str
    path: str
    patch: str
    caught_by: tuple[str, ...] = (FUZZ,)

    @property
    def old(self) -> str:
        """What must be found once."""
        return self._side(" -")

    @property
    def new(self) -> str:
        """What takes its place."""
        return self._side(" +")

    def _side(self, marks: str) -> str:
        lines = self.patch.strip("\n").split("\n")
        return "".join(f"{line[1:]}\n" for line in lines if line[:1] in marks)
