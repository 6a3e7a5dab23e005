"""Trace ids: their form, where they hold, and how they travel."""

from __future__ import annotations

import re

import pytest
import trio

import creche
from creche.components import clog
from creche.components.clog.trace import from_traceparent
from creche.runtime.context import carrying

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Reporter(creche.Actor):
    def __init__(self, peer: creche.Handle[Reporter] | None = None) -> None:
        self._peer = peer

    async def trace(self) -> str | None:
        return clog.trace_id() if self._peer is None else await self._peer.ask.trace()


def test_a_new_id_is_what_w3c_wants() -> None:
    """32 lower-case hexadecimal digits, another one each time."""
    ids = {clog.new_trace_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{32}", id) for id in ids)


async def test_a_seeded_runtime_repeats_its_ids() -> None:
    """Inside a runtime the ids come from its randomness."""
    ids = []
    for _ in range(2):
        async with creche.open_runtime("svc", seed=7):
            ids.append([clog.new_trace_id() for _ in range(3)])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3


def test_a_trace_holds_inside_its_block() -> None:
    """Blocks nest, and the outer id is back after the inner block, also after an error."""
    assert clog.trace_id() is None
    with clog.trace("outer") as given:
        assert given == clog.trace_id() == "outer"
        with pytest.raises(KeyError), clog.trace("inner"):
            assert clog.trace_id() == "inner"
            raise KeyError
        assert clog.trace_id() == "outer"
    assert clog.trace_id() is None


def test_without_an_id_a_trace_makes_one() -> None:
    """`trace()` gives the new id."""
    with clog.trace() as id:
        assert clog.trace_id() == id
        assert re.fullmatch(r"[0-9a-f]{32}", id)


@pytest.mark.parametrize("id", ["", "a b", "a\nb", "x" * 65, "é", "a/b"])
def test_a_trace_refuses_what_is_no_id(id: str) -> None:
    """A bad id is the caller's mistake, and says what is allowed."""
    assert not clog.is_trace_id(id)
    with pytest.raises(ValueError, match="1 to 64 letters"), clog.trace(id):
        pass


async def test_a_trace_travels_through_actors() -> None:
    """The id of the first caller arrives at the last actor of a chain, and not with the next caller."""
    async with creche.open_runtime("svc") as runtime:
        last = await runtime.start(creche.child(Reporter))
        first = await runtime.start(creche.child(Reporter, last))
        with clog.trace(ID):
            assert await first.ask.trace() == ID
        assert await first.ask.trace() is None


async def test_other_baggage_is_no_trace_id() -> None:
    """What anybody else puts into the context never shows as the trace id."""
    with carrying(trace="x", tenant="y"):
        assert clog.trace_id() is None
    with carrying(trace_id=object()):
        assert clog.trace_id() is None


async def test_traces_of_concurrent_tasks_do_not_mix() -> None:
    """Each task has its own."""
    seen: dict[str, str | None] = {}

    async def work(id: str) -> None:
        with clog.trace(id):
            await trio.lowlevel.checkpoint()
            seen[id] = clog.trace_id()

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(work, f"id{number}")
    assert all(id == value for id, value in seen.items())
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{ID}-{PARENT}-01", ID),
        (f"00-{ID}-{PARENT}-00", ID),
        (f"01-{ID}-{PARENT}-01", ID),
        (f"01-{ID}-{PARENT}-01-more", ID),
        (f"00-{ID}-{PARENT}-01-more", None),
        (f"ff-{ID}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{ID}-{'0' * 16}-01", None),
        (f"00-{ID.upper()}-{PARENT}-01", None),
        (f"00-{ID}-{PARENT}", None),
        (f"00-{ID}-{PARENT}-01\n", None),
        (ID, None),
        ("", None),
    ],
)
def test_a_traceparent_is_read_as_w3c_says(header: str, expected: str | None) -> None:
    """Later versions may append, version 0 may not, ff and all zeros are invalid."""
    assert from_traceparent(header) == expected
