"""The demo, small: it holds for the service as it is, and it finds a planted fault."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from examples.message_service.demo import Plan, run_demo

ROOT = Path(__file__).parents[2]


def say_nothing(text: str) -> None:
    pass


async def test_under_the_killer_everything_accepted_is_stored_published_and_counted_once(tmp_path: Path) -> None:
    plan = Plan(count=400, clients=8, seed=3, kill_every=0.02, restarts_wanted=20)
    result = await run_demo(plan, tmp_path, say_nothing)
    assert result.findings.problems == ()
    assert result.findings.holds
    assert result.findings.accepted == 400
    assert result.restarts >= 20
    assert result.exit_status == 0


async def test_the_audit_finds_a_service_that_acknowledges_before_it_commits(tmp_path: Path) -> None:
    plan = Plan(
        count=300,
        clients=8,
        seed=3,
        kill_every=0.02,
        restarts_wanted=20,
        settle_within=3.0,
        server="tests.examples.faulty_server",
    )
    result = await run_demo(plan, tmp_path, say_nothing)
    assert not result.findings.holds
    assert result.findings.lost > 0


def test_ctrl_c_stops_the_demo_and_both_its_processes() -> None:
    command = [sys.executable, "-m", "examples.message_service.demo", "--count", "10000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert "the service runs at" in demo.stdout.readline()
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "everything has been stopped" in out
    assert err == ""
