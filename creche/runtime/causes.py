"""Why a tree has failed, as text for people: from the root down to the line of code that crashed.

An error that escalates carries the one below it as its `__cause__`, and a supervisor that gave up says what its
children died of. Together they are a tree; this draws it.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import Crashes, IntensityExceeded, StartFailed, TreeFailed
from .node import one_line

_DEEPEST = 32  # a chain of causes may be a circle


@dataclass
class _Branch:
    text: str
    branches: list[_Branch] = field(default_factory=list["_Branch"])

    def lines(self, lead: str = "", branch: str = "", indent: str = "") -> Iterator[str]:
        yield f"{lead}{branch}{self.text}"
        for below in self.branches:
            last = below is self.branches[-1]
            yield from below.lines(lead + indent, "└─ " if last else "├─ ", "   " if last else "│  ")


def cause_tree(error: BaseException) -> str:
    """An error with its causes as an indented tree: who crashed how often of what, and who gave up because of it.

    For a `TreeFailed` above all, which `App` prints in this way when it ends the process. At the bottom stands the line
    of code that raised the error of the last crash.
    """
    return "\n".join(_branch_of(error, _DEEPEST).lines())


def _branch_of(error: BaseException, depth: int) -> _Branch:
    if isinstance(error, TreeFailed):
        return _Branch(f"{error.name}: the tree has failed", _below(error, depth))
    if isinstance(error, IntensityExceeded):
        branches = [_branch_of_crashes(crashes, error, depth) for crashes in error.crashes]
        return _Branch(f"{error.path} gave up: {error.reason}", branches)
    if isinstance(error, StartFailed):
        return _Branch(f"{error.path} failed to start", _below(error, depth))
    return _Branch(one_line(error), _details_of(error, depth))


def _branch_of_crashes(crashes: Crashes, error: IntensityExceeded, depth: int) -> _Branch:
    """What a child died of; if it is of this that the supervisor gave up in the end, with what is behind it."""
    cause = error.__cause__
    times = "once" if crashes.times == 1 else f"{crashes.times} times"
    if cause is None or (crashes.path, crashes.error) != (error.last, one_line(cause)):
        return _Branch(f"{crashes.path} crashed {times}: {crashes.error}")
    if isinstance(cause, IntensityExceeded):
        below = _branch_of(cause, depth - 1).branches if depth else []
        return _Branch(f"{crashes.path} gave up {times}: {cause.reason}", below)
    details = _below(error, depth) if isinstance(cause, StartFailed) else _details_of(cause, depth)
    return _Branch(f"{crashes.path} crashed {times}: {crashes.error}", details)


def _below(error: BaseException, depth: int) -> list[_Branch]:
    return [] if error.__cause__ is None or not depth else [_branch_of(error.__cause__, depth - 1)]


def _details_of(error: BaseException, depth: int) -> list[_Branch]:
    """Where it was raised, and what it was raised from."""
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    return [*(_Branch(f"at {f.filename}:{f.lineno}, in {f.name}") for f in frames), *_below(error, depth)]
