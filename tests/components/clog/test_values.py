"""Field values: anything goes in, plain data comes out, and secrets do not."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.components.clog.tracebacks import error_fields
from creche.components.clog.values import HIDDEN, Values, safe_repr

VALUES = Values(("password", "token"), safe_repr)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Account:
    name: str
    password: str


class Session(msgspec.Struct):
    user: str
    access_token: str


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class Shouting(str):
    __slots__ = ()


class Count(int):
    pass


def cycle() -> list[Any]:
    items: list[Any] = [1]
    items.append(items)
    return items


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ("text", "text"),
        (Shouting("text"), "text"),
        (7, 7),
        (Count(7), 7),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ({Shouting("key"): Shouting("text")}, {"key": "text"}),
        (True, True),
        (1.5, 1.5),
        (None, None),
        (2**64, str(2**64)),
        ([2**64, -(2**63)], [str(2**64), -(2**63)]),
        ((1, "a"), [1, "a"]),
        ({"a": {"b": (1, 2)}}, {"a": {"b": [1, 2]}}),
        ({1: "one"}, {"1": "one"}),
        (Colour.RED, "red"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (ValueError("x"), "ValueError('x')"),
        ({(1, 2): 3}, {"(1, 2)": 3}),
        (Broken(), "<Broken: repr raised RuntimeError>"),
        ([Broken()], ["<Broken: repr raised RuntimeError>"]),
        (cycle(), [1, "..."]),
    ],
)
def test_every_value_becomes_plain_data(value: object, plain: object) -> None:
    """Containers and known types keep their structure, everything else becomes its repr, and nothing raises."""
    assert VALUES.plain("field", value) == plain


@pytest.mark.parametrize("name", ["password", "PASSWORD", "db_password", "accessToken", "X-Auth-Token"])
def test_a_secret_name_hides_its_value(name: str) -> None:
    """A field whose name ends in a redacted word is hidden whatever its case and its value."""
    assert VALUES.plain(name, "s3cret") == HIDDEN
    assert VALUES.plain(name, {"deep": "s3cret"}) == HIDDEN
    assert VALUES.plain("request", {"headers": [{name: "s3cret"}]}) == {"headers": [{name: HIDDEN}]}


@pytest.mark.parametrize("value", [Account("ann", "s3cret"), Session("ann", "s3cret")])
def test_secrets_inside_objects_are_hidden(value: object) -> None:
    """Attributes of dataclasses and structs are fields too."""
    plain = VALUES.plain("who", {"it": value})
    assert "s3cret" not in json.dumps(plain)
    assert HIDDEN in json.dumps(plain)


@dataclass
class Node:
    """May be part of a cycle."""

    password: str
    up: Any = None


@dataclass
class Unready:
    """One of its attributes raises."""

    password: str

    def __getattribute__(self, name: str) -> Any:
        if name == "late":
            raise RuntimeError("not yet")
        return super().__getattribute__(name)

    late: int = 0


class Linked(msgspec.Struct):
    access_token: str
    up: Any = None


def in_a_cycle(one: Any) -> Any:
    one.up = {"below": [one]}
    return one


def knows_itself() -> dict[str, Any]:
    fields: dict[str, Any] = {"password": "s3cret"}
    fields["self"] = fields
    return fields


@pytest.mark.parametrize(
    "value",
    [
        {"password": "s3cret", None: 2},
        {"headers": {"x-token": "s3cret", ("a", 1): 2}},
        [{"password": "s3cret", None: 2}, {"password": "s3cret"}],
        {"tried": [Session("ann", "s3cret"), {(1, 2): 3}]},
        knows_itself(),
        in_a_cycle(Node("s3cret")),
        in_a_cycle(Linked("s3cret")),
        Unready("s3cret"),
        ({"password": "s3cret"}, {Ellipsis: 1}),
    ],
)
def test_secrets_are_hidden_in_what_cannot_be_converted_as_a_whole(value: object) -> None:
    """An odd key, a cycle or an attribute that raises, anywhere, is no way around it."""
    text = json.dumps(VALUES.plain("body", value))
    assert "s3cret" not in text
    assert HIDDEN in text


def test_what_cannot_be_converted_is_shown_in_bounded_time() -> None:
    """Each of many that know each other is shown once, and not once for each way to it."""
    crowd: list[Any] = [{"number": number} for number in range(30)]
    for one in crowd:
        one["others"] = crowd
    deep: Any = {None: 1}
    for _ in range(5000):
        deep = {"below": deep}
    for value in (crowd, deep):
        assert len(json.dumps(VALUES.plain("body", value))) < 5000


@pytest.mark.parametrize("name", ["token_count", "tokens", "secretary", "passwords_changed"])
def test_other_names_are_not_hidden(name: str) -> None:
    """The word must end the name."""
    assert VALUES.plain(name, 3) == 3


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.uuids(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner)
        | st.frozensets(st.text())
    ),
)


@given(st.text(), ANYTHING)
def test_plain_data_is_json_whatever_came_in(name: str, value: object) -> None:
    """The result can be encoded without any help."""
    json.dumps(VALUES.plain(name, value))


def test_an_error_tells_type_text_and_traceback() -> None:
    """The three things that a line says about an error; the type with its module unless that is builtins."""
    with pytest.raises(ValueError, match="property name") as caught:
        json.loads("{")
    fields = error_fields(caught.value)
    assert fields["error_type"] == "json.decoder.JSONDecodeError"
    assert str(fields["error"]).startswith("Expecting property name")
    assert 'json.loads("{")' in str(fields["traceback"])
    assert error_fields(KeyError("k"))["error_type"] == "KeyError"


def test_a_group_shows_all_its_errors() -> None:
    """The traceback of an exception group is the tree of its members, nested groups included."""
    group = ExceptionGroup("outer", [ValueError("one"), ExceptionGroup("inner", [KeyError("two"), OSError("three")])])
    text = str(error_fields(group)["traceback"])
    for part in ("outer (2 sub-exceptions)", "ValueError: one", "inner (2 sub-exceptions)", "KeyError: 'two'", "three"):
        assert part in text


def test_an_error_that_cannot_be_shown_does_no_harm() -> None:
    """An exception whose text raises is reported as such."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert error_fields(Odd())["error"] == "<Odd: str raised RuntimeError>"
