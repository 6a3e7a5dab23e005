"""The configuration of the db component."""

from __future__ import annotations

from typing import Any

import pytest

from creche.components import db
from creche.runtime.errors import ConfigInvalid, SpecInvalid


@pytest.mark.parametrize("path", ["", ":memory:", "file:test?mode=memory"])
def test_a_database_that_a_crash_would_lose_is_refused(path: str) -> None:
    """Only a file on disk will do; the error names the field and says what to do."""
    with pytest.raises(ConfigInvalid, match=r"\$\.path .*: .*name a file") as caught:
        db.component(db.Config(path=path))
    assert caught.value.path == "$.path"


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"backend": "oracle"}, "$.backend"),
        ({"synchronous": "sometimes"}, "$.synchronous"),
        ({"pool_size": -1}, "$.pool_size"),
        ({"busy_timeout": -1}, "$.busy_timeout"),
        ({"transaction_timeout": 0}, "$.transaction_timeout"),
        ({"slow_after": 0}, "$.slow_after"),
    ],
)
def test_a_value_that_cannot_be_is_refused_before_anything_starts(values: dict[str, Any], path: str) -> None:
    """The error leads to the value."""
    with pytest.raises(ConfigInvalid) as caught:
        db.component(db.Config(**values))
    assert caught.value.path == path


def test_production_does_not_report_a_commit_before_it_is_on_disk() -> None:
    """Development trades the last commits at a power cut for speed; production does not."""
    assert db.default_config("production").synchronous == "FULL"
    assert db.default_config("development").synchronous == "NORMAL"


@pytest.mark.parametrize("values", [{"poll": 0}, {"poll": float("nan")}, {"batch": 0}])
def test_a_relay_that_would_spin_or_send_nothing_is_refused(values: dict[str, Any]) -> None:
    """Refused when the spec is made."""
    no_log: Any = None
    with pytest.raises(SpecInvalid, match=next(iter(values))):
        db.relay(db.Db("db"), no_log, **values)
