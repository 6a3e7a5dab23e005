"""What an actor keeps beyond one incarnation, and what it lends to its handles."""

from __future__ import annotations

from functools import partial

import pytest

import creche
from tests.core.support import Boom, Flag, Probe, recorded


async def test_kept_resources_outlive_incarnations() -> None:
    """`context.keep` makes a resource once, gives it to every incarnation, and closes all in reverse at the
    final stop."""
    log: list[str] = []

    class Keeping(Probe):
        def __init__(self) -> None:
            super().__init__(log)
            for name in ("port", "file"):
                self.context.keep(name, partial(self._make, name), self._close)

        def _make(self, name: str) -> str:
            log.append(f"make {name}")
            return name

        def _close(self, name: str) -> None:
            log.append(f"close {name}")

    async with creche.open_runtime("t") as runtime:
        keeping = await runtime.start(creche.child(Keeping))
        runtime.kill(keeping, "now")
        assert await keeping.ask.life() == 2
        assert log == ["make port", "make file"]
        await runtime.stop(keeping)
        assert log == ["make port", "make file", "close file", "close port"]


async def test_kept_resources_are_closed_after_a_failed_start_and_a_failing_close() -> None:
    """What was kept is closed although the start fails, and although another close raises."""
    log: list[str] = []

    class Keeping(Probe):
        def __init__(self) -> None:
            self.context.keep("a", lambda: "a", log.append)
            self.context.keep("b", lambda: "b", lambda _: 1 / 0)
            raise Boom("no")

    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        with pytest.raises(creche.StartFailed):
            await runtime.start(creche.child(Keeping))
        assert log == ["a"]
        assert "BadStop" in [event.kind for event in seen]


async def test_leases_end_with_their_incarnation() -> None:
    """A lease is revoked before the successor is constructed, and when another one is granted."""
    log: list[str] = []

    class Lending(Probe):
        def __init__(self) -> None:
            super().__init__(log)
            log.append(f"init {self.context.incarnation}")
            self.context.grant(Flag(log, f"{self.context.incarnation}a"))
            self.context.grant(Flag(log, f"{self.context.incarnation}b"))

    async with creche.open_runtime("t") as runtime:
        lending = await runtime.start(creche.child(Lending))
        with pytest.raises(creche.OutcomeUnknown):
            await lending.ask.crash()
        await lending.ask.life()
        assert log == ["init 1", "revoked 1a", "revoked 1b", "init 2", "revoked 2a"]
    assert log[-1] == "revoked 2b"
