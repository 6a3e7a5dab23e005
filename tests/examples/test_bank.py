"""The bank under chaos: it holds, its careless twin does not, and the live one does from the command line."""

from __future__ import annotations

import pytest
import trio

import creche
from creche import chaos
from creche.runtime.cli import main
from examples.chaos.bank import Bank, InsufficientFunds, Ledger, build, pay
from examples.chaos.scenario import careless, transfers


def test_the_bank_holds() -> None:
    chaos.check(transfers, 100)


def test_the_careless_bank_is_found_out() -> None:
    (finding,) = chaos.explore(careless, range(400)).findings
    assert isinstance(finding.shrunk.failure, chaos.Violated)
    assert len(finding.shrunk.plan.steps) <= 2


async def test_money_is_transferred_once() -> None:
    ledger = Ledger()
    app, bank = build(ledger)
    async with app.open():
        for _ in range(2):
            assert await pay(bank, "t1", "ada", "grace", 30)
        assert ledger.balances == {"ada": 70, "edsger": 100, "grace": 130}
        with pytest.raises(InsufficientFunds):
            await bank.ask.transfer("t2", "ada", "grace", 71)


def test_the_live_bank_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """On the real clock, for a moment."""
    load = "examples.chaos.bank:load"
    status = main(["chaos", "examples.chaos.bank:app", "--load", load, "--for", "0.4", "--every", "0.05"])
    out = capsys.readouterr().out
    assert status == 0, out
    assert "held" in out
    assert "restarts" in out


def test_the_bank_in_virtual_time_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["chaos", "examples.chaos.bank:app", "--virtual", "--for", "30s", "--seeds", "3", "--json"]
    assert main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_what_is_violated_is_told_by_the_exit_status(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    plan = tmp_path_factory.mktemp("plan") / "plan.json"
    arguments = ["chaos", "examples.chaos.scenario:careless", "--seeds", "400", "--shrink", "--save-plan", str(plan)]
    assert main(arguments) == 1
    assert "def test_chaos_seed_" in capsys.readouterr().out
    assert main(["chaos", "examples.chaos.scenario:careless", "--plan", str(plan)]) == 1
    assert main(["chaos", "examples.chaos.scenario:transfers", "--plan", str(plan)]) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing"], "module:attribute"),
        (["examples.chaos.bank:LEDGER"], "neither a creche.App nor"),
        (["examples.chaos.bank:app", "--plan", "no-such-file"], "no-such-file"),
        (["examples.chaos.bank:app", "--weight", "explode=1"], "kinds of faults"),
    ],
)
def test_what_cannot_be_carried_out_is_said(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chaos", *arguments]) == 2
    assert complaint in capsys.readouterr().err


async def test_an_app_is_healthy_when_all_run() -> None:
    app, bank = build(Ledger(), Bank)
    async with app.open() as running:
        assert chaos.healthy(running.runtime)
        running.runtime.kill(bank, "test")
        running.runtime.node_of(bank)
        await trio.lowlevel.checkpoint()
        await bank.ask.transfer("t", "ada", "grace", 1)
        assert chaos.healthy(running.runtime)
        await running.runtime.stop(bank)
        assert not chaos.healthy(running.runtime)
        with pytest.raises(creche.ActorStopped):
            await bank.ask.transfer("t2", "ada", "grace", 1)
