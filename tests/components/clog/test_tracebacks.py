"""Tracebacks: the service's own frames are shown, the rest is counted, and groups can be read."""

from __future__ import annotations

import json
import re
import traceback
from pathlib import Path

import pytest
import trio

import creche
from creche.components import clog
from creche.components.clog.formats import console_line
from creche.components.clog.tracebacks import error_fields, shortened
from tests.components.clog.support import AT_ONCE, Entry, log_to

HINT = "frames of creche and trio left out: clog.Config(full_tracebacks=True) shows them)"


class Back(creche.Actor):
    async def boom(self) -> None:
        raise ValueError("the bug")

    async def boom_twice(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.boom)
            nursery.start_soon(self.boom)


class Front(creche.Actor):
    def __init__(self, back: creche.Handle[Back]) -> None:
        self.back = back

    async def go(self) -> None:
        await self.back.ask.boom()


def files_of(text: str) -> set[str]:
    """The names of the files in a traceback."""
    return {Path(found).name for found in re.findall(r'File "([^"]+)"', text)}


async def crash(tmp_path: Path, message: str, *, full: bool = False) -> Entry:
    """The line of a crash."""
    async with log_to(tmp_path / "log", full_tracebacks=full) as log:
        back = await log.runtime.start(creche.child(Back).options(backoff=AT_ONCE))
        with pytest.raises(creche.OutcomeUnknown):
            await back.call(getattr(Back, message))
        (line,) = (entry for entry in await log.entries() if entry["msg"] == "actor crashed")
    return line


async def test_a_crash_shows_the_services_own_frames(tmp_path: Path) -> None:
    """The loop over messages is left out, and the text says how many frames, and how to see them."""
    text = (await crash(tmp_path, "boom"))["traceback"]
    assert files_of(text) == {Path(__file__).name}
    assert 'raise ValueError("the bug")\nValueError: the bug\n(' in text
    assert text.endswith(HINT + "\n")


async def test_the_full_one_can_be_had(tmp_path: Path) -> None:
    """With `full_tracebacks` nothing is left out, and there is no hint."""
    text = (await crash(tmp_path, "boom", full=True))["traceback"]
    assert len(files_of(text)) > 1
    assert HINT not in text


async def test_a_crash_of_several_tasks_keeps_its_tree(tmp_path: Path) -> None:
    """Trio's nursery frames go from the group, its members and their frames stay."""
    text = (await crash(tmp_path, "boom_twice"))["traceback"]
    assert files_of(text) == {Path(__file__).name}
    assert text.count("ValueError: the bug") == 2
    assert "---------------- 2 ----------------" in text


async def test_errors_through_several_actors(tmp_path: Path) -> None:
    """Every cause is there, with the frames of the service alone."""
    async with log_to(tmp_path / "log") as log:
        back = await log.runtime.start(creche.child(Back).options(backoff=AT_ONCE))
        front = await log.runtime.start(creche.child(Front, back))
        try:
            await front.ask.go()
        except creche.PeerFailed as error:
            clog.error("failed", error=error)
        (line,) = (entry for entry in await log.entries() if entry["msg"] == "failed")
    text = line["traceback"]
    assert files_of(text) == {Path(__file__).name}
    for kind in ("ValueError", "OutcomeUnknown", "PeerFailed"):
        assert f"{kind}: " in text
    assert text.count("The above exception was the direct cause") == 2


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


async def test_a_traceback_of_nothing_else_is_left_whole() -> None:
    """A bug inside of Trio or creche must be seen, also when it is the cause of another error."""
    with pytest.raises(RuntimeError) as caught:
        trio.run(trio.sleep, 0)  # refused: inside of a run
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next if caught.value.__traceback__ else None)
    whole = "".join(traceback.format_exception(error))
    assert shortened(whole) == whole
    outer = raised(LookupError("outer"))
    outer.__cause__ = error
    assert "_run.py" in files_of(str(error_fields(outer)["traceback"]))


def test_text_that_looks_like_a_frame_stays() -> None:
    """Only frames go: lines of a message, and whatever is no traceback, are left as they are."""
    text = 'no traceback\n    File "x", line 1\nmore\n'
    assert shortened(text) == text
    fields = error_fields(raised(ValueError("first\n    indented\n  File second")))
    assert str(fields["traceback"]).endswith("ValueError: first\n    indented\n  File second\n")


def test_a_group_is_told_with_its_members() -> None:
    """`errors` has the text and type of each, and of theirs."""
    group = ExceptionGroup("both", [OSError("a"), ExceptionGroup("inner", [KeyError("k")])])
    fields = error_fields(group)
    assert fields["error"] == "both (2 sub-exceptions)"
    assert fields["errors"] == [
        {"error": "a", "error_type": "OSError"},
        {
            "error": "inner (1 sub-exception)",
            "error_type": "ExceptionGroup",
            "errors": [{"error": "'k'", "error_type": "KeyError"}],
        },
    ]
    json.dumps(fields)


def test_a_group_can_be_read_on_a_console() -> None:
    """Each line of the tree is a line of its own, behind the mark."""
    fields = error_fields(raised(ExceptionGroup("both", [OSError("a"), KeyError("b")])))
    lines = console_line({"time": "t", "level": "error", "msg": "failed", **fields}).splitlines()
    assert all(line.startswith("    | ") for line in lines[1:])
    assert [line for line in lines if "OSError: a" in line or "KeyError: 'b'" in line] == [
        "    |     | OSError: a",
        "    |     | KeyError: 'b'",
    ]


def test_a_group_of_endless_depth_is_cut() -> None:
    """So deep and no deeper: a line must not grow without bounds."""
    group: ExceptionGroup[Exception] = ExceptionGroup("g", [ValueError("leaf")])
    for _ in range(50):
        group = ExceptionGroup("g", [group])
    assert json.dumps(error_fields(group)["errors"]).count('"errors"') < 15
