"""How pipelines, attempts and dead letters type: checked by mypy and pyright, never run. See `handle_usage`."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

import trio

import creche
from creche.supervisors.pipelines.flow import Stream
from creche.supervisors.pipelines.pipeline import PipelineSpec, PipelineStatistics, Stage


class Fetcher(creche.Actor):
    def __init__(self, agent: str) -> None:
        self.agent = agent

    @creche.message(idempotent=True, attempts=5)
    async def fetch(self, url: str) -> bytes:
        return url.encode()


class Parser(creche.Actor):
    async def parse(self, page: bytes) -> list[str]:
        return [page.decode()]


def specs() -> None:
    """A stage is a worker and one of its messages."""
    assert_type(creche.stage(creche.child(Fetcher, "x"), Fetcher.fetch, size=2, buffer=1), Stage)
    assert_type(creche.pipeline("p", creche.stage(creche.child(Parser), many=True)).options(drain=1), PipelineSpec)
    creche.stage(creche.child(Parser), Fetcher.fetch)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    creche.pipeline("p", creche.child(Parser))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def lines() -> AsyncIterator[str]:
    yield "a"


async def uses(runtime: creche.Runtime, receive: trio.MemoryReceiveChannel[str]) -> None:
    """Items are of any type: what a stage takes and gives is its own matter."""
    pipeline = await runtime.start(creche.pipeline("p", creche.stage(creche.child(Parser))))
    assert_type(pipeline, creche.Pipeline)
    outcome = await pipeline.submit(b"")
    assert_type(outcome, creche.ItemOutcome)
    assert_type(outcome.unwrap(), tuple[Any, ...])
    assert_type(await pipeline.run(["a"]), list[creche.ItemOutcome])
    for source in (lines(), receive, ["a"]):
        async with pipeline.process(source, ordered=True) as outcomes:
            assert_type(outcomes, Stream)
            async for one in outcomes:
                assert_type(one, creche.ItemOutcome)
    assert_type(pipeline.statistics(), PipelineStatistics)
    fetcher = await runtime.start(creche.child(Fetcher, "x"))
    assert_type(await fetcher.ask.fetch("/"), bytes)


def letters(runtime: creche.Runtime) -> None:
    """The store, and what is in it."""
    store = runtime.keep_dead_letters(100)
    assert_type(store, creche.DeadLetters)
    assert_type(runtime.dead_letters, creche.DeadLetters | None)
    assert_type(store.list(path="root"), list[creche.LostMessage])
    assert_type(store.replay(*store.list(), reason="crash"), int)
    assert_type(store.discard(), int)


def told(error: creche.OutcomeUnknown) -> None:
    """What each attempt died of."""
    assert_type(error.causes, tuple[Exception, ...])
