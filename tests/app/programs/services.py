"""Small apps that tests run as processes of their own, by name."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

import creche


class Worker(creche.Actor):
    async def crash(self) -> None:
        raise RuntimeError("a bug in the worker")

    async def exit_with(self, status: int) -> None:
        sys.exit(status)

    async def swallow_cancels(self) -> None:
        while True:
            try:
                await trio.sleep(60)
            except trio.Cancelled:
                pass


def _app(
    intensity: creche.Intensity | None = None, stop_within: float = 30.0
) -> tuple[creche.App, creche.Handle[Worker]]:
    app = creche.App("service", intensity=intensity, stop_within=stop_within)
    return app, app.use(creche.child(Worker))


quiet, _ = _app()


@quiet.main
async def serve_until_told(running: creche.Running) -> None:
    print("running", flush=True)
    await trio.sleep_forever()


returns, _ = _app()


@returns.main
async def serve_nothing(running: creche.Running) -> None:
    print(running.tree(), flush=True)


crashes, _crashing = _app(intensity=creche.Intensity(0, 60))


@crashes.main
async def crash_the_worker(running: creche.Running) -> None:
    try:
        await _crashing.ask.crash()
    except creche.CallFailed:
        await trio.sleep_forever()


exits, _exiting = _app()


@exits.main
async def exit_from_a_handler(running: creche.Running) -> None:
    await _exiting.ask.exit_with(7)


raises, _ = _app()


@raises.main
async def raise_in_the_body(running: creche.Running) -> None:
    raise ValueError("a bug in the body")


stubborn, _stubborn = _app(stop_within=0.2)


@stubborn.main
async def hold_on(running: creche.Running) -> None:
    await _stubborn.cast(Worker.swallow_cancels)
    print("running", flush=True)
    await trio.sleep_forever()


patient, _patient = _app(stop_within=3600.0)


@patient.main
async def hold_on_for_long(running: creche.Running) -> None:
    await _patient.cast(Worker.swallow_cancels)
    print("running", flush=True)
    await trio.sleep_forever()


stubborn_too, _stubborn_too = _app(stop_within=0.2)


@stubborn_too.main
async def raise_beside_it(running: creche.Running) -> None:
    await _stubborn_too.cast(Worker.swallow_cancels)
    await trio.sleep(0.1)
    raise ValueError("a bug in the body")


class Slow(creche.Actor):
    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        print("running", flush=True)
        await trio.sleep(3600)
        yield


slow = creche.App("service")
slow.use(creche.child(Slow))


def __getattr__(name: str) -> creche.App:
    if name == "misused":
        return MisusedApp("service")
    raise AttributeError(f"no app of the name {name}")


class MisusedApp(creche.App):
    """An app whose tree is found to be wrong when it is built."""

    def run_until_complete(self, serve: object = None) -> int:
        self.use(creche.child(Worker).options(name="one", layer="service"))
        self._used.append(self._used[0])
        return super().run_until_complete()
