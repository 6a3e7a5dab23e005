"""`creche chaos` and Ctrl-C. What else the command does: tests/examples/test_bank.py."""

from __future__ import annotations

import signal

import pytest
import trio

from creche import chaos
from creche.chaos.live import Opened
from creche.runtime.cli import main
from examples.chaos.bank import BANK, pay

APP, HERE = "examples.chaos.bank:app", "tests.chaos.test_command"


async def load_and_ctrl_c(world: chaos.World, opened: Opened) -> None:
    await pay(BANK, f"transfer of {id(world)}", "ada", "grace", 1)
    signal.raise_signal(signal.SIGINT)
    await trio.sleep_forever()


async def load_and_ctrl_c_twice(world: chaos.World, opened: Opened) -> None:
    await pay(BANK, f"transfer of {id(world)}", "ada", "grace", 1)
    signal.raise_signal(signal.SIGINT)
    with trio.CancelScope(shield=True):
        await trio.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()


async def scenario_and_ctrl_c(world: chaos.World) -> None:
    signal.raise_signal(signal.SIGINT)
    await trio.sleep(1)


def test_ctrl_c_ends_a_live_run_and_tells_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the plan, an hour long, nor further seeds are waited for; what must hold is looked at."""
    options = ["--for", "1h", "--every", "10m", "--seeds", "1000"]
    assert main(["chaos", APP, "--load", f"{HERE}:load_and_ctrl_c", *options]) == 0
    out = capsys.readouterr().out
    assert out.count("seed ") == 1
    assert "held" in out
    assert "value 1" in out


@pytest.mark.parametrize(
    "arguments",
    [
        [APP, "--load", f"{HERE}:load_and_ctrl_c_twice", "--for", "1h", "--every", "10m"],
        [f"{HERE}:scenario_and_ctrl_c"],
    ],
)
def test_ctrl_c_elsewhere_ends_the_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chaos", *arguments]) == 130
    assert "interrupted" in capsys.readouterr().err
