"""The reference has all that there is, with the defaults that it has."""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import creche
from creche import components
from creche.runtime import events
from creche.runtime.cli import COMMANDS_ABOVE
from creche.runtime.context import ActorContext
from creche.runtime.spec import ChildOptions
from creche.runtime.timers import Timers
from tests.pages import ROOT

PAGE = "docs/reference.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
ROWS: dict[str, str] = dict(re.findall(r"^\| `([\w.]+)` \| (?:`(.*?)`)? ?\|", TEXT, re.MULTILINE))
RULES = (creche.Backoff, creche.Intensity, creche.Watchdog, creche.Admission, creche.Autoscale)


def value_of(shown: str) -> Any:
    """A default as it stands on the page: a page of our own."""
    return eval(shown, {"Backoff": creche.Backoff})


def public(cls: type) -> Iterator[str]:
    return (name for name in vars(cls) if not name.startswith("_"))


def test_every_name_is_on_the_page() -> None:
    """Of what `creche` exports, and of the packages beside it."""
    names = {name for name, value in vars(creche).items() if not name.startswith("_")}
    packages = {name for name in names if isinstance(vars(creche)[name], ModuleType)} - {"events"}
    assert {name for name in names - packages if not re.search(rf"`{name}\b", TEXT)} == set()
    assert {name for name, value in vars(components).items() if isinstance(value, ModuleType)} - {"wal"} == {
        *("cache", "clog", "db", "http", "mq", "uid")
    }


def test_every_option_of_a_child_is_there_with_its_default() -> None:
    assert {field.name: value_of(ROWS[field.name]) for field in dataclasses.fields(ChildOptions)} == {
        field.name: field.default for field in dataclasses.fields(ChildOptions)
    }


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_there_with_its_default(rule: type[Any]) -> None:
    """What has none is explained where it is used."""
    fields = dataclasses.fields(rule)
    given = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    assert {name: value_of(ROWS[f"{rule.__name__}.{name}"]) for name in given} == given


def test_every_option_of_a_message_is_there_with_its_default() -> None:
    """In the part on messages, for a child has a `slow_after` too."""
    part = TEXT.partition("## Options of a message")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", part, re.MULTILINE))
    options = inspect.signature(creche.message).parameters
    assert {name: value_of(default) for name, default in rows.items()} == {
        name: option.default for name, option in options.items()
    }


@pytest.mark.parametrize("cls", [ActorContext, Timers, creche.Handle])
def test_every_method_is_on_the_page(cls: type) -> None:
    """Of the context, of its timers, and of a handle."""
    assert {name for name in public(cls) if not re.search(rf"[`.]{name}\b", TEXT)} == set()


def test_every_event_is_there_with_its_fields() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \| (.*?) ?\| ", TEXT.partition("## Events")[2], re.MULTILINE)
    of_all = {field.name for field in dataclasses.fields(events.Event)}
    assert {name: re.findall(r"`(\w+)`", fields) for name, fields in rows} == {
        kind.__name__: [field.name for field in dataclasses.fields(kind) if field.name not in of_all]
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, events.Event) and kind is not events.Event
    }


def test_every_command_and_every_extra_is_on_the_page() -> None:
    for command in ("run", "config check", *COMMANDS_ABOVE):
        assert f"`creche {command} " in TEXT, command
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {extra for extra in extras if f"`creche[{extra}]`" not in TEXT} == {"dev"}
