"""The console format: one entry cannot look like two, and cannot steer a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.components.clog.entry import Entry, timestamp
from creche.components.clog.formats import console_line

TIME = "2026-01-02T03:04:05.678Z"
START: Entry = {"time": TIME, "level": "info", "msg": "hello"}


def test_a_line_reads_from_left_to_right() -> None:
    """Time, level, namespace and message lead; the other keys follow in their order."""
    entry: Entry = {**START, "namespace": "orders.payment", "service": "svc", "n": 1, "ok": True, "none": None}
    assert console_line(entry) == f"{TIME} INFO     [orders.payment] hello service=svc n=1 ok=true none=null\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("bare", "bare"),
        ("", '""'),
        ("two words", '"two words"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("a=b", '"a=b"'),
        ("line\nbreak", '"line\\nbreak"'),
        ("\x1b[31mred", "\\x1b[31mred"),
        ({"a": [1, "x y"]}, '{"a":[1,"x y"]}'),
        ("grüße 世界", '"grüße 世界"'),
    ],
)
def test_values_are_quoted_where_they_would_be_misread(value: object, shown: str) -> None:
    """Text with blanks, quotes or equals signs is quoted, the rest is bare."""
    assert console_line({**START, "value": value}) == f"{TIME} INFO     hello value={shown}\n"


NASTY = ["\n", "\r", "\x1b[2J", "\x9b31m", "\x7f", "\x00", "\x85", "\u2028", "\u202e", "\ud800"]


@pytest.mark.parametrize("char", NASTY, ids=ascii)
@pytest.mark.parametrize("place", ["msg", "namespace", "trace_id", "value", "key"])
def test_control_characters_never_come_through(char: str, place: str) -> None:
    """Line breaks, escape sequences, direction marks and surrogates are escaped wherever they come from."""
    forged = f"x{char}2026-01-02T03:04:05.678Z ERROR    forged"
    entry: Entry = {**START, forged: 1} if place == "key" else {**START, place: forged}
    line = console_line(entry)
    assert line.endswith("\n")
    assert line[:-1].isprintable()


def test_a_traceback_stands_below_and_is_marked() -> None:
    """Each line of a traceback is marked, so that text in an exception cannot begin an entry."""
    entry: Entry = {**START, "error": "boom", "traceback": f"Traceback\n  at x\nBoom: \x1b[0m\n{TIME} INFO forged\n"}
    first, *rest = console_line(entry).splitlines()
    assert first == f"{TIME} INFO     hello error=boom"
    assert rest == ["    | Traceback", "    |   at x", "    | Boom: \\x1b[0m", f"    | {TIME} INFO forged"]


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text())), st.text(), st.text())
def test_one_entry_is_one_entry(fields: dict[str, object], msg: str, traceback: str) -> None:
    """Whatever is logged, only the first line does not begin with the traceback's mark, and all of it prints."""
    entry: Entry = {**fields, **START, "msg": msg, "traceback": traceback}
    first, *rest = console_line(entry).removesuffix("\n").split("\n")
    assert first.isprintable()
    assert all(line.startswith("    | ") and line.isprintable() for line in rest)


def test_colour_only_marks_the_level() -> None:
    """With colour on, the level and nothing else is wrapped in escape sequences."""
    coloured = console_line({**START, "value": "\x1b[31m"}, color=True)
    assert coloured == f"{TIME} \x1b[32mINFO    \x1b[0m hello value=\\x1b[31m\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1767323045.678, "2026-01-02T03:04:05.678Z"),
        (1767323045.9999, "2026-01-02T03:04:05.999Z"),
    ],
)
def test_time_is_rfc_3339_with_milliseconds(seconds: float, text: str) -> None:
    """UTC, cut off at the millisecond, never rounded into the next second."""
    assert timestamp(seconds) == text
