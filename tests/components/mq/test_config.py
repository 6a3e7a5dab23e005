"""The configuration of the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import creche
from creche.components import mq as m
from creche.runtime.errors import ConfigInvalid, NotStarted, SpecInvalid

from .support import log_at


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"path": ":memory:"}, "$.path"),
        ({"path": ""}, "$.path"),
        ({"partitions": 0}, "$.partitions"),
        ({"synchronous": "off"}, "$.synchronous"),
        ({"max_batch": 0}, "$.max_batch"),
        ({"linger": -1.0}, "$.linger"),
        ({"max_buffered_bytes": 0}, "$.max_buffered_bytes"),
        ({"max_message_bytes": 10**9}, "$.max_message_bytes"),
        ({"retention_time": 0.0}, "$.retention_time"),
        ({"offset_reset": "none"}, "$.offset_reset"),
        ({"heartbeat_interval": 10.0, "session_timeout": 10.0}, "$.heartbeat_interval"),
        ({"poll_interval": 0.0}, "$.poll_interval"),
        ({"backend": "kafka"}, "$.backend"),
    ],
)
def test_a_bad_value_is_refused_before_anything_starts(values: dict[str, Any], path: str) -> None:
    """`component` names the path to the value."""
    with pytest.raises(ConfigInvalid) as caught:
        m.component(m.Config(**values))
    assert caught.value.path == path


@pytest.mark.parametrize("env", ["development", "production", "staging"])
def test_the_defaults_of_every_environment_are_accepted(env: Any) -> None:
    """By the same checks as any other config."""
    assert isinstance(m.component(m.default_config(env)).new_handle(), m.Mq)


def test_production_survives_a_power_loss_by_default() -> None:
    """The environments differ in what an acknowledgement means."""
    assert m.default_config("production").synchronous == "full"
    assert m.default_config("development").synchronous == "normal"


@pytest.mark.parametrize(
    "values",
    [
        {"attempts": 0},
        {"on": {str: "drop"}},
        {"on": {ValueError: "ignore"}},
        {"topics": (0.0,)},
        {"topics": (float("inf"),)},
    ],
)
def test_a_bad_retry_policy_is_refused(values: dict[str, Any]) -> None:
    """A policy is checked when it is made."""
    with pytest.raises(SpecInvalid):
        m.RetryPolicy(**values)


def test_a_consumer_needs_topics_and_a_slot() -> None:
    """Nothing to read, or no way to handle it, is refused."""
    mq = m.component(m.Config()).new_handle()

    async def handler(_message: m.Received) -> None: ...

    with pytest.raises(SpecInvalid):
        m.consumer(mq, "g", [], handler)
    with pytest.raises(SpecInvalid):
        m.consumer(mq, "g", "t", handler, concurrency=0)
    with pytest.raises(SpecInvalid):
        m.consumer(mq, "g", "t", handler, order="topic")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert m.consumer(mq, "a:b c", "t", handler).default_name() == "consumer-a-b-c"
    assert m.consumer(mq, "g", "t", handler, name="n").child_options.name == "n"
    assert mq in list(m.consumer(mq, "g", "t", handler).dependencies())


async def test_a_path_that_cannot_be_opened_fails_the_start(tmp_path: Path) -> None:
    """A wrong path shows at once, and by name."""
    (tmp_path / "log").mkdir()
    with pytest.raises(creche.StartFailed, match="unable to open"):
        async with log_at(tmp_path / "log"):
            pass


async def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    """The default path needs no preparation."""
    async with log_at(tmp_path / "a" / "b" / "log") as (_, mq):
        assert (await mq.send_sync(m.Message("t", b""))).offset == 0


async def test_a_handle_that_is_not_started_says_so() -> None:
    """As all component handles."""
    mq = m.component(m.Config()).new_handle()
    with pytest.raises(NotStarted):
        await mq.send_sync(m.Message("t", b""))
