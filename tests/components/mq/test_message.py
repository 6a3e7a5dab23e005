"""Messages, and the headers that sending adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from creche.components import mq as m
from creche.components.mq.message import trace_of
from creche.runtime.context import baggage, carrying

from .support import Seen, log_at


class Order(msgspec.Struct):
    number: int


def test_a_value_is_decoded_as_json() -> None:
    """`decode` reads the value into the type asked for, and refuses another."""
    message = m.Message("orders", msgspec.json.encode(Order(7)))
    assert message.decode(Order) == Order(7)
    with pytest.raises(msgspec.ValidationError):
        message.decode(list[int])


def test_messages_are_immutable_and_share_no_headers() -> None:
    """A message cannot be changed, and the default headers are no shared dict."""
    first, second = m.Message("t", b""), m.Message("t", b"")
    assert first.headers is not second.headers
    with pytest.raises(AttributeError):
        cast("Any", first).topic = "u"


async def test_the_trace_id_travels_from_the_sender_to_the_handler(tmp_path: Path) -> None:
    """The sender's trace id is in a header of the record and in the handler's baggage; the message is left alone."""
    traces: list[object] = []

    async def note_trace(_message: m.Received) -> None:
        traces.append(baggage().get("trace_id"))

    seen = Seen(note_trace)
    async with log_at(tmp_path / "log", partitions=1) as (runtime, mq):
        message = m.Message("t", b"1", headers={"a": "b"})
        with carrying(trace_id="abc"):
            await mq.send_sync(message)
            await mq.send_sync(m.Message("t", b"2", headers={m.TRACE_HEADER: "own"}))
        await mq.send_sync(m.Message("t", b"3"))
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(3)
    assert message.headers == {"a": "b"}
    assert [record.headers for record in seen.done] == [{"a": "b", "X-Trace-ID": "abc"}, {"X-Trace-ID": "own"}, {}]
    assert traces == ["abc", "own", None]


@pytest.mark.parametrize(
    ("headers", "trace_id"),
    [
        ({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}, "a" * 32),
        ({"X-Trace-ID": "own", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}, "own"),
        ({"X-Trace-ID": "not\nvalid", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}, "a" * 32),
        ({"X-Trace-ID": "x" * 65}, None),
        ({"traceparent": "nonsense"}, None),
        ({}, None),
    ],
)
def test_a_trace_comes_from_either_header_if_it_is_valid(headers: dict[str, str], trace_id: str | None) -> None:
    """Anybody may send a record; what is no id does not get into the logs."""
    assert trace_of(m.Received("t", b"", None, headers, partition=0, offset=0, time=0.0)) == trace_id


@pytest.mark.parametrize("topic", ["", "a b", "ä", "a/b", "x" * 250])
async def test_a_topic_must_have_a_name_that_kafka_takes(topic: str, tmp_path: Path) -> None:
    """What Kafka would refuse is refused, before anything is sent."""
    async with log_at(tmp_path / "log") as (_, mq):
        with pytest.raises(m.TopicInvalid):
            await mq.send_sync(m.Message(topic, b""))
        with pytest.raises(m.TopicInvalid):
            await mq.topics.create(topic)
        with pytest.raises(m.TopicInvalid):
            m.consumer(mq, "g", [topic], Seen())
        assert await mq.topics.list() == {}


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"a": None}, {"a": "\ud800"}, {"\ud800": "a"}])
async def test_headers_must_be_text(headers: dict[Any, Any], tmp_path: Path) -> None:
    """One message that the log could not store or give back must not reach it: it would take others along."""
    async with log_at(tmp_path / "log") as (runtime, mq):
        with pytest.raises((TypeError, UnicodeError), match=r"are text|surrogates"):
            await mq.send_sync(m.Message("t", b"", headers=headers))
        await mq.send_sync(m.Message("t", b""))
        assert runtime.node_of(mq).incarnation == 1


@pytest.mark.parametrize("group", ["", "a\nb", "\ud800"])
async def test_a_group_must_have_a_printable_name(group: str, tmp_path: Path) -> None:
    """Refused before anything is sent."""
    async with log_at(tmp_path / "log") as (_, mq):
        with pytest.raises(m.GroupInvalid):
            await mq.lag(group)
        with pytest.raises(m.GroupInvalid):
            m.consumer(mq, group, "t", Seen())


async def test_value_and_key_must_be_bytes(tmp_path: Path) -> None:
    """Text is refused with a hint, for it would come back as text."""
    async with log_at(tmp_path / "log") as (_, mq):
        with pytest.raises(TypeError, match="encode"):
            await mq.send_sync(m.Message("t", cast("Any", "text")))
        with pytest.raises(TypeError, match="encode"):
            await mq.send(m.Message("t", b"", key=cast("Any", "text")))
