"""The levels, as numbers for comparing and as names for people."""

from __future__ import annotations

from typing import Literal

Level = Literal["debug", "info", "warning", "error", "critical", "warn", "fatal"]

DEBUG, INFO, WARNING, ERROR, CRITICAL = 10, 20, 30, 40, 50

NAMES = {DEBUG: "debug", INFO: "info", WARNING: "warning", ERROR: "error", CRITICAL: "critical"}
NUMBERS: dict[Level, int] = {
    "debug": DEBUG,
    "info": INFO,
    "warning": WARNING,
    "error": ERROR,
    "critical": CRITICAL,
    "warn": WARNING,  # an alias
    "fatal": CRITICAL,  # an alias: no level ends the process
}
