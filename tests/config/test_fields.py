"""What the annotations of a config say: durations, secrets, sections."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from creche.runtime.config import Config, PositiveSeconds, Seconds, Secret
from creche.runtime.config_fields import fields_of, is_seconds, is_secret_name, masked, parse_duration


class Inner(msgspec.Struct):
    value: int = 0


class Kinds(Config, frozen=True, kw_only=True):
    plain: float = 0.0
    seconds: Seconds = 0.0
    bounded: Annotated[Seconds, Meta(ge=0.1, le=60)] | None = None
    either: Seconds | str = 0.0
    marked: Secret | None = None
    marked_items: tuple[Secret, ...] = ()
    access_token: str = ""
    inner: Inner | None = None
    others: list[Inner] = msgspec.field(default_factory=list)


FIELDS = fields_of(Kinds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("1m", 60.0),
        ("24h", 86400.0),
        ("7d", 604800.0),
        ("700ms", 0.7),
        ("1.5h", 5400.0),
        ("1m30s", 90.0),
        ("2h45m30.5s", 9930.5),
        ("30", 30.0),
        ("0.25", 0.25),
        ("0", 0.0),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Numbers with units add up; a number alone is one of seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "s", "30 s", " 30s", "-5s", "-5", "1e3", "inf", "nan", "5 minutes", "30S", "1y", "1m30", "1..5s", "30s "],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """The text has to be a duration from end to end."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_units_add_up(hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    """A sum of durations is the sum of the numbers, rounded once."""
    total = (hours * 3_600_000 + minutes * 60_000 + seconds * 1_000 + milliseconds) / 1_000
    assert parse_duration(f"{hours}h{minutes}m{seconds}s{milliseconds}ms") == total


@pytest.mark.parametrize(
    ("name", "expected"), [("plain", False), ("seconds", True), ("bounded", True), ("either", False)]
)
def test_seconds_are_known_by_their_type(name: str, expected: bool) -> None:
    """The mark is found under bounds and beside None; where a text is a value of its own it is no duration."""
    assert is_seconds(FIELDS[name].type) is expected


def test_secrets_are_known_by_their_type_or_by_their_name() -> None:
    """The mark is found beside None and in containers."""
    assert {key for key, field in FIELDS.items() if field.secret} == {"marked", "marked_items", "access_token"}


@pytest.mark.parametrize("name", ["password", "DB_PASSWORD", "access-token", "client_secret", "api_key", "dsn"])
def test_names_of_secrets(name: str) -> None:
    """The ending counts, whatever the case."""
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["path", "dedup_key", "max_tokens", "password_policy", "tokenizer"])
def test_other_names_are_no_secrets(name: str) -> None:
    """A word that only begins like one hides nothing."""
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("postgresql://app:hunter2@db:5432/orders", "postgresql://***@db:5432/orders"),
        (["redis://:hunter2@cache"], ["redis://***@cache"]),
        (("http://db/x?mail=a@b",), ("http://db/x?mail=a@b",)),
        ({"anything": "hunter2"}, "{...}"),
        (5, 5),
        (None, None),
    ],
)
def test_values_are_masked_for_errors(value: Any, expected: Any) -> None:
    """Credentials in URLs, and all that a table holds."""
    assert masked(value) == expected


def test_sections_are_known_by_their_type() -> None:
    """A struct beside None is a section; a list of structs is a value."""
    assert {key for key, field in FIELDS.items() if field.struct} == {"inner"}


def test_positive_seconds_are_more_than_nothing() -> None:
    """The bound holds for texts as for numbers."""

    class Timeouts(Config, frozen=True, kw_only=True):
        limit: PositiveSeconds = 1.0

    assert msgspec.convert({"limit": 0.5}, Timeouts) == Timeouts(limit=0.5)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"limit": 0}, Timeouts)
