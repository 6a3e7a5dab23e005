"""An entry as one line of text for people. JSON is the business of eliot and orjson: see `sink`."""

from __future__ import annotations

import json
import re

from .entry import Entry

_COLORS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}
_RESET = "\x1b[0m"
_LEADING = frozenset({"time", "level", "msg", "namespace", "traceback"})
_BARE = re.compile(r"[^\s\"'=]+")  # what needs no quotes as a value


def console_line(entry: Entry, *, color: bool = False) -> str:
    """One entry, with its line break.

    ``time LEVEL [namespace] msg key=value ...``, and below it the traceback, every line of it marked with
    ``|``. All that comes from outside is escaped, so that nothing can forge a second entry or steer a
    terminal.
    """
    level = str(entry["level"])
    shown = f"{level.upper():<8}"
    parts = [str(entry["time"]), f"{_COLORS[level]}{shown}{_RESET}" if color else shown]
    if "namespace" in entry:
        parts.append(f"[{escaped(str(entry['namespace']))}]")
    parts.append(escaped(str(entry["msg"])))
    parts.extend(f"{escaped(key)}={_shown(value)}" for key, value in entry.items() if key not in _LEADING)
    return " ".join(parts) + "\n" + _traceback_lines(entry.get("traceback"))


def _shown(value: object) -> str:
    text = (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=repr)
    )
    if not isinstance(value, str) or _BARE.fullmatch(text):
        return escaped(text)
    return '"' + escaped(text).replace('"', '\\"') + '"'


def _traceback_lines(traceback: object) -> str:
    if not traceback:
        return ""
    return "".join(f"    | {escaped(line)}\n" for line in str(traceback).rstrip("\n").split("\n"))


def escaped(text: str) -> str:
    r"""`text` with all that does not print (line breaks, escapes, direction marks) as ``\n``, ``\x1b``, ``\u202e``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
