"""What a line says about an error.

Frames of creche and Trio lie between any two of the service's own: the loop over messages, the way of a call. They are
the same for all crashes, so they are left out, and the text says how many were. A traceback that has no frame but
those is left whole: the bug is there.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import trio

from .values import safe_text

_OURS = tuple(
    str(folder) + "/"
    for folder in (
        Path(__file__).parents[2] / "runtime",
        Path(__file__).parents[2] / "supervisors",
        Path(trio.__file__).parent,
    )
)
# A frame's first line; before it stands what draws the tree of a group.
_FRAME = re.compile(r'(?P<margin>[ |+]*)  File "(?P<file>[^"]*)", line \d+, in ')


def error_fields(error: BaseException, *, full: bool = False) -> dict[str, object]:
    """Its text, type and traceback; of a group also `errors`, its members with their own members."""
    fields = _told(error)
    fields["traceback"] = _text(error) if full else shortened(_text(error))
    return fields


def _told(error: BaseException, depth: int = 0) -> dict[str, object]:
    kind = type(error)
    told: dict[str, object] = {
        "error": safe_text(error),
        "error_type": kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
    }
    if isinstance(error, BaseExceptionGroup) and depth < 10:
        members = cast("BaseExceptionGroup[BaseException]", error).exceptions
        told["errors"] = [_told(member, depth + 1) for member in members]
    return told


def _text(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as broken:
        return f"(no traceback: {safe_text(broken)})"


def shortened(text: str) -> str:
    """A formatted traceback without the frames of creche and Trio, and at its end how many were left out."""
    blocks = list(_blocks(text.splitlines(keepends=True)))
    out, left_out = list[str](), 0
    for is_frame, lines in _with_whole_ones(blocks):
        if is_frame:
            left_out += 1
        else:
            out.extend(lines)
    if not left_out:
        return text
    frames = "1 frame" if left_out == 1 else f"{left_out} frames"
    return f"{''.join(out)}({frames} of creche and trio left out: clog.Config(full_tracebacks=True) shows them)\n"


def _with_whole_ones(blocks: list[tuple[bool | None, list[str]]]) -> Iterator[tuple[bool, list[str]]]:
    """Each block, and whether it is to be left out: not where a traceback has nothing but such frames."""
    start = 0
    while start < len(blocks):
        end = start
        while end < len(blocks) and blocks[end][0] is not None:
            end += 1
        run = blocks[start:end]
        whole = all(ours for ours, _ in run)
        yield from ((bool(ours) and not whole, lines) for ours, lines in run)
        if end < len(blocks):
            yield False, blocks[end][1]
        start = end + 1


def _blocks(lines: Iterable[str]) -> Iterator[tuple[bool | None, list[str]]]:
    """``(whether it is one of ours, its lines)`` for each frame, ``(None, [line])`` for whatever else there is."""
    frame: tuple[bool, list[str], str] | None = None
    for line in lines:
        start = _FRAME.match(line)
        if start is not None:
            if frame is not None:
                yield frame[:2]
            frame = (start["file"].startswith(_OURS), [line], start["margin"] + "    ")
        elif frame is not None and line.startswith(frame[2]):
            frame[1].append(line)
        else:
            if frame is not None:
                yield frame[:2]
            frame = None
            yield None, [line]
    if frame is not None:
        yield frame[:2]
