"""`creche chaos`: Ctrl-C, mistakes, shrinking of apps. What else the command does: tests/examples/test_bank.py."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

import creche
from creche import chaos
from creche.chaos.live import Opened
from creche.runtime.cli import main
from examples.chaos.bank import BANK, pay

APP, HERE = "examples.chaos.bank:app", "tests.chaos.test_command"
TORN = ["tests.chaos.apps:torn", "--load", "tests.chaos.apps:transfers", "--virtual", "--seed", "1", "--every", "300ms"]


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


RUNS: list[int] = []


async def fails_and_ctrl_c(world: chaos.World) -> None:
    """In the third run, which is one of those that look for a smaller plan."""
    RUNS.append(world.seed)
    async with creche.open_runtime("r") as runtime, world.unleashed(runtime):
        if len(RUNS) == 3:
            signal.raise_signal(signal.SIGINT)
    raise ValueError("fails")


def test_ctrl_c_ends_the_search_for_a_smaller_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """The smallest so far is told."""
    RUNS.clear()
    assert main(["chaos", f"{HERE}:fails_and_ctrl_c", "--shrink"]) == 1
    out, err = capsys.readouterr()
    assert len(RUNS) == 3
    assert "interrupted; the smallest plan so far" in err
    assert "ValueError: fails" in out


# --- mistakes -------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that go wrong, each in its way."""
    for name, text in {"syntax": "def (", "raises": "raise KeyError('x')", "exits": "import sys; sys.exit(0)"}.items():
        (tmp_path / f"broken_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("command", ["chaos", "run", "config check"])
@pytest.mark.parametrize(
    ("module", "how"),
    [
        ("broken_syntax", "SyntaxError: "),
        ("broken_raises", "KeyError: 'x', in "),
        ("broken_exits", "SystemExit: 0, in "),
    ],
)
@pytest.mark.usefixtures("broken")
def test_a_module_that_cannot_be_imported_is_a_mistake(
    command: str, module: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), f"{module}:app"]) == 2
    assert f"{module} cannot be imported: {how}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--load", "tests.chaos.apps:no_load"], "not an async function of a World and"),
        (["--load", "tests.chaos.apps:LEDGER"], "not an async function of a World and"),
        (["--save-plan", "no/such/folder/plan.json"], "there is no such folder"),
        (["--weight", "kill=inf"], "finite numbers"),
        (["--weight", "act=1"], "nothing that may be hit can suffer it"),
        ([*(part for kind in chaos.plan.WEIGHTS for part in ("--weight", f"{kind}=0"))], "no kind of fault is left"),
        (["--only", "nosuch/*"], "a pattern that a path matches, of which there are root, root/service"),
    ],
)
def test_what_would_show_nothing_is_a_mistake(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chaos", "tests.chaos.apps:torn", "--virtual", *arguments]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--seeds", "0"], ["--seeds", "-2"], ["--for", "inf"], ["--healthy-within", "-1"], ["--patience", "nan"]],
)
def test_numbers_that_make_no_sense_are_mistakes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["chaos", "tests.chaos.apps:torn", *arguments])
    assert ended.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_a_scenario_takes_no_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chaos", "tests.chaos.scenarios:torn", "--load", "tests.chaos.apps:transfers"]) == 2
    assert "without --load" in capsys.readouterr().err


def test_a_config_that_is_wrong_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[clog]\nlevel = "frob"\n')
    done = subprocess.run(
        [sys.executable, "-m", "creche", "chaos", "tests.chaos.apps:logged", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "$.clog.level = 'frob'" in done.stderr


# --- plans and shrinking --------------------------------------------------------------------------


def test_the_plan_of_an_app_is_shrunk_in_processes_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a fault has broken in the app's module stays broken here: any plan would seem to fail."""
    file = tmp_path / "plan.json"
    assert main(["chaos", *TORN, "--for", "3s", "--shrink", "--save-plan", str(file)]) == 1
    assert "shrunk to 1:" in capsys.readouterr().out
    stored: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    assert (len(stored["steps"]), stored["for"]) == (1, 3.0)
    assert len(chaos.Plan.from_json(file.read_bytes()).steps) == 1
    replayed = subprocess.run(
        [sys.executable, "-m", "creche", "chaos", *TORN, "--plan", str(file)], capture_output=True, check=False
    )
    assert replayed.returncode == 1
    nothing = '{"seed": 1, "steps": [], "for": 3.0}'
    file.write_text(nothing)
    replayed = subprocess.run(
        [sys.executable, "-m", "creche", "chaos", *TORN, "--plan", str(file)], capture_output=True, check=False
    )
    assert replayed.returncode == 0


def test_a_plan_is_not_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An app is worked until its last step at least."""
    file = tmp_path / "plan.json"
    file.write_bytes(chaos.Plan(1, (chaos.Step(20, "root/service/bank", chaos.Kill()),)).to_json())
    assert main(["chaos", APP, "--virtual", "--plan", str(file)]) == 0
    assert "kill 1" in capsys.readouterr().out
    assert main(["chaos", APP, "--virtual", "--plan", str(file), "--for", "19"]) == 2
    assert "the plan's last step comes after 20 s" in capsys.readouterr().err


def test_lines_of_json_stand_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """What an app writes to the standard output goes to the other one."""
    assert main(["chaos", "tests.chaos.apps:logged", "--virtual", "--for", "1", "--seeds", "2", "--json"]) == 0
    out, err = capfd.readouterr()
    assert [msgspec.json.decode(line)["held"] for line in out.splitlines()] == [True, True]
    assert "Ready" in err
